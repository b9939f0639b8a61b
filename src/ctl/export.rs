//! `export`: every record as a JSON line. Holds one page at a time.

use super::console::Console;
use super::data::Spelling;
use super::exit::{Exit, Refusal};
use super::record::ExportLine;
use super::text::show_records;
use crate::client::Client;
use crate::program::quantity::roughly_bytes;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::{Duration, Instant};

/// What a page may weigh: the most that a node gives, so that few calls suffice.
const PAGE_BYTES: u32 = 3 << 20;
const PAGE_RECORDS: u32 = 10_000;

pub(super) async fn export(
    client: &Client,
    prefix: &str,
    spelling: Spelling,
    console: &mut Console,
) -> Result<Exit, Refusal> {
    let mut scan =
        client.scan().prefix(spelling.read(prefix)?).page_bytes(PAGE_BYTES).page_records(PAGE_RECORDS);
    let start = Instant::now();
    let (mut records, mut bytes) = (0u64, 0u64);
    // When a person reads the records themselves, a bar would run through them.
    let progress = spinner(console.err_is_terminal && !console.out_is_terminal);
    while let Some(page) = scan.next_page().await? {
        for record in &page.records {
            console.json(&ExportLine::new(record))?;
            bytes += (record.key.len() + record.value.len()) as u64;
        }
        records += page.records.len() as u64;
        progress.set_message(format!("{}, {}", show_records(records), roughly_bytes(bytes)));
    }
    progress.finish_and_clear();
    // Before the summary: it says that all is written.
    console.flush()?;
    console.note(&format!(
        "exported {}, {}, in {:.1} s",
        show_records(records),
        roughly_bytes(bytes),
        start.elapsed().as_secs_f64()
    ));
    Ok(Exit::OK)
}

fn spinner(visible: bool) -> ProgressBar {
    if !visible {
        return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{spinner} {msg}").expect("a constant template is one");
    let bar = ProgressBar::new_spinner().with_style(style);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
