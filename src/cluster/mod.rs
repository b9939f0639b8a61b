//! Who belongs to the cluster and which of them own a slot: decided values, no opinions about who is alive.

pub mod epoch;
mod placement;
pub mod ring;
