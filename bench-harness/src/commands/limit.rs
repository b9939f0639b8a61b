//! `ringbench limit`: the same calls against a service that answers at once, on the node's own stack or on tonic and hyper
//! as they come: what gRPC itself costs here.

use super::Task;
use crate::empty::Stack;
use crate::load::Pace;
use crate::process::{Kind, Server};
use crate::target::Target;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The command line.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Limit {
    /// What stands between the sockets and the answers.
    #[arg(long, value_enum, default_value_t = Stack::Node)]
    stack: Stack,
    /// Cores of the service, as `ringcore start --cores`: how many, or FIRST-LAST.
    #[arg(long, value_name = "N|FIRST-LAST", default_value = "1")]
    server_cores: String,
    /// Requests in flight, over all connections.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    inflight: u32,
    /// Where the service may leave its trace.
    #[arg(long, value_name = "DIR", default_value = "target/ringbench")]
    dir: PathBuf,
    #[command(flatten)]
    task: Task,
}

/// Runs it.
pub(crate) fn run(told: &Limit, stop: &Arc<AtomicBool>) -> Result<(), Box<dyn Error>> {
    let server = Server::start(&Kind::Empty(told.stack), &told.server_cores, &told.dir.join("limit"))?;
    let pace = Pace::Closed { in_flight: told.inflight as usize };
    let mut task = told.task.clone();
    task.measured.server_pid = Some(server.pid());
    let target = Target { addresses: vec![server.address], ..task.asked.target()? };
    let driven = task.drive(pace, &target, "a service that answers at once".to_owned(), stop)?;
    task.report(&driven)
}
