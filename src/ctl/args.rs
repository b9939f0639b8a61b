//! ringctl's command line, and nothing of what it does.

use super::console::Format;
use super::text::parse_span;
use crate::client::Level;
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use std::path::PathBuf;
use std::time::Duration;

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  negative answer: no such key
  2  the command cannot be carried out as typed
  3  no node serves at the endpoints
  4  deadline or quorum missed; of a write the outcome may be unknown
  5  not healthy
  6  a node refused

Examples:
  ringctl put user:42 Ada --ttl 1h
  ringctl get user:42
  ringctl put photo @photo.jpg
  ringctl export --prefix user: > users.jsonl
  ringctl import users.jsonl";

/// Reads and writes a ringcore cluster, and shows how it is.
#[derive(Parser, Debug)]
#[command(name = "ringctl", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(super) struct Ringctl {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Global options")]
pub(super) struct Global {
    /// Nodes to talk to: the first that answers is used
    #[arg(
        short,
        long,
        global = true,
        env = "RINGCTL_ENDPOINTS",
        value_name = "HOST:PORT,…",
        value_delimiter = ',',
        default_value = "127.0.0.1:7717"
    )]
    pub(super) endpoints: Vec<String>,
    /// How many replicas must take part
    #[arg(long, global = true, env = "RINGCTL_LEVEL", value_name = "LEVEL", default_value = "quorum")]
    pub(super) level: LevelArg,
    /// How long one call may take, repetitions included
    #[arg(long, global = true, env = "RINGCTL_TIMEOUT", value_name = "DURATION", default_value = "5s",
          value_parser = parse_span)]
    pub(super) timeout: Duration,
    /// Keys and values are hexadecimal, on the command line and in the output; not in files, not in JSON
    #[arg(long, global = true)]
    pub(super) hex: bool,
    /// Form of the output [default: table on a terminal, else plain]
    #[arg(short, long, global = true, env = "RINGCTL_OUTPUT", value_name = "FORMAT")]
    pub(super) output: Option<Format>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum LevelArg {
    /// Any one replica: a read may be stale, a write is on one disk
    One,
    /// A majority of the replicas
    Quorum,
    /// Every replica
    All,
}

impl From<LevelArg> for Level {
    fn from(level: LevelArg) -> Level {
        match level {
            LevelArg::One => Level::One,
            LevelArg::Quorum => Level::Quorum,
            LevelArg::All => Level::All,
        }
    }
}

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Print a key's value: its bytes and nothing else (a newline only on a terminal)
    Get {
        /// The key
        key: String,
    },
    /// Write a value
    Put(PutArgs),
    /// Delete keys; 1 if one of them had no value
    Del {
        /// The keys
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// Is there a value, how long, which version? 1 if one of the keys has none
    Exists {
        /// The keys
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// How long a key's value still lives
    Ttl {
        /// The key
        key: String,
    },
    /// Print the values of many keys; 1 if one of them has none
    Mget {
        /// The keys
        #[arg(required_unless_present = "file")]
        keys: Vec<String>,
        /// More keys, one a line; - reads standard input
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
    },
    /// Print the records of the cluster, in no useful order
    Scan(ScanArgs),
    /// Write records, one JSON object a line: "key", "value" (or "key_b64", "value_b64"), "expires_at_ms"
    Import(ImportArgs),
    /// Print all records in the form that import reads
    Export {
        /// Only keys that begin so
        #[arg(long, value_name = "TEXT", default_value = "")]
        prefix: String,
    },
    /// Show the nodes and their cores
    Status,
    /// Does every endpoint serve? 5 if not
    Health {
        /// Ask again until they do, for at most --timeout
        #[arg(long)]
        wait: bool,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, or write those of all commands into a directory
    Man {
        /// The directory, made if it is not there
        #[arg(value_hint = ValueHint::DirPath)]
        directory: Option<PathBuf>,
    },
    /// Print the version
    Version,
}

#[derive(Args, Debug)]
pub(super) struct PutArgs {
    /// The key
    pub(super) key: String,
    /// The value; - reads standard input, @FILE a file
    #[arg(value_hint = ValueHint::Other, allow_negative_numbers = true)]
    pub(super) value: String,
    /// The value ends so long from now, as in 250ms, 60s, 12h, 7d; without it, never
    #[arg(long, value_name = "DURATION", value_parser = parse_span, conflicts_with = "expires_at_ms")]
    pub(super) ttl: Option<Duration>,
    /// The value ends at this time, milliseconds since 1970
    #[arg(long, value_name = "MS")]
    pub(super) expires_at_ms: Option<u64>,
    /// Also print the value that it replaces
    #[arg(long)]
    pub(super) previous: bool,
}

#[derive(Args, Debug)]
pub(super) struct ScanArgs {
    /// Only keys that begin so
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(super) prefix: String,
    /// At most so many records
    #[arg(long, value_name = "RECORDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) limit: Option<u64>,
    /// Leave the values out
    #[arg(long)]
    pub(super) keys_only: bool,
}

#[derive(Args, Debug)]
pub(super) struct ImportArgs {
    /// The file; - reads standard input
    #[arg(default_value = "-", value_hint = ValueHint::FilePath)]
    pub(super) file: PathBuf,
    /// Report a bad line and go on, instead of stopping there
    #[arg(long)]
    pub(super) skip_bad: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn command_line_is_consistent_and_every_argument_is_explained() {
        let mut command = Ringctl::command();
        command.build();
        command.clone().debug_assert();
        let mut commands = vec![&command];
        while let Some(command) = commands.pop() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
            commands.extend(command.get_subcommands().filter(|command| command.get_name() != "help"));
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for line in [
            "ringctl",
            "ringctl get",
            "ringctl put k",
            "ringctl put k v --ttl 60",
            "ringctl put k v --ttl 60s --expires-at-ms 7",
            "ringctl get k --timeout 0s",
            "ringctl get k --level two",
            "ringctl get k -o xml",
            "ringctl scan --limit 0",
            "ringctl mget",
            "ringctl frobnicate",
        ] {
            let error = Ringctl::try_parse_from(line.split(' ')).unwrap_err();
            assert_ne!(error.exit_code(), 0, "{line}");
        }
    }

    #[test]
    fn global_options_stand_anywhere() {
        let parsed =
            Ringctl::try_parse_from("ringctl get k -e a:1,b:2 --timeout 250ms -o json".split(' ')).unwrap();
        assert_eq!(parsed.global.endpoints, ["a:1", "b:2"]);
        assert_eq!(parsed.global.timeout, Duration::from_millis(250));
        assert_eq!(parsed.global.output, Some(Format::Json));
    }
}
