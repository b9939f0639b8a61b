//! Order-independent sums over a slot's records.
