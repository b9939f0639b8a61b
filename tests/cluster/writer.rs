//! Clients that remember what they were told: each owns some keys, writes values that name their own write, and later
//! compares every key with what was acknowledged. Knows nothing of why answers fail to come.
//!
//! Only its owner writes a key, one operation at a time, so the record of a key is simple: the last acknowledged write,
//! and the writes after it whose fate is not known. A read must find one of those, whole, and never an older one.

use super::node::{block_on, connect};
use bytes::Bytes;
use futures_util::future::join_all;
use ringcore::client::{Cause, Client, ClientError, Entry, Outcome, Reason, RetryPolicy, Write};
use ringcore::rpc::proto::v1;
use ringcore::rpc::status::detail_of;
use ringcore::types::prng::Prng;
use ringcore::types::{Hlc, MemberId, Version};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Status};
use v1::kv_client::KvClient;

/// Keys of one writer.
const KEYS: usize = 64;
/// Acknowledged named operations that are repeated at the next audit.
const NAMED_KEPT: usize = 32;
/// Long enough that no test sees it end.
const TTL: Duration = Duration::from_secs(3_600);
/// Pause after an error, while the node is away.
const PAUSE: Duration = Duration::from_millis(5);
/// Of one call; far above any wait that a healthy node causes.
const DEADLINE: Duration = Duration::from_secs(30);

/// What one write makes of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Made {
    Nothing,
    Value { seq: u64, expires: bool },
}

/// A key and what its owner knows of it.
#[derive(Debug)]
struct Key {
    name: Bytes,
    acknowledged: Made,
    /// The version of that; none is ever lower again.
    version: Version,
    /// When the value of that version ends, once read: never another time.
    ends_at: Option<(Version, Option<u64>)>,
    /// Writes since, of which nobody knows whether they took effect.
    doubtful: Vec<Made>,
    /// A named write without an answer: to be repeated, and nothing else to be written, until there is one.
    open: Option<Named>,
}

/// A write with a name of its own, to be asked again.
#[derive(Clone, Debug)]
struct Named {
    key: usize,
    made: Made,
    message: v1::PutRequest,
    /// Version, and whether there was a value before.
    answer: Option<(Version, bool)>,
}

/// One client with its keys.
#[derive(Debug)]
pub(crate) struct Writer {
    name: u64,
    client_id: u64,
    prng: Prng,
    seq: u64,
    keys: Vec<Key>,
    named: Vec<Named>,
    /// Repeats by itself what the connection lost.
    repeats: bool,
    /// Of a cluster: what is in doubt may take effect whenever the node that has it comes back, and a write that another
    /// coordinator repeats may be a second one.
    of_cluster: bool,
    pub(crate) acknowledged: u64,
    /// Named operations that the node refused before it began them.
    pub(crate) refused: u64,
    pub(crate) errors: Vec<ClientError>,
}

/// Writers at work on a thread of their own.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    thread: JoinHandle<Vec<Writer>>,
}

impl Load {
    /// Puts writers to work. Dropped on a panic, the thread ends with the process.
    pub(crate) fn start(address: SocketAddr, writers: Vec<Writer>) -> Load {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = {
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            std::thread::spawn(move || {
                block_on(join_all(
                    writers.into_iter().map(|writer| writer.run(address, &stop, &acknowledged)),
                ))
            })
        };
        Load { stop, acknowledged, thread }
    }

    /// Writes acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        assert!(!self.thread.is_finished(), "the writers have ended by themselves");
        self.acknowledged.load(Relaxed)
    }

    /// Tells the writers to finish what they are doing.
    pub(crate) fn finish(self) -> Vec<Writer> {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Writers with names of their own; every second one repeats by itself.
pub(crate) fn writers(count: u64, prng: &mut Prng) -> Vec<Writer> {
    (0..count).map(|name| Writer::new(name, prng.fork())).collect()
}

/// Writers to a cluster: none repeats anything.
pub(crate) fn cluster_writers(count: u64, prng: &mut Prng) -> Vec<Writer> {
    let mut writers = writers(count, prng);
    for writer in &mut writers {
        (writer.repeats, writer.of_cluster) = (false, true);
    }
    writers
}

/// Compares all keys of all writers with what is stored; gives the number of keys.
pub(crate) fn audit(address: SocketAddr, writers: &mut [Writer]) -> usize {
    block_on(async {
        let client = connect(address).await;
        let mut raw = raw_client(address).await;
        for writer in &mut *writers {
            writer.audit(&client, &mut raw).await;
        }
    });
    writers.iter().map(|writer| writer.keys.len()).sum()
}

/// A stub without the library's care.
pub(crate) async fn raw_client(address: SocketAddr) -> KvClient<Channel> {
    let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address").timeout(DEADLINE);
    KvClient::new(endpoint.connect_lazy()).max_decoding_message_size(64 << 20)
}

impl Writer {
    fn new(name: u64, mut prng: Prng) -> Writer {
        let key = |index| Key {
            name: format!("writer-{name}-key-{index}").into(),
            acknowledged: Made::Nothing,
            version: Version::ZERO,
            ends_at: None,
            doubtful: Vec::new(),
            open: None,
        };
        Writer {
            client_id: prng.next_u64().max(1),
            keys: (0..KEYS).map(key).collect(),
            repeats: name.is_multiple_of(2),
            of_cluster: false,
            named: Vec::new(),
            acknowledged: 0,
            refused: 0,
            errors: Vec::new(),
            seq: 0,
            name,
            prng,
        }
    }

    async fn run(mut self, address: SocketAddr, stop: &AtomicBool, acknowledged: &AtomicU64) -> Writer {
        let retry =
            RetryPolicy { attempts_max: if self.repeats { 100 } else { 1 }, ..RetryPolicy::default() };
        let builder = Client::builder().endpoints([address.to_string()]).deadline(DEADLINE).retry(retry);
        let client = builder.connect().await.expect("the node serves when the load begins");
        let mut raw = raw_client(address).await;
        while !stop.load(Relaxed) {
            let before = (self.acknowledged, self.errors.len());
            self.act(&client, &mut raw).await;
            acknowledged.fetch_add(self.acknowledged - before.0, Relaxed);
            if self.errors.len() > before.1 {
                tokio::time::sleep(PAUSE).await;
            }
        }
        self
    }

    async fn act(&mut self, client: &Client, raw: &mut KvClient<Channel>) {
        let index = self.prng.below(KEYS as u64) as usize;
        match self.prng.below(100) {
            _ if self.keys[index].open.is_some() => self.read(client, index).await,
            0..45 => self.put(client, index).await,
            45..55 => self.delete(client, index).await,
            55..65 => self.batch(client, index).await,
            65..80 if !self.of_cluster => self.named(raw, index).await,
            _ => self.read(client, index).await,
        }
    }

    fn next_value(&mut self) -> Made {
        self.seq += 1;
        Made::Value { seq: self.seq, expires: self.prng.chance(250) }
    }

    async fn put(&mut self, client: &Client, index: usize) {
        let made = self.next_value();
        let put = client.put(self.keys[index].name.clone(), self.bytes(index, made));
        let put = if expires(made) { put.ttl(TTL) } else { put };
        let result = put.await.map(|written| (written.version, Some(written.had_previous)));
        self.settle(index, made, result);
    }

    async fn delete(&mut self, client: &Client, index: usize) {
        let result = client.delete(self.keys[index].name.clone()).await;
        let result = result.map(|written| (written.version, Some(written.had_previous)));
        self.settle(index, Made::Nothing, result);
    }

    /// Some neighbours of a key, in one message.
    async fn batch(&mut self, client: &Client, first: usize) {
        let closed = |index: &usize| self.keys[*index].open.is_none();
        let indexes: Vec<_> = (first..first + 8).map(|index| index % KEYS).filter(closed).collect();
        let mades: Vec<_> = indexes.iter().map(|_| self.next_value()).collect();
        let writes = indexes.iter().zip(&mades).map(|(index, made)| {
            let write = Write::put(self.keys[*index].name.clone(), self.bytes(*index, *made));
            if expires(*made) { write.ttl(TTL) } else { write }
        });
        let results = client.batch_write(writes.collect::<Vec<_>>()).await;
        for ((index, made), result) in indexes.into_iter().zip(mades).zip(results) {
            self.settle(index, made, result.map(|written| (written.version, None)));
        }
    }

    async fn named(&mut self, raw: &mut KvClient<Channel>, index: usize) {
        let made = self.next_value();
        let message = v1::PutRequest {
            key: self.keys[index].name.clone(),
            value: self.bytes(index, made),
            client_id: self.client_id,
            request_id: self.seq,
            expiry: expires(made).then_some(v1::put_request::Expiry::TtlMs(TTL.as_millis() as u64)),
            ..v1::PutRequest::default()
        };
        let mut named = Named { key: index, made, message, answer: None };
        match raw.put(named.message.clone()).await {
            Ok(answer) => {
                let (version, had_previous) = put_answer(answer.get_ref());
                self.settle(index, made, Ok((version, Some(had_previous))));
                named.answer = Some((version, had_previous));
                if self.named.len() == NAMED_KEPT {
                    self.named.remove(0);
                }
                self.named.push(named);
            }
            Err(status) if is_not_applied(&status) => self.refused += 1,
            Err(status) => {
                assert_connection_lost(&status);
                self.keys[index].doubtful.push(made);
                self.keys[index].open = Some(named);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn read(&mut self, client: &Client, index: usize) {
        match client.get(self.keys[index].name.clone()).await {
            Ok(entry) => self.check(index, entry.as_ref()),
            Err(error) => self.errors.push(error),
        }
    }

    /// What an answer to a write says of the key.
    fn settle(&mut self, index: usize, made: Made, result: Result<(Version, Option<bool>), ClientError>) {
        let key = &mut self.keys[index];
        match result {
            Ok((version, had_previous)) => {
                assert!(version > key.version, "{key:?}: {made:?} is acknowledged at {version:?}");
                if let (Some(had_previous), true) = (had_previous, key.doubtful.is_empty()) {
                    assert_eq!(had_previous, key.acknowledged != Made::Nothing, "{key:?}: before {made:?}");
                }
                (key.acknowledged, key.version) = (made, version);
                if !self.of_cluster {
                    key.doubtful.clear();
                }
                self.acknowledged += 1;
            }
            Err(error) => {
                if error.outcome() == Outcome::InDoubt {
                    key.doubtful.push(made);
                }
                self.errors.push(error);
            }
        }
    }

    /// Is what was read what was acknowledged, or a write since? Then that counts as acknowledged: no later read may
    /// find less.
    fn check(&mut self, index: usize, entry: Option<&Entry>) {
        let key = &self.keys[index];
        let found = match entry {
            None => Made::Nothing,
            Some(entry) => {
                let expires = entry.expires_at_ms.is_some();
                let made = Made::Value { seq: named_seq(&entry.value), expires };
                assert_eq!(entry.value, self.bytes(index, made), "{key:?}: a value that nobody wrote");
                assert!(
                    entry.version >= key.version,
                    "{key:?}: older than acknowledged: {:?}",
                    entry.version
                );
                if made == key.acknowledged {
                    assert_eq!(entry.version, key.version, "{key:?}: written once");
                }
                made
            }
        };
        assert!(
            found == key.acknowledged || key.doubtful.contains(&found),
            "{key:?}: lost; {found:?} is there"
        );
        let key = &mut self.keys[index];
        key.acknowledged = found;
        if let Some(entry) = entry {
            key.version = entry.version;
            let seen = (entry.version, entry.expires_at_ms);
            let before = key.ends_at.filter(|(version, _)| *version == entry.version);
            assert_eq!(before.unwrap_or(seen), seen, "{key:?}: it ends at another time than before");
            key.ends_at = Some(seen);
        }
    }

    async fn audit(&mut self, client: &Client, raw: &mut KvClient<Channel>) {
        self.repeat_named(raw).await;
        let names: Vec<_> = self.keys.iter().map(|key| key.name.clone()).collect();
        let entries = client.batch_read(names).await;
        for (index, entry) in entries.into_iter().enumerate() {
            let entry = entry.unwrap_or_else(|error| panic!("{:?}: {error}", self.keys[index].name));
            self.check(index, entry.as_ref());
            // The process that might have applied a doubtful write is gone: what is there now stays.
            if !self.of_cluster {
                self.keys[index].doubtful.clear();
            }
        }
    }

    /// Asks named operations again: those that were answered get the same answer, those that were not get one now and
    /// the same once more.
    async fn repeat_named(&mut self, raw: &mut KvClient<Channel>) {
        let open: Vec<_> = self.keys.iter_mut().filter_map(|key| key.open.take()).collect();
        for mut named in open {
            named.answer = Some(repeat(raw, &named, 1).await);
            let (version, had_previous) = repeat(raw, &named, 2).await;
            let key = &mut self.keys[named.key];
            if key.acknowledged == named.made {
                assert_eq!(version, key.version, "{key:?}: a read has found it already");
            } else {
                assert!(version > key.version, "{key:?}: {version:?} of {named:?}");
                let there = key.acknowledged != Made::Nothing;
                assert!(had_previous == there || key.doubtful != [named.made], "{key:?}: before {named:?}");
            }
            (key.acknowledged, key.version) = (named.made, version);
            key.doubtful.clear();
        }
        for named in &self.named {
            repeat(raw, named, 1).await;
        }
    }

    /// The value of one write: it names its writer, key and number; its length and the rest follow from those.
    fn bytes(&self, index: usize, made: Made) -> Bytes {
        let Made::Value { seq, .. } = made else { panic!("a deletion has no value") };
        let mut value = format!("{seq} {} {index} ", self.name).into_bytes();
        let mut prng = Prng::new(seq ^ self.name << 40 ^ (index as u64) << 50);
        let length = if prng.chance(15) { prng.below(64 << 10) } else { prng.below(200) };
        value.extend((0..length.div_ceil(8)).flat_map(|_| prng.next_u64().to_le_bytes()));
        value.into()
    }
}

/// The number that a value says to be of; 0 is nobody's.
fn named_seq(value: &[u8]) -> u64 {
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0u64, |seq, digit| seq.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')))
}

fn expires(made: Made) -> bool {
    matches!(made, Made::Value { expires: true, .. })
}

async fn repeat(raw: &mut KvClient<Channel>, named: &Named, attempt: u32) -> (Version, bool) {
    let message = v1::PutRequest { attempt, ..named.message.clone() };
    let answer = raw.put(message).await.unwrap_or_else(|status| panic!("{named:?}: {status}"));
    let answer = put_answer(answer.get_ref());
    if let Some(first) = named.answer {
        assert_eq!(answer, first, "{named:?}: another answer to the same question");
    }
    answer
}

fn put_answer(answer: &v1::PutResponse) -> (Version, bool) {
    (Version::new(Hlc(answer.timestamp), MemberId(answer.member)), answer.had_old_value)
}

/// The node said that nothing happened.
fn is_not_applied(status: &Status) -> bool {
    detail_of(status).is_some_and(|detail| detail.outcome() == v1::Outcome::NotApplied)
}

/// A raw call failed because the node is away, and for no other reason.
fn assert_connection_lost(status: &Status) {
    let codes = [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::Internal];
    assert!(detail_of(status).is_none() && codes.contains(&status.code()), "{status:?}");
}

/// A call of the library failed because the node is away, and for no other reason.
pub(crate) fn is_of_absence(error: &ClientError) -> bool {
    matches!(
        error.cause(),
        Cause::Unreachable | Cause::ConnectionLost | Cause::Refused(Reason::Starting | Reason::Stopping)
    )
}
