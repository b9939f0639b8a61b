//! Many keys in one message, each with its own result.

use super::call::Terms;
use super::error::{Cause, ClientError};
use super::operation::{Entry, Written, call_options, some_ms, version, whole_ms};
use super::retry::worth_repeating;
use super::{Client, Expiry, Level, kv, level_on_the_wire};
use crate::rpc::proto::v1;
use crate::types::error::{Outcome, Reason};
use bytes::Bytes;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::{Duration, Instant};

/// One key's write in a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    key: Bytes,
    /// None deletes.
    value: Option<Bytes>,
    expiry: Expiry,
}

/// Reads many keys. See [`Client::batch_read`].
#[derive(Clone, Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct BatchRead {
    client: Client,
    keys: Vec<Bytes>,
    level: Level,
    deadline: Duration,
}

/// Writes many keys. See [`Client::batch_write`].
#[derive(Clone, Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct BatchWrite {
    client: Client,
    writes: Vec<Write>,
    level: Level,
    deadline: Duration,
}

/// One result per key, in the order of the request.
type Results<T> = Vec<Result<T, ClientError>>;

impl Write {
    /// Writes a value. Without an expiry it clears one that the key had.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Write {
        Write { key: key.into(), value: Some(value.into()), expiry: Expiry::Never }
    }

    /// Deletes the key.
    pub fn delete(key: impl Into<Bytes>) -> Write {
        Write { key: key.into(), value: None, expiry: Expiry::Never }
    }

    /// The value ends so long after the write; rounded up to milliseconds.
    pub fn ttl(mut self, ttl: Duration) -> Write {
        self.expiry = Expiry::InMs(whole_ms(ttl));
        self
    }

    /// The value ends at this time, milliseconds since 1970.
    pub fn expires_at_ms(mut self, ms: u64) -> Write {
        self.expiry = Expiry::AtMs(ms);
        self
    }

    /// The key that is written.
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// The new value; None deletes.
    pub fn value(&self) -> Option<&Bytes> {
        self.value.as_ref()
    }

    fn on_the_wire(&self) -> v1::WriteOperation {
        v1::WriteOperation {
            key: self.key.clone(),
            action: Some(match &self.value {
                Some(value) => v1::write_operation::Action::Value(value.clone()),
                None => v1::write_operation::Action::Delete(true),
            }),
            expiry: match self.expiry {
                Expiry::Never => None,
                Expiry::InMs(ms) => Some(v1::write_operation::Expiry::TtlMs(ms)),
                Expiry::AtMs(ms) => Some(v1::write_operation::Expiry::ExpiresAtMs(ms)),
            },
        }
    }
}

impl Client {
    /// Reads up to 10 000 keys. Not a transaction: each key is read by itself.
    ///
    /// ```no_run
    /// # async fn example(client: ringcore::client::Client) -> Result<(), ringcore::client::ClientError> {
    /// for entry in client.batch_read(["a", "b", "c"]).await {
    ///     println!("{:?}", entry?.map(|entry| entry.value));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn batch_read<K: Into<Bytes>>(&self, keys: impl IntoIterator<Item = K>) -> BatchRead {
        let (level, deadline) = (self.shared.level, self.shared.deadline);
        let keys = keys.into_iter().map(Into::into).collect();
        BatchRead { client: self.clone(), keys, level, deadline }
    }

    /// Writes up to 10 000 different keys, at most 4 MiB together. Not a transaction: each write succeeds or fails
    /// alone.
    pub fn batch_write(&self, writes: impl IntoIterator<Item = Write>) -> BatchWrite {
        let (level, deadline) = (self.shared.level, self.shared.deadline);
        BatchWrite { client: self.clone(), writes: writes.into_iter().collect(), level, deadline }
    }
}

call_options!(BatchRead, BatchWrite);

impl BatchRead {
    async fn run(self) -> Results<Option<Entry>> {
        let mut pending = Pending::new(self.keys.len(), self.deadline);
        while let Some(deadline) = pending.next_round() {
            let keys = pending.pick(&self.keys);
            let end = self.ask(keys, deadline).await;
            pending.take_in(end, &self.client).await;
        }
        pending.into_results()
    }

    /// One message's results; an error is every key's.
    async fn ask(&self, keys: Vec<Bytes>, deadline: Duration) -> Result<Results<Option<Entry>>, ClientError> {
        let count = keys.len();
        let level = level_on_the_wire(self.level);
        let message = v1::BatchReadRequest { keys, level, ..Default::default() };
        let answered = self
            .client
            .call(Terms { write: false, deadline }, |attempt| {
                let message = message.clone();
                async move {
                    let request = attempt.request(message);
                    kv(attempt.channel).batch_read(request).await
                }
            })
            .await?;
        let results = answered.message.results;
        if results.len() != count {
            return Err(wrong_count(results.len(), count, Outcome::Read));
        }
        let entry = |result: v1::ReadResult| match result.error {
            Some(error) => Err(ClientError::from_item(&error, false)),
            None => Ok(result.exists.then(|| Entry {
                value: result.value.into(),
                version: version(result.timestamp, result.member),
                expires_at_ms: some_ms(result.expires_at_ms),
            })),
        };
        Ok(results.into_iter().map(entry).collect())
    }
}

impl BatchWrite {
    async fn run(self) -> Results<Written> {
        let mut pending = Pending::new(self.writes.len(), self.deadline);
        while let Some(deadline) = pending.next_round() {
            let writes = pending.pick(&self.writes);
            let end = self.send(&writes, deadline).await;
            pending.take_in(end, &self.client).await;
        }
        pending.into_results()
    }

    /// One message's results; an error is every key's. Each message has ids of its own: only a key whose write has
    /// certainly not been applied is ever put into a second one.
    async fn send(&self, writes: &[Write], deadline: Duration) -> Result<Results<Written>, ClientError> {
        let count = writes.len();
        let ids = self.client.open_ids(count);
        let message = v1::BatchWriteRequest {
            writes: writes.iter().map(Write::on_the_wire).collect(),
            client_id: ids.issued.first.client,
            request_id: ids.issued.first.request,
            level: level_on_the_wire(self.level),
            done_below: ids.issued.done_below,
            attempt: 0,
        };
        let end = self
            .client
            .call(Terms { write: true, deadline }, |attempt| {
                let message = v1::BatchWriteRequest { attempt: attempt.number, ..message.clone() };
                async move {
                    let request = attempt.request(message);
                    kv(attempt.channel).batch_write(request).await
                }
            })
            .await;
        ids.settle(&end);
        let answered = end?;
        let results = answered.message.results;
        if results.len() != count {
            return Err(wrong_count(results.len(), count, Outcome::InDoubt));
        }
        let written = |result: v1::WriteResult| match result.error {
            // The refusal is that of the last attempt: one that was lost before may have written this key.
            Some(error) if answered.doubted => Err(ClientError::from_item(&error, true).doubted()),
            Some(error) => Err(ClientError::from_item(&error, true)),
            None => Ok(Written {
                version: version(result.timestamp, result.member),
                had_previous: result.had_old_value,
                previous: None,
            }),
        };
        Ok(results.into_iter().map(written).collect())
    }
}

/// The keys of a batch that have no result yet.
#[derive(Debug)]
struct Pending<T> {
    results: Vec<Option<Result<T, ClientError>>>,
    /// Indices of the keys to ask for in the next round.
    open: Vec<usize>,
    rounds: u32,
    end: Instant,
}

impl<T> Pending<T> {
    fn new(count: usize, deadline: Duration) -> Pending<T> {
        let results = std::iter::repeat_with(|| None).take(count).collect();
        Pending { results, open: (0..count).collect(), rounds: 0, end: Instant::now() + deadline }
    }

    /// The time that is left for another round; None = all keys have results.
    fn next_round(&self) -> Option<Duration> {
        (!self.open.is_empty()).then(|| self.end.saturating_duration_since(Instant::now()))
    }

    fn pick<K: Clone>(&self, all: &[K]) -> Vec<K> {
        self.open.iter().map(|&index| all[index].clone()).collect()
    }

    /// Notes a round's results, and waits if some of its keys are to be asked for again.
    async fn take_in(&mut self, end: Result<Results<T>, ClientError>, client: &Client) {
        let asked = std::mem::take(&mut self.open);
        let results = match end {
            Ok(results) => results,
            Err(error) => {
                // The call has been repeated as often as it may.
                for index in asked {
                    self.results[index] = Some(Err(error.clone()));
                }
                return;
            }
        };
        self.rounds += 1;
        let left = self.end.saturating_duration_since(Instant::now());
        let refused =
            results.iter().filter_map(|result| result.as_ref().err()).find(|error| may_go_again(error));
        let wait = refused.and_then(|error| client.repeat_after(self.rounds, error, left));
        // An answer that brought something leaves less to ask for; one that brought nothing never would.
        let cut_short = results.iter().any(Result::is_ok) && !left.is_zero();
        for (index, result) in asked.into_iter().zip(results) {
            if let Err(error) = &result
                && ((wait.is_some() && may_go_again(error)) || (cut_short && is_cut(error)))
            {
                self.open.push(index);
            }
            self.results[index] = Some(result);
        }
        if let Some(wait) = wait {
            tokio::time::sleep(wait).await;
        }
    }

    fn into_results(self) -> Results<T> {
        let noted =
            |result: Option<Result<T, ClientError>>| result.expect("every round notes all of its keys");
        self.results.into_iter().map(noted).collect()
    }
}

/// May the key go into another message, which has other ids?
fn may_go_again(error: &ClientError) -> bool {
    error.outcome() != Outcome::InDoubt && worth_repeating(error)
}

/// Had the answer no room left for this key?
fn is_cut(error: &ClientError) -> bool {
    error.reason() == Some(Reason::ResponseFull)
}

fn wrong_count(got: usize, asked: usize, outcome: Outcome) -> ClientError {
    ClientError::local(Cause::Answer, outcome, format!("{got} results for {asked} keys"))
}

/// `.await` on the batch itself sends it.
macro_rules! awaited {
    ($($batch:ident => $output:ty),+ $(,)?) => {$(
        impl IntoFuture for $batch {
            type Output = Results<$output>;
            type IntoFuture = Pin<Box<dyn Future<Output = Results<$output>> + Send>>;

            fn into_future(self) -> Self::IntoFuture {
                Box::pin(self.run())
            }
        }
    )+};
}

awaited! {
    BatchRead => Option<Entry>,
    BatchWrite => Written,
}
