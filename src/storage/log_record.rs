//! What the log says: a closed, versioned list of record kinds.
