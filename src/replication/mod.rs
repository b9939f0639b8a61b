//! From one core's data to a replicated key: what a replica answers, what a coordinator concludes. Knows no network.

pub mod coordinator;
pub mod ever_held;
pub mod exchange;
pub mod forward;
pub mod messages;
pub mod quorum;
pub mod read;
pub mod replica;
pub mod write;
