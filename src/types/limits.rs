//! The limits that a user meets, with their defaults. Reaching one is an error to the one who caused it.

/// Sizes and times that bound what a request may ask for. Configurable; the defaults are the documented ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a key; at least 1 is always needed.
    pub key_bytes_max: usize,
    /// Bytes of a value; 0 is allowed.
    pub value_bytes_max: usize,
    /// Bytes of a message.
    pub message_bytes_max: usize,
    /// Keys of a batch.
    pub batch_keys_max: usize,
    /// Longest time to live, milliseconds.
    pub ttl_ms_max: u64,
    /// Deadline of a request that names none, milliseconds.
    pub deadline_ms_default: u64,
    /// Longest deadline; a longer or unreadable one means this, milliseconds.
    pub deadline_ms_max: u64,
    /// How far ahead of this node's clock a foreign version may lie, milliseconds.
    pub skew_ms_max: u64,
    /// How long an operation's identity is remembered, milliseconds.
    pub identity_ms: u64,
    /// Operation identities remembered per core.
    pub identities_max: usize,
    /// Bytes of replaced values kept for repeated operations, per core.
    pub identity_value_bytes_max: usize,
    /// Operations that wait on one core for their quorum.
    pub operations_max: usize,
    /// Bytes of records that wait on one core for the log.
    pub gathering_bytes_max: usize,
    /// Bytes of answers to reads that wait on one core for the log.
    pub held_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            key_bytes_max: 4_096,
            value_bytes_max: 1 << 20,
            message_bytes_max: 4 << 20,
            batch_keys_max: 10_000,
            ttl_ms_max: 10 * 365 * 24 * 3_600 * 1_000,
            deadline_ms_default: 10_000,
            deadline_ms_max: 60_000,
            skew_ms_max: 500,
            identity_ms: 600_000,
            identities_max: 1 << 20,
            identity_value_bytes_max: 16 << 20,
            operations_max: 65_536,
            gathering_bytes_max: 8 << 20,
            held_bytes_max: 32 << 20,
        }
    }
}
