//! The gRPC layer as its clients meet it: real hyper and tonic clients against [`fake::Fake`], a node in a map. Time is
//! the fake's, and moves when a test says so.
#![cfg(all(feature = "server", feature = "client"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::big_endian_bytes, reason = "HTTP/2 and gRPC are")]

mod admin_pages;
mod calls;
mod client;
mod connections;
mod fake;
mod frames;
mod glommio_shell;
mod link_shell;
mod links;
mod many_keys;
mod meta;
#[path = "../cluster/ports.rs"]
mod ports;
mod seed_api;
