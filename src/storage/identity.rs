//! Operations that were named by their clients.
