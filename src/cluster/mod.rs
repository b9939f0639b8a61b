//! Who belongs to the cluster and which of them own a slot: decided values and how they change; and, apart from them, one
//! node's opinion of who is alive.

pub mod change;
mod encoding;
pub mod epoch;
pub mod liveness;
mod placement;
pub mod ring;
pub mod slots;
