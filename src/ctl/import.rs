//! `import`: records from JSON lines. A thread of its own reads and parses, so that neither a slow file nor a slow
//! parse holds up the batches that are under way; the channel between bounds the memory.

use super::args::ImportArgs;
use super::console::{Console, Format};
use super::exit::{Exit, REFUSED, Refusal, usage};
use super::import_batch::{Batch, Batcher, LINE_BYTES_MAX, Piece};
use super::text::show_records;
use crate::client::{Client, ClientError, Reason, Write, Written};
use crate::program::quantity::roughly_bytes;
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal as _};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Batches under way at once.
const IN_FLIGHT_MAX: usize = 4;
/// Pieces that are parsed ahead.
const PARSED_AHEAD: usize = 4;
/// A record that the node calls expired so soon after this machine thought it alive did expire: the clocks differ.
const CLOCKS_DIFFER_MS: u64 = 60_000;

/// What became of the lines so far.
#[derive(Default)]
struct Tally {
    imported: u64,
    bytes: u64,
    expired: u64,
    /// Lines that a later line of the same key replaced before they were sent.
    replaced: u64,
    bad: u64,
}

/// A batch under way.
struct Sent {
    batch: Batch,
    results: Vec<Result<Written, ClientError>>,
}

/// The sending side.
struct Importer<'a> {
    client: &'a Client,
    console: &'a mut Console,
    progress: ProgressBar,
    skip_bad: bool,
    now_ms: u64,
    in_flight: JoinSet<Sent>,
    /// Keys of the batches under way. A later line must not overtake an earlier one of the same key.
    keys: HashSet<Bytes>,
    tally: Tally,
    /// Why it ends early: the first reason found.
    failure: Option<Refusal>,
}

/// `now_ms`: milliseconds since 1970; records that ended before it are left out.
pub(super) async fn import(
    client: &Client,
    args: &ImportArgs,
    now_ms: u64,
    console: &mut Console,
) -> Result<Exit, Refusal> {
    let (input, size) = open(&args.file)?;
    let start = Instant::now();
    let (to_sender, mut pieces) = mpsc::channel(PARSED_AHEAD);
    let skip_bad = args.skip_bad;
    let reader = std::thread::spawn(move || read_pieces(input, now_ms, skip_bad, &to_sender));
    let progress = bar(console.err_is_terminal, size);
    let mut importer = Importer {
        client,
        console,
        progress,
        skip_bad,
        now_ms,
        in_flight: JoinSet::new(),
        keys: HashSet::new(),
        tally: Tally::default(),
        failure: None,
    };
    while importer.failure.is_none()
        && let Some(piece) = pieces.recv().await
    {
        importer.take(piece).await;
    }
    importer.drain().await;
    let Importer { console, progress, tally, failure, .. } = importer;
    progress.finish_and_clear();
    if failure.is_none() {
        // Otherwise it may wait for a line that never comes.
        reader.join().expect("the reader does not panic");
    }
    summarise(&tally, start, console)?;
    match failure {
        Some(failure) => Err(failure),
        None => Ok(Exit::OK),
    }
}

impl Importer<'_> {
    async fn take(&mut self, piece: Piece) {
        match piece {
            Piece::Batch(batch) => self.send(batch).await,
            Piece::Bad { line, why } => self.bad_line(Exit::USAGE, line, &why),
            Piece::Unreadable(error) => {
                self.failure = Some(usage(format!("cannot read the records: {error}")));
            }
        }
    }

    async fn send(&mut self, batch: Batch) {
        self.tally.expired += batch.expired;
        self.tally.replaced += batch.replaced;
        if batch.writes.is_empty() {
            return;
        }
        let overtakes = batch.writes.iter().any(|write| self.keys.contains(write.key()));
        while self.in_flight.len() >= IN_FLIGHT_MAX || (overtakes && !self.in_flight.is_empty()) {
            self.settle_one().await;
        }
        if self.failure.is_some() {
            return;
        }
        self.keys.extend(batch.writes.iter().map(Write::key).cloned());
        let call = self.client.batch_write(batch.writes.iter().cloned());
        self.in_flight.spawn(async move { Sent { batch, results: call.await } });
    }

    async fn drain(&mut self) {
        while !self.in_flight.is_empty() {
            self.settle_one().await;
        }
    }

    async fn settle_one(&mut self) {
        let Some(sent) = self.in_flight.join_next().await else { return };
        let Sent { batch, results } = sent.expect("a batch's task neither panics nor is cancelled");
        let soon = self.now_ms.saturating_add(CLOCKS_DIFFER_MS);
        for (index, (write, result)) in batch.writes.iter().zip(results).enumerate() {
            self.keys.remove(write.key());
            let Err(error) = result else {
                self.tally.imported += 1;
                self.tally.bytes += (write.key().len() + write.value().map_or(0, Bytes::len)) as u64;
                continue;
            };
            let ends_at_ms = batch.expiries[index];
            match error.reason() {
                Some(Reason::ExpiryInvalid) if ends_at_ms.is_some_and(|at_ms| at_ms < soon) => {
                    self.tally.expired += 1;
                }
                Some(Reason::KeyTooLong | Reason::ValueTooLarge | Reason::ExpiryInvalid) => {
                    self.bad_line(REFUSED, batch.lines[index], error.message());
                }
                Some(_) | None => {
                    let refusal = Refusal::from(error);
                    let what = format!("line {}: {}", batch.lines[index], refusal.what);
                    self.fail(Refusal { what, ..refusal });
                }
            }
        }
        self.progress.set_position(self.progress.position().max(batch.end_offset));
        self.progress.set_message(show_records(self.tally.imported));
    }

    /// A line that is no record (2), or that the node takes from nobody (6).
    fn bad_line(&mut self, exit: Exit, line: u64, why: &str) {
        self.tally.bad += 1;
        if self.skip_bad {
            self.progress.suspend(|| self.console.note(&format!("line {line}: {why}; skipped")));
        } else {
            let failure = Refusal::new(exit, format!("line {line}: {why}"));
            self.fail(failure.fix("correct it, or pass --skip-bad to go on without such lines"));
        }
    }

    fn fail(&mut self, failure: Refusal) {
        self.failure.get_or_insert(failure);
    }
}

/// Reads lines until the end, a bad one that is not to be skipped, or until nobody listens.
fn read_pieces(mut input: impl BufRead, now_ms: u64, skip_bad: bool, to: &mpsc::Sender<Piece>) {
    let mut batcher = Batcher::new(now_ms);
    let mut line = Vec::new();
    let last = loop {
        let piece = match read_line(&mut input, &mut line) {
            Ok(Some(bytes)) => batcher.line(&line, bytes),
            Ok(None) => break None,
            Err(error) => break Some(Piece::Unreadable(error)),
        };
        let Some(piece) = piece else { continue };
        if matches!(piece, Piece::Bad { .. }) && !skip_bad {
            break Some(piece);
        }
        if to.blocking_send(piece).is_err() {
            return;
        }
    };
    // The lines before the one that ended it are good.
    for piece in [batcher.finish(), last].into_iter().flatten() {
        if to.blocking_send(piece).is_err() {
            return;
        }
    }
}

/// One line without its end into `line`, at most [`LINE_BYTES_MAX`] of it; the bytes that were read. None at the end.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<u64>> {
    line.clear();
    let mut read = 0;
    loop {
        let available = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            available => available?,
        };
        if available.is_empty() {
            return Ok((read > 0).then_some(read));
        }
        let end = available.iter().position(|&byte| byte == b'\n');
        let taken = end.map_or(available.len(), |end| end + 1);
        let text = &available[..end.unwrap_or(taken)];
        let room = (LINE_BYTES_MAX + 1).saturating_sub(line.len());
        line.extend_from_slice(&text[..text.len().min(room)]);
        input.consume(taken);
        read += taken as u64;
        if end.is_some() {
            return Ok(Some(read));
        }
    }
}

/// The file, or standard input for `-`; and its length, if it has one.
fn open(path: &Path) -> Result<(Box<dyn BufRead + Send>, Option<u64>), Refusal> {
    const BUFFER: usize = 256 << 10;
    if path.as_os_str() == "-" {
        let stdin = io::stdin();
        if stdin.is_terminal() {
            let failure = usage("import reads records from standard input, which is a terminal");
            return Err(
                failure.fix("name a file: `ringctl import FILE`, or pipe one: `ringctl import < FILE`")
            );
        }
        return Ok((Box::new(BufReader::with_capacity(BUFFER, stdin)), None));
    }
    let unreadable = |error| usage(format!("cannot read {}: {error}", path.display()));
    let file = File::open(path).map_err(unreadable)?;
    let kind = file.metadata().map_err(unreadable)?;
    if kind.is_dir() {
        return Err(usage(format!("cannot read {}: it is a directory", path.display())));
    }
    Ok((Box::new(BufReader::with_capacity(BUFFER, file)), kind.is_file().then_some(kind.len())))
}

fn bar(visible: bool, size: Option<u64>) -> ProgressBar {
    if !visible {
        return ProgressBar::with_draw_target(size, ProgressDrawTarget::hidden());
    }
    let (bar, template) = match size {
        Some(size) => (ProgressBar::new(size), "{bar:30} {bytes}/{total_bytes} {msg}, {eta} left"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {msg}"),
    };
    let bar = bar.with_style(ProgressStyle::with_template(template).expect("a constant template is one"));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn summarise(tally: &Tally, start: Instant, console: &mut Console) -> Result<(), Refusal> {
    if console.format == Format::Json {
        console.json(&json!({
            "imported": tally.imported,
            "bytes": tally.bytes,
            "expired": tally.expired,
            "replaced": tally.replaced,
            "bad": tally.bad,
        }))?;
    }
    let mut line = format!(
        "imported {}, {}, in {:.1} s",
        show_records(tally.imported),
        roughly_bytes(tally.bytes),
        start.elapsed().as_secs_f64()
    );
    for (count, what) in
        [(tally.expired, "expired already"), (tally.replaced, "replaced by a later line"), (tally.bad, "bad")]
    {
        if count > 0 {
            line.push_str(&format!("; {count} {what}"));
        }
    }
    console.note(&line);
    Ok(())
}
