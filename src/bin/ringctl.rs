//! The cluster from the command line: see [`ringcore::ctl`].

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ringcore::ctl::run(std::env::args_os())
}
