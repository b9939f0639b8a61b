//! Who belongs to the cluster and which of them own a slot: decided values, how they change, and no opinions about who
//! is alive.

pub mod change;
mod encoding;
pub mod epoch;
pub mod paxos;
mod placement;
pub mod ring;
pub mod slots;
