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
    let filter = EnvFilter::builder().parse(&settings.log_level).expect("the settings were judged");
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
