//! gRPC: the only place that names tonic, prost and hyper. Moves messages between connections and the owner of a
//! [`backend::Backend`]; decides nothing about keys, quorums or members.
//!
//! A connection is served by [`server::Server::serve`] on the core that it was placed on. A call's life: `connection`
//! (hyper's HTTP/2, limits, time-outs) → `router` (path, deadline) → `codec` (one message, within its limit and the
//! core's budget) → `seed`, `kv`, `cluster`, … (wire message to [`crate::types::request::Request`] and back) →
//! `status` (a failure's code and detail).

/// Messages generated from `proto/`.
pub mod proto;
/// Which gRPC status a failure is.
pub mod status;

#[cfg(feature = "server")]
mod admin;
#[cfg(feature = "server")]
pub mod backend;
#[cfg(feature = "server")]
mod batch;
#[cfg(feature = "server")]
mod body;
#[cfg(feature = "server")]
mod budget;
#[cfg(feature = "server")]
pub(crate) mod call;
#[cfg(feature = "server")]
mod cluster;
#[cfg(feature = "server")]
mod codec;
#[cfg(feature = "server")]
mod connection;
#[cfg(feature = "server")]
mod health;
#[cfg(feature = "server")]
pub mod http1;
#[cfg(feature = "server")]
pub mod io;
#[cfg(feature = "server")]
mod kv;
#[cfg(feature = "server")]
pub mod peer;
#[cfg(feature = "server")]
mod pipeline;
#[cfg(feature = "server")]
mod reflection;
#[cfg(feature = "server")]
mod room;
#[cfg(feature = "server")]
mod router;
#[cfg(feature = "server")]
mod scan;
#[cfg(feature = "server")]
mod seed;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod stats;
#[cfg(feature = "server")]
mod sync_keys;
#[cfg(feature = "server")]
mod timer;
