//! Who belongs to the cluster and which of them own a slot: decided values, how they change, and no opinions about who
//! is alive.

pub mod change;
pub mod control;
mod encoding;
pub mod epoch;
pub mod messages;
pub mod paxos;
mod placement;
pub mod ring;
pub mod slot_set;
pub mod slots;
