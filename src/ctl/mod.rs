//! ringctl: the cluster from the command line. Built on the client library alone; needs no io_uring.
//!
//! Data goes to standard output, everything else to standard error; how each command ends is one of the exit codes
//! that its help lists.

mod args;
mod console;
mod data;
mod exit;
mod export;
mod import;
mod import_batch;
mod record;
mod status;
mod text;

use self::args::{Command, Global, Ringctl};
use self::console::Console;
use self::data::Spelling;
use self::exit::{Exit, Refusal, output_failed, usage};
use crate::client::Client;
use crate::program::manual::{completions, write_pages};
use clap::{CommandFactory as _, Parser as _};
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

/// Runs a command line, its first word being the program's name, to its end.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = match Ringctl::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::USAGE } else { Exit::OK };
            // Help that nobody reads to its end is no failure.
            error.print().ok();
            return exit.into();
        }
    };
    let mut console = Console::of_process(parsed.global.output);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let exit = match runtime {
        Ok(runtime) => runtime.block_on(finish(&parsed, &mut console)),
        Err(error) => {
            console.note(&format!("error: cannot start: {error}"));
            Exit::USAGE
        }
    };
    exit.into()
}

/// Carries a command out, and says on standard error why it could not be.
async fn finish(parsed: &Ringctl, console: &mut Console) -> Exit {
    let done = execute(parsed, console).await;
    // What was answered before a failure is shown before it.
    let flushed = console.flush();
    match done.and_then(|exit| flushed.map(|()| exit)) {
        Ok(exit) => exit,
        Err(failure) => {
            if !failure.what.is_empty() {
                console.note(&failure.to_string());
            }
            failure.exit
        }
    }
}

async fn execute(parsed: &Ringctl, console: &mut Console) -> Result<Exit, Refusal> {
    let global = &parsed.global;
    let spelling = Spelling { hex: global.hex };
    match &parsed.command {
        Command::Get { key } => data::get(&connect(global).await?, key, spelling, console).await,
        Command::Put(args) => data::put(&connect(global).await?, args, spelling, console).await,
        Command::Del { keys } => data::del(&connect(global).await?, keys, spelling, console).await,
        Command::Exists { keys } => data::exists(&connect(global).await?, keys, spelling, console).await,
        Command::Ttl { key } => data::ttl(&connect(global).await?, key, now_ms(), spelling, console).await,
        Command::Mget { keys, file } => {
            data::mget(&connect(global).await?, keys, file.as_deref(), spelling, console).await
        }
        Command::Scan(args) => data::scan(&connect(global).await?, args, spelling, console).await,
        Command::Import(args) => import::import(&connect(global).await?, args, now_ms(), console).await,
        Command::Export { prefix } => {
            export::export(&connect(global).await?, prefix, spelling, console).await
        }
        Command::Status => status::status(&connect(global).await?, console).await,
        Command::Health { wait } => status::health(global, *wait, console).await,
        Command::Completions { shell } => {
            console.raw(completions(Ringctl::command(), *shell).as_bytes()).map(|()| Exit::OK)
        }
        Command::Man { directory } => manual(directory.as_deref(), console),
        Command::Version => console.line(concat!("ringctl ", env!("CARGO_PKG_VERSION"))).map(|()| Exit::OK),
    }
}

async fn connect(global: &Global) -> Result<Client, Refusal> {
    let builder = Client::builder().endpoints(global.endpoints.iter().map(String::as_str));
    Ok(builder.level(global.level.into()).deadline(global.timeout).connect().await?)
}

fn manual(directory: Option<&Path>, console: &mut Console) -> Result<Exit, Refusal> {
    match directory {
        Some(directory) => {
            write_pages(Ringctl::command(), directory).map_err(|error| {
                usage(format!("cannot write the pages into {}: {error}", directory.display()))
            })?;
        }
        None => clap_mangen::Man::new(Ringctl::command())
            .render(&mut console.out)
            .map_err(|error| output_failed(&error))?,
    }
    Ok(Exit::OK)
}

/// Milliseconds since 1970 on this machine.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
