//! From one core's data to a replicated key: what a replica answers, what a coordinator concludes. Knows no network.



pub mod quorum;

