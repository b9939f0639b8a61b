//! From one core's data to a replicated key: what a replica answers, what a coordinator concludes. Knows no network.

pub mod coordinator;
pub mod messages;
pub mod quorum;
pub mod replica;
