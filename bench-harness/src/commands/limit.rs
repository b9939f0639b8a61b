//! `ringbench limit`: the same calls against a service that answers at once, on the node's own stack or on tonic and hyper
//! as they come: what gRPC itself costs here.

use super::run::{Measured, drive};
use super::{Asked, Data, Work};
use crate::empty::Stack;
use crate::generator::{Pace, Until};
use crate::process::{Kind, Server};
use crate::report::summary;
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
    measured: Measured,
    #[command(flatten)]
    work: Work,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    asked: Asked,
}

/// Runs it.
pub(crate) fn run(told: &Limit, stop: &Arc<AtomicBool>) -> Result<(), Box<dyn Error>> {
    let server = Server::start(&Kind::Empty(told.stack), &told.server_cores, &told.dir.join("limit"))?;
    let until = Until::Time { warm_up: told.measured.warmup, measured: told.measured.duration };
    let pace = Pace::Closed { in_flight: told.inflight as usize };
    let load = told.asked.load(&told.data, &told.work, pace, until)?;
    let target = Target { addresses: vec![server.address], ..told.asked.target()? };
    let measured = Measured { server_pid: Some(server.pid()), ..told.measured.clone() };
    let driven = drive(&target, &load, &measured, "a service that answers at once".to_owned(), stop)?;
    summary::print_run(&driven.result);
    if let Some(dir) = &told.measured.out {
        crate::report::write(dir, &driven.result, &driven.log)?;
        println!("report: {}", dir.join("report.html").display());
    }
    Ok(())
}
