//! gRPC: the only place that names tonic, prost and hyper.

/// Messages generated from `proto/`.
pub mod proto;
