//! The node: arguments in, an exit code out. Everything between is in `program`.

use std::process::ExitCode;

/// Faster than the system's for many small allocations on pinned threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ringcore::program::command::run(std::env::args_os()).into()
}
