//! The commands on keys: get, put, del, exists, ttl, mget, scan.

use super::args::{PutArgs, ScanArgs};
use super::console::{Console, Format};
use super::exit::{Exit, NEGATIVE, Refusal, exit_of, usage, worse};
use super::record::{RecordLine, TtlLine, WrittenLine};
use super::text::{hex, show, show_ms, unhex};
use crate::client::{Client, ClientError, Entry, Record};
use crate::types::version::Version;
use bytes::Bytes;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// A value that is longer is certainly refused by the node; reading it whole would only fill the memory.
const VALUE_BYTES_MAX: u64 = 64 << 20;
/// Keys asked for in one message by mget.
const MGET_KEYS: usize = 1_000;
/// Records on a page of a scan.
const SCAN_RECORDS: u64 = 1_000;

/// How keys and values stand on the command line and in the output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spelling {
    pub(super) hex: bool,
}

impl Spelling {
    /// A key, value or prefix as it was typed.
    pub(super) fn read(self, typed: &str) -> Result<Bytes, Refusal> {
        match self.hex {
            true => unhex(typed).map(Bytes::from).map_err(usage),
            false => Ok(Bytes::copy_from_slice(typed.as_bytes())),
        }
    }

    /// Bytes on one line of output.
    fn show(self, bytes: &[u8]) -> String {
        if self.hex { hex(bytes) } else { show(bytes) }
    }
}

pub(super) async fn get(
    client: &Client,
    key: &str,
    spelling: Spelling,
    console: &mut Console,
) -> Result<Exit, Refusal> {
    let key = spelling.read(key)?;
    let found = client.get(key.clone()).await?;
    if console.format == Format::Json {
        let line = found.as_ref().map(|entry| RecordLine::of_entry(&key, entry));
        console.json(&line.unwrap_or_else(|| RecordLine::absent(&key)))?;
    } else if let Some(entry) = &found {
        match spelling.hex {
            true => console.raw(hex(&entry.value).as_bytes())?,
            false => console.raw(&entry.value)?,
        }
        if console.out_is_terminal {
            console.raw(b"\n")?;
        }
    }
    Ok(found_or_not(found.is_some(), &key, spelling, console))
}

pub(super) async fn put(
    client: &Client,
    args: &PutArgs,
    spelling: Spelling,
    console: &mut Console,
) -> Result<Exit, Refusal> {
    let key = spelling.read(&args.key)?;
    let value = match args.value.strip_prefix('@') {
        Some(path) => read_value(Path::new(path))?,
        None if args.value == "-" => read_value(Path::new("-"))?,
        None => spelling.read(&args.value)?,
    };
    let mut put = client.put(key.clone(), value);
    if let Some(ttl) = args.ttl {
        put = put.ttl(ttl);
    }
    if let Some(ms) = args.expires_at_ms {
        put = put.expires_at_ms(ms);
    }
    if args.previous {
        put = put.return_previous();
    }
    let written = put.await?;
    if console.format == Format::Json {
        console.json(&WrittenLine::new(&key, &written))?;
        return Ok(Exit::OK);
    }
    console.line(&format!("OK version {}", show_version(written.version)))?;
    if args.previous {
        let previous = written.previous.map_or("none".to_owned(), |value| spelling.show(&value));
        console.line(&format!("previous: {previous}"))?;
    }
    Ok(Exit::OK)
}

pub(super) async fn del(
    client: &Client,
    keys: &[String],
    spelling: Spelling,
    console: &mut Console,
) -> Result<Exit, Refusal> {
    let mut exit = Exit::OK;
    for key in read_keys(keys, spelling)? {
        let written = client.delete(key.clone()).await?;
        if console.format == Format::Json {
            console.json(&WrittenLine::new(&key, &written))?;
        } else if written.had_previous {
            console.line(&format!("OK version {}", show_version(written.version)))?;
        }
        exit = worse(exit, found_or_not(written.had_previous, &key, spelling, console));
    }
    Ok(exit)
}

pub(super) async fn exists(
    client: &Client,
    keys: &[String],
    spelling: Spelling,
    console: &mut Console,
) -> Result<Exit, Refusal> {
    let mut exit = Exit::OK;
    let mut rows = Vec::new();
    for key in read_keys(keys, spelling)? {
        let found = client.exists(key.clone()).await?;
        if console.format == Format::Json {
            let line = found.as_ref().map(|meta| RecordLine::of_meta(&key, meta));
            console.json(&line.unwrap_or_else(|| RecordLine::absent(&key)))?;
        }
        if let Some(meta) = &found {
            rows.push([
                spelling.show(&key),
                meta.value_bytes.to_string(),
                show_version(meta.version),
                show_expiry(meta.expires_at_ms),
            ]);
        }
        exit = worse(exit, found_or_not(found.is_some(), &key, spelling, console));
    }
    if console.format != Format::Json && !rows.is_empty() {
        console.rows(["KEY", "BYTES", "VERSION", "EXPIRES_AT_MS"], &rows)?;
    }
    Ok(exit)
}

/// `now_ms`: milliseconds since 1970 on this machine, which may differ from the nodes'.
pub(super) async fn ttl(
    client: &Client,
    key: &str,
    now_ms: u64,
    spelling: Spelling,
    console: &mut Console,
) -> Result<Exit, Refusal> {
    let key = spelling.read(key)?;
    let found = client.exists(key.clone()).await?;
    let at_ms = found.and_then(|meta| meta.expires_at_ms);
    let left_ms = at_ms.map(|at_ms| at_ms.saturating_sub(now_ms));
    if console.format == Format::Json {
        console.json(&TtlLine::new(&key, found.is_some(), left_ms, at_ms))?;
    } else if found.is_some() {
        console.line(&left_ms.map_or("never expires".to_owned(), show_ms))?;
    }
    Ok(found_or_not(found.is_some(), &key, spelling, console))
}

pub(super) async fn mget(
    client: &Client,
    keys: &[String],
    file: Option<&Path>,
    spelling: Spelling,
    console: &mut Console,
) -> Result<Exit, Refusal> {
    let mut keys = read_keys(keys, spelling)?;
    if let Some(file) = file {
        let lines = read_value(file)?;
        for line in lines.split(|&byte| byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                continue;
            }
            keys.push(match (spelling.hex, std::str::from_utf8(line)) {
                (false, _) => lines.slice_ref(line),
                (true, Ok(text)) => spelling.read(text)?,
                (true, Err(_)) => return Err(usage("a line of the file is not hexadecimal")),
            });
        }
    }
    let mut exit = Exit::OK;
    let mut failed = None;
    for keys in keys.chunks(MGET_KEYS) {
        let results = client.batch_read(keys.iter().cloned()).await;
        exit = worse(exit, show_results(keys, &results, spelling, console)?);
        let errors = results.into_iter().filter_map(Result::err);
        failed = failed.or_else(|| errors.max_by_key(|error| exit_of(error).0));
    }
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(exit),
    }
}

pub(super) async fn scan(
    client: &Client,
    args: &ScanArgs,
    spelling: Spelling,
    console: &mut Console,
) -> Result<Exit, Refusal> {
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut scan = client.scan().prefix(spelling.read(&args.prefix)?);
    if args.keys_only {
        scan = scan.keys_only();
    }
    while left > 0 {
        scan = scan.page_records(left.min(SCAN_RECORDS) as u32);
        let Some(mut page) = scan.next_page().await? else { break };
        page.records.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left -= page.records.len() as u64;
        if console.format == Format::Json {
            for record in &page.records {
                console.json(&RecordLine::of_scanned(record, args.keys_only))?;
            }
            continue;
        }
        // An empty page is no table; on a terminal each other page is one.
        if page.records.is_empty() {
            continue;
        }
        if args.keys_only {
            let row = |record: &Record| [spelling.show(&record.key)];
            console.rows(["KEY"], &page.records.iter().map(row).collect::<Vec<_>>())?;
        } else {
            let row = |record: &Record| {
                let (expiry, version) = (show_expiry(record.expires_at_ms), show_version(record.version));
                [spelling.show(&record.key), expiry, version, spelling.show(&record.value)]
            };
            let rows: Vec<_> = page.records.iter().map(row).collect();
            console.rows(["KEY", "EXPIRES_AT_MS", "VERSION", "VALUE"], &rows)?;
        }
    }
    Ok(Exit::OK)
}

/// Shows a batch's results; the exit code leaves errors out.
fn show_results(
    keys: &[Bytes],
    results: &[Result<Option<Entry>, ClientError>],
    spelling: Spelling,
    console: &mut Console,
) -> Result<Exit, Refusal> {
    let mut exit = Exit::OK;
    let mut rows = Vec::new();
    for (key, result) in keys.iter().zip(results) {
        if console.format == Format::Json {
            console.json(&match result {
                Ok(Some(entry)) => RecordLine::of_entry(key, entry),
                Ok(None) => RecordLine::absent(key),
                Err(error) => RecordLine::of_error(key, error),
            })?;
        }
        match result {
            Ok(Some(entry)) => rows.push([spelling.show(key), spelling.show(&entry.value)]),
            Ok(None) => exit = worse(exit, found_or_not(false, key, spelling, console)),
            Err(error) => console.note(&format!("{}: {error}", spelling.show(key))),
        }
    }
    if console.format != Format::Json && !rows.is_empty() {
        console.rows(["KEY", "VALUE"], &rows)?;
    }
    Ok(exit)
}

/// Says on standard error if there is no such key.
fn found_or_not(found: bool, key: &[u8], spelling: Spelling, console: &mut Console) -> Exit {
    if found {
        return Exit::OK;
    }
    if console.format != Format::Json {
        console.note(&format!("no such key: {}", spelling.show(key)));
    }
    NEGATIVE
}

fn read_keys(typed: &[String], spelling: Spelling) -> Result<Vec<Bytes>, Refusal> {
    typed.iter().map(|key| spelling.read(key)).collect()
}

/// The whole of a file, or of standard input for `-`.
fn read_value(path: &Path) -> Result<Bytes, Refusal> {
    let mut value = Vec::new();
    let read = match path.as_os_str() == "-" {
        true => io::stdin().lock().take(VALUE_BYTES_MAX + 1).read_to_end(&mut value),
        false => File::open(path).and_then(|file| file.take(VALUE_BYTES_MAX + 1).read_to_end(&mut value)),
    };
    match read {
        Ok(bytes) if bytes as u64 > VALUE_BYTES_MAX => {
            Err(usage(format!("{} has more than {VALUE_BYTES_MAX} bytes", path.display())))
        }
        Ok(_) => Ok(value.into()),
        Err(error) => Err(usage(format!("cannot read {}: {error}", path.display()))),
    }
}

fn show_version(version: Version) -> String {
    format!("{}-{}", version.hlc.0, version.member.0)
}

fn show_expiry(expires_at_ms: Option<u64>) -> String {
    expires_at_ms.map_or("-".to_owned(), |ms| ms.to_string())
}
