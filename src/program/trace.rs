//! Diagnostics to stderr: text for people, JSON for machines. A reader that stalls costs lines, never a core's time.

use std::io::{self, IsTerminal as _};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use super::exit::{Exit, Refusal};
use super::settings::{LogFormat, Settings};

/// Lines that wait for stderr; more are dropped and counted.
const LINES_MAX: usize = 8_192;

/// Keeps the writing thread alive; dropping it writes what waits.
pub struct Trace {
    dropped: ErrorCounter,
    _guard: WorkerGuard,
}

impl Trace {
    /// Lines dropped so far because stderr was too slow.
    pub fn dropped_lines(&self) -> usize {
        self.dropped.dropped_lines()
    }
}

/// Turns diagnostics on for the whole process; once.
///
/// # Errors
/// They are on already.
pub fn init(settings: &Settings) -> Result<Trace, Refusal> {
    let builder = NonBlockingBuilder::default();
    let builder = builder.lossy(true).buffered_lines_limit(LINES_MAX).thread_name("ringcore-trace");
    let (writer, guard) = builder.finish(io::stderr());
    let trace = Trace { dropped: writer.error_counter(), _guard: guard };
    let terminal = io::stderr().is_terminal();
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|text| text.is_empty());
    let filter = filter(&settings.log_level);
    let json = match settings.log_format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let subscriber = fmt().with_writer(NonBlocking::clone(&writer)).with_env_filter(filter);
    let outcome = if json {
        subscriber.json().flatten_event(true).with_current_span(false).try_init()
    } else {
        subscriber.with_ansi(colour).try_init()
    };
    outcome
        .map_err(|error| Refusal::new(Exit::FAILURE, format!("diagnostics cannot be turned on: {error}")))?;
    Ok(trace)
}

/// What was asked for; and of HTTP/2 only errors unless that was asked for: it warns of each connection that misbehaves,
/// so anybody could fill the disk with lines.
fn filter(log_level: &str) -> EnvFilter {
    let names_h2 = log_level.split(',').any(|directive| directive.trim_start().starts_with("h2"));
    let text = if names_h2 { log_level.to_owned() } else { format!("h2=error,{log_level}") };
    EnvFilter::builder().parse(text).expect("the settings were judged")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h2_speaks_of_errors_only_unless_it_is_named() {
        assert_eq!(filter("info").to_string(), "h2=error,info");
        assert_eq!(filter("ringcore=debug,h2=warn").to_string(), "ringcore=debug,h2=warn");
    }
}
