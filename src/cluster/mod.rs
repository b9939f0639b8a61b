//! Who belongs to the cluster and which of them own a slot: decided values and how they change; and, apart from them, one
//! node's opinion of who is alive.

pub mod change;
pub mod control;
mod encoding;
pub mod epoch;
pub mod liveness;
pub mod messages;
pub mod paxos;
mod placement;
pub mod ring;
pub mod slot_set;
pub mod slots;
