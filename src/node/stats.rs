//! What a core counts: plain fields, copied out by the shell at the tick.

/// Counts since the start of the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Reads answered.
    pub reads: u64,
    /// Writes acknowledged.
    pub writes: u64,
    /// Requests refused or failed, whatever the reason.
    pub failures: u64,
    /// Of these: because a budget, the memory or the disk was spent.
    pub refused_room: u64,
    /// Of these: writes that ended in doubt.
    pub in_doubt: u64,
    /// Retries that were recognised and answered again.
    pub repeats: u64,
    /// Pages of scans.
    pub pages: u64,
    /// Rounds of collection that were applied.
    pub rounds: u64,
    /// Records that they removed.
    pub collected: u64,
    /// Peers' requests that were let fall, because too many answers waited for the log.
    pub peers_unheard: u64,
    /// Peers' messages that were refused.
    pub peer_refusals: u64,
    /// Versions refused because they lie ahead of this node's clock.
    pub clock_refusals: u64,
    /// Records refused because the floor covers them.
    pub floor_refusals: u64,
    /// Writes that took another version, because somebody held a newer one.
    pub restamps: u64,
    /// Records that a read offered to replicas that did not hold them.
    pub write_backs: u64,
    /// Reads that began again.
    pub reads_again: u64,
    /// Requests handed on to another member.
    pub forwarded: u64,
    /// Requests of other members that were driven here.
    pub taken_on: u64,
    /// Messages that came with an older or a newer configuration of their slot.
    pub other_configuration: u64,
    /// Comparisons of a slot with another replica's.
    pub compared: u64,
    /// Of those begun by others: that found a difference.
    pub differences: u64,
    /// Records sent to replicas that lacked them.
    pub repaired: u64,
}
