//! What is asked of a server: which operations, on which keys, with values of which size, and when. Knows no protocol.

pub(crate) mod arrivals;
pub(crate) mod keys;
pub(crate) mod mix;
pub(crate) mod values;
