//! `ringbench verify`: writes while the node is killed and started again, then compares every key with what was
//! acknowledged. A test of a machine and its disk as much as of the program.
//!
//! Each key has one writer, which has one write on its way: so of a key there is a last acknowledged write, and there may be
//! writes after it of which nobody knows whether they took effect. A read must find one of those, whole.

use crate::commands::duration;
use crate::process::{Kind, Server};
use ringcore::client::{Client, ClientError, Outcome, RetryPolicy};
use ringcore::types::prng::Prng;
use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::LocalSet;
use xxhash_rust::xxh3::xxh3_64;

/// Of one call, longer than a start takes.
const DEADLINE: Duration = Duration::from_secs(60);
/// After a failure, while the node is away.
const PAUSE: Duration = Duration::from_millis(20);
/// Bytes of a value: what it says of itself, and filling to make it larger than a block now and then.
const VALUE_BYTES_MAX: u64 = 6_000;
/// Reads among the operations, per mille.
const READS: u64 = 200;
/// Deletes among the writes, per mille.
const DELETES: u64 = 100;
/// Violations that are printed.
const SHOWN: usize = 20;

/// The command line, within the command of the same name.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub(crate) struct Verify {
    /// How long it goes on.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "60s")]
    duration: Duration,
    /// The node is killed once in so long, on average.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "3s")]
    kill_every: Duration,
    /// Writers at a time.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4_096))]
    writers: u16,
    /// Keys of each writer.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    keys: u32,
    /// Cores of the node, as `ringcore start --cores`.
    #[arg(long, value_name = "N|FIRST-LAST", default_value = "2")]
    cores: String,
    /// Of the choices: which writes, and when the node is killed.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// What a write makes of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Made {
    Nothing,
    Value(u64),
}

/// A key, and what its writer knows of it.
#[derive(Debug)]
struct Key {
    name: String,
    acknowledged: Made,
    /// Writes since then of which nobody knows whether they took effect.
    doubtful: Vec<Made>,
}

/// What all writers count.
#[derive(Default)]
struct Counts {
    acknowledged: Cell<u64>,
    doubtful: Cell<u64>,
    not_applied: Cell<u64>,
    reads: Cell<u64>,
    violations: RefCell<Vec<String>>,
}

/// Runs it; an error if anything acknowledged was missing or wrong.
pub(crate) fn run(told: &Verify, program: &Path, dir: &Path) -> Result<(), Box<dyn Error>> {
    let dir = dir.join("verify");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let counts = LocalSet::new().block_on(&runtime, torment(told, program, &dir))?;
    println!(
        "{} acknowledged writes, {} in doubt, {} not applied, {} reads and the last audit compared",
        counts.acknowledged.get(),
        counts.doubtful.get(),
        counts.not_applied.get(),
        counts.reads.get()
    );
    let violations = counts.violations.borrow();
    if violations.is_empty() {
        fs::remove_dir_all(&dir)?;
        println!("no acknowledged write is missing or wrong");
        return Ok(());
    }
    violations.iter().take(SHOWN).for_each(|violation| println!("VIOLATION: {violation}"));
    Err(format!("{} violations; the node's data and trace are kept in {}", violations.len(), dir.display())
        .into())
}

async fn torment(told: &Verify, program: &Path, dir: &Path) -> Result<Rc<Counts>, Box<dyn Error>> {
    let kind = Kind::node(program);
    let mut server = Server::start(&kind, &told.cores, dir)?;
    let address = server.address;
    let counts = Rc::new(Counts::default());
    let over = Rc::new(Cell::new(false));
    let mut prng = Prng::new(told.seed);
    // Every other writer repeats what a kill has cut off, under the same name; the others live with their doubts.
    let mut clients = Vec::new();
    for attempts_max in [1, 1_000] {
        let retry = RetryPolicy { attempts_max, ..RetryPolicy::default() };
        let client = Client::builder().endpoints([address.to_string()]).deadline(DEADLINE).retry(retry);
        clients.push(client.connect().await?);
    }
    let writers: Vec<_> = (0..told.writers)
        .map(|number| {
            let keys = (0..told.keys).map(|key| Key {
                name: format!("writer-{number}/key-{key}"),
                acknowledged: Made::Nothing,
                doubtful: Vec::new(),
            });
            let writer = Writer {
                client: clients[usize::from(number) % 2].clone(),
                keys: keys.collect(),
                prng: prng.fork(),
                next: 1,
                counts: Rc::clone(&counts),
            };
            tokio::task::spawn_local(writer.run(Rc::clone(&over)))
        })
        .collect();
    let (begun, mut kills) = (Instant::now(), 0);
    while begun.elapsed() < told.duration {
        let twice = 2 * told.kill_every.as_millis() as u64;
        let pause = Duration::from_millis(prng.below(twice.max(1)));
        tokio::time::sleep(pause.min(told.duration.saturating_sub(begun.elapsed()))).await;
        server.kill()?;
        kills += 1;
        let (kind, cores, dir) = (kind.clone(), told.cores.clone(), dir.to_owned());
        let started = tokio::task::spawn_blocking(move || Server::start_at(&kind, &cores, &dir, address));
        server = started.await??;
        println!(
            "{:>4.0} s: killed and started again, {} writes acknowledged so far",
            begun.elapsed().as_secs_f64(),
            counts.acknowledged.get()
        );
    }
    over.set(true);
    for writer in writers {
        writer.await?;
    }
    println!("{kills} kills; every key was read again");
    server.stop()?;
    Ok(counts)
}

struct Writer {
    client: Client,
    keys: Vec<Key>,
    prng: Prng,
    /// The number of its next write: greater than all before, of all its keys.
    next: u64,
    counts: Rc<Counts>,
}

impl Writer {
    async fn run(mut self, over: Rc<Cell<bool>>) {
        while !over.get() {
            let at = self.prng.below(self.keys.len() as u64) as usize;
            let result = if self.prng.chance(READS) { self.compare(at).await } else { self.write(at).await };
            if result.is_err() {
                tokio::time::sleep(PAUSE).await;
            }
        }
        for at in 0..self.keys.len() {
            while self.compare(at).await.is_err() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn write(&mut self, at: usize) -> Result<(), ClientError> {
        let number = self.next;
        self.next += 1;
        let delete = self.prng.chance(DELETES);
        let made = if delete { Made::Nothing } else { Made::Value(number) };
        let name = self.keys[at].name.clone();
        let result = if delete {
            self.client.delete(name).await.map(drop)
        } else {
            let value = value_of(&name, number, self.prng.below(VALUE_BYTES_MAX) as usize);
            self.client.put(name, value).await.map(drop)
        };
        let count = |of: &Cell<u64>| of.set(of.get() + 1);
        match &result {
            Ok(()) => {
                self.keys[at].acknowledged = made;
                self.keys[at].doubtful.clear();
                count(&self.counts.acknowledged);
            }
            Err(error) if error.outcome() == Outcome::NotApplied => count(&self.counts.not_applied),
            Err(_) => {
                self.keys[at].doubtful.push(made);
                count(&self.counts.doubtful);
            }
        }
        result
    }

    /// Reads a key: what is found must be the last acknowledged write, or one in doubt after it.
    async fn compare(&mut self, at: usize) -> Result<(), ClientError> {
        let found = self.client.get(self.keys[at].name.clone()).await?;
        self.counts.reads.set(self.counts.reads.get() + 1);
        let key = &mut self.keys[at];
        let violation = match found.as_ref().map(|entry| number_of(&key.name, &entry.value)) {
            None if key.allows(Made::Nothing) => None,
            Some(Ok(number)) if key.allows(Made::Value(number)) => None,
            None => Some("is not there".to_owned()),
            Some(Ok(number)) => Some(format!("holds write {number}")),
            Some(Err(why)) => Some(why.to_owned()),
        };
        if let Some(violation) = violation {
            let (acknowledged, doubtful) = (key.acknowledged, &key.doubtful);
            let text =
                format!("{} {violation}; acknowledged: {acknowledged:?}, in doubt: {doubtful:?}", key.name);
            self.counts.violations.borrow_mut().push(text);
        }
        Ok(())
    }
}

impl Key {
    fn allows(&self, made: Made) -> bool {
        self.acknowledged == made || self.doubtful.contains(&made)
    }
}

/// A value that says which write of which key it is, and shows if a byte of it is another.
fn value_of(key: &str, number: u64, filling: usize) -> Vec<u8> {
    let mut value = format!("{key} write {number} ").into_bytes();
    let filler = number.to_le_bytes();
    value.extend((0..filling).map(|at| b'a' + (filler[at % 8].wrapping_add(at as u8)) % 26));
    let sum = xxh3_64(&value);
    value.extend_from_slice(format!(" {sum:016x}").as_bytes());
    value
}

/// The number of the write that made this value of the key.
fn number_of(key: &str, value: &[u8]) -> Result<u64, &'static str> {
    const SUM_BYTES: usize = 17;
    let (body, sum) = value.len().checked_sub(SUM_BYTES).map_or((value, &[][..]), |at| value.split_at(at));
    if sum != format!(" {:016x}", xxh3_64(body)).as_bytes() {
        return Err("holds a value that nobody wrote");
    }
    let text = std::str::from_utf8(body).map_err(|_| "holds a value that nobody wrote")?;
    let rest = text.strip_prefix(key).and_then(|rest| rest.strip_prefix(" write "));
    let number = rest.and_then(|rest| rest.split(' ').next()).and_then(|number| number.parse().ok());
    number.ok_or("holds the value of another key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_tell_their_write_and_their_damage() {
        for (number, filling) in [(1, 0), (77, 5), (u64::MAX, 5_000)] {
            assert_eq!(number_of("k/1", &value_of("k/1", number, filling)), Ok(number));
        }
        let value = value_of("k/1", 5, 40);
        for at in 0..value.len() {
            let mut damaged = value.clone();
            damaged[at] ^= 1;
            assert!(number_of("k/1", &damaged).is_err(), "byte {at}");
        }
        assert!(number_of("k/1", &value[..value.len() - 1]).is_err() && number_of("k/1", b"").is_err());
        assert_eq!(number_of("k/2", &value), Err("holds the value of another key"));
    }

    #[test]
    fn a_key_may_hold_what_was_acknowledged_or_is_in_doubt_and_nothing_else() {
        let key = Key {
            name: String::new(),
            acknowledged: Made::Value(3),
            doubtful: vec![Made::Value(4), Made::Nothing],
        };
        assert!(key.allows(Made::Value(3)) && key.allows(Made::Value(4)) && key.allows(Made::Nothing));
        assert!(!key.allows(Made::Value(2)), "a write before the last acknowledged one");
        let sure = Key { doubtful: Vec::new(), ..key };
        assert!(!sure.allows(Made::Nothing), "lost");
    }
}
