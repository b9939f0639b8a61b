//! The command line of `ringcore`: which commands there are, what each may be told, and which part does it.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use super::check;
use super::config;
use super::dev::{self, DevFlags};
use super::exit::{self, Exit, Refusal};
use super::generate::Asset;
use super::inspect::{self, Output};
use super::machine::Machine;
use super::manual;
use super::settings::Settings;
use super::sources::{Flags, Gathered};
use super::start;

const EXAMPLES: &str = "\
Examples:
  ringcore dev                                  a cluster on this machine, to try things
  ringcore check --data-dir /var/lib/ringcore   is this machine fit?
  ringcore start --bootstrap                    found a cluster
  ringcore start --join n1:7718                 join it
  ringcore wal verify /var/lib/ringcore         is what a node left behind sound?

Exit codes:
  0 done   1 failed (port taken, directory locked)   2 arguments that do not parse
  74 I/O error or damaged data   77 io_uring or a permission refused   78 a setting that cannot be";

const START_NOTES: &str = "\
A flag goes before an environment variable, that before the file, the file before the default.
Limits of requests have no flags: see [limits] in `ringcore config example`.

Examples:
  ringcore start --bootstrap --name n1
  ringcore start --join n1:7718 --name n2
  ringcore start --config /etc/ringcore/ringcore.toml
  RINGCORE_BOOTSTRAP=true ringcore start --advertise n1 --listen 0.0.0.0:7717 --peer-listen 0.0.0.0:7718 --insecure";

const INSPECT_NOTES: &str = "\
Nothing is changed, no lock is taken: a node may be running. PATH is a data directory, a core's
directory, or a file of one.

Columns of dump, with tabs between and - for none: layout, core, first LSN of the batch (logs only),
kind, slot, version, expiry (ms since 1970), length of the value, key, value (with --values), the rest.

Exit codes: 0 sound   74 damaged   77 not to be read   78 not of a data directory";

#[derive(Parser)]
#[command(name = "ringcore", version, about = "A node of a replicated key-value store", after_help = EXAMPLES)]
#[command(max_term_width = 110, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node
    #[command(after_help = START_NOTES)]
    Start {
        #[command(flatten)]
        flags: Flags,
    },
    /// Run a cluster on this machine, to try things; Ctrl-C stops it
    #[command(
        after_help = "Examples:\n  ringcore dev\n  ringcore dev --nodes 3\n  ringcore dev -- --cores 2 --log-level debug\n\n\
        RINGCORE_* variables are not passed on to the nodes."
    )]
    Dev {
        #[command(flatten)]
        flags: DevFlags,
    },
    /// Is this machine fit to run a node with these settings?
    #[command(
        after_help = "Exit codes: 0 fit; 77 or 78 if `start` would end so; with --strict, 1 for warnings"
    )]
    Check {
        /// Table or JSON
        #[arg(short, long, value_enum, default_value_t = Output::Table, value_name = "FORMAT")]
        output: Output,
        /// Warnings count, too
        #[arg(long)]
        strict: bool,
        #[command(flatten)]
        flags: Flags,
    },
    /// Show settings as a TOML file
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look into a write-ahead log, offline
    #[command(subcommand, after_help = INSPECT_NOTES)]
    Wal(InspectCommand),
    /// Look into a snapshot, offline
    #[command(subcommand, after_help = INSPECT_NOTES)]
    Snapshot(InspectCommand),
    /// Print a file for the machine around the node
    #[command(after_help = "Examples:\n  \
        ringcore generate systemd | sudo tee /etc/systemd/system/ringcore.service\n  \
        ringcore generate seccomp > ringcore-seccomp.json; docker run --security-opt seccomp=ringcore-seccomp.json ...")]
    Generate {
        /// Which one
        #[arg(value_enum)]
        file: Asset,
    },
    /// Print a completion script
    #[command(after_help = "Example:\n  ringcore completions bash > /etc/bash_completion.d/ringcore")]
    Completions {
        /// For which shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write the man pages
    Man {
        /// Where to; made if absent
        #[arg(default_value = ".")]
        dir: PathBuf,
    },
    /// Print the version
    Version,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// A file with every setting and its default
    Example,
    /// The settings in force, as `start` would take them
    Print {
        /// Say where each comes from: default, FILE:LINE, environment, flag
        #[arg(long)]
        origin: bool,
        #[command(flatten)]
        flags: Box<Flags>,
    },
}

#[derive(Subcommand)]
enum InspectCommand {
    /// Read everything and say what is damaged; exit code 74 if anything is
    Verify {
        /// Table or JSON
        #[arg(short, long, value_enum, default_value_t = Output::Table, value_name = "FORMAT")]
        output: Output,
        /// A data directory, a core's directory, or a file of one
        path: PathBuf,
    },
    /// List the records that can be read; exit code 74 if something could not
    Dump {
        /// Show values, too
        #[arg(long)]
        values: bool,
        /// Tab-separated lines or JSON objects
        #[arg(short, long, value_enum, default_value_t = Output::Table, value_name = "FORMAT")]
        output: Output,
        /// A data directory, a core's directory, or a file of one
        path: PathBuf,
    },
}

/// Does what the arguments say; the first is the program's name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let command = match CommandLine::try_parse_from(arguments) {
        Ok(line) => line.command,
        Err(error) => {
            // A closed pipe behind `--help` is no failure, and stderr has nobody to be told of.
            error.print().ok();
            return if error.use_stderr() { Exit::USAGE } else { Exit::OK };
        }
    };
    match command {
        Command::Start { flags } => with_settings(&flags, |settings, _| start::run(settings)),
        Command::Dev { flags } => dev::run(&flags),
        Command::Check { output, strict, flags } => {
            with_settings(&flags, |settings, machine| check::run(settings, machine, output, strict))
        }
        Command::Config(ConfigCommand::Example) => exit::print(&config::example()),
        Command::Config(ConfigCommand::Print { origin, flags }) => {
            with_settings(&flags, |settings, _| exit::print(&config::print(settings, origin)))
        }
        Command::Wal(InspectCommand::Verify { output, path }) => inspect::verify_log(&path, output),
        Command::Wal(InspectCommand::Dump { values, output, path }) => {
            inspect::dump_log(&path, output, values)
        }
        Command::Snapshot(InspectCommand::Verify { output, path }) => inspect::verify_snapshot(&path, output),
        Command::Snapshot(InspectCommand::Dump { values, output, path }) => {
            inspect::dump_snapshot(&path, output, values)
        }
        Command::Generate { file } => exit::print(file.text()),
        Command::Completions { shell } => exit::print(&manual::completions(CommandLine::command(), shell)),
        Command::Man { dir } => man(&dir),
        Command::Version => exit::print(concat!("ringcore ", env!("CARGO_PKG_VERSION"), "\n")),
    }
}

/// The command line as clap knows it, for completions, man pages and their tests.
pub fn command_line() -> clap::Command {
    CommandLine::command()
}

fn with_settings(flags: &Flags, act: impl FnOnce(&Settings, &Machine) -> Exit) -> Exit {
    let machine = Machine::of_this_process();
    let gathered = Gathered::new(flags, env::vars_os());
    match gathered.and_then(|gathered| Settings::new(&gathered, &machine)) {
        Ok(settings) => act(&settings, &machine),
        Err(refusals) => exit::refuse(&refusals),
    }
}

fn man(dir: &Path) -> Exit {
    match manual::write_pages(CommandLine::command(), dir) {
        Ok(pages) => {
            exit::print(&pages.iter().map(|page| format!("{}\n", page.display())).collect::<String>())
        }
        Err(error) => {
            let what = format!("cannot write man pages to {}: {error}", dir.display());
            exit::refuse(&[Refusal::new(Exit::IO, what)])
        }
    }
}
