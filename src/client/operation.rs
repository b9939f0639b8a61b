//! Calls on one key: get, put, delete, exists. Each is a value that collects its options and is made by `.await`.

use super::call::{Answered, Terms};
use super::error::ClientError;
use super::{Client, Expiry, Level, kv, level_on_the_wire};
use crate::rpc::proto::v1;
use crate::types::ids::MemberId;
use crate::types::version::{Hlc, Version};
use bytes::Bytes;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

/// What awaiting a call runs.
type Call<T> = Pin<Box<dyn Future<Output = Result<T, ClientError>> + Send>>;

/// A key's live value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// When and by whom it was written.
    pub version: Version,
    /// When it ends, milliseconds since 1970; None = never.
    pub expires_at_ms: Option<u64>,
}

/// What is known of a key's live value, without the value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta {
    /// The value's length.
    pub value_bytes: u32,
    /// When and by whom it was written.
    pub version: Version,
    /// When it ends, milliseconds since 1970; None = never.
    pub expires_at_ms: Option<u64>,
}

/// A write that succeeded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// The version that was written.
    pub version: Version,
    /// Was there a live value before?
    pub had_previous: bool,
    /// That value, if it was asked for.
    pub previous: Option<Bytes>,
}

/// Reads a key: None if it has no live value. See [`Client::get`].
#[derive(Clone, Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Get {
    client: Client,
    key: Bytes,
    level: Level,
    deadline: Duration,
}

/// Writes a key. See [`Client::put`].
#[derive(Clone, Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Put {
    client: Client,
    key: Bytes,
    value: Bytes,
    expiry: Expiry,
    previous: bool,
    level: Level,
    deadline: Duration,
}

/// Deletes a key. See [`Client::delete`].
#[derive(Clone, Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Delete {
    client: Client,
    key: Bytes,
    previous: bool,
    level: Level,
    deadline: Duration,
}

/// Asks what is known of a key's value. See [`Client::exists`].
#[derive(Clone, Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Exists {
    client: Client,
    key: Bytes,
    level: Level,
    deadline: Duration,
}

impl Client {
    /// Reads a key: None if it has no live value.
    pub fn get(&self, key: impl Into<Bytes>) -> Get {
        let (level, deadline) = (self.shared.level, self.shared.deadline);
        Get { client: self.clone(), key: key.into(), level, deadline }
    }

    /// Writes a key. Without an expiry it clears one that the key had.
    ///
    /// ```no_run
    /// # async fn example(client: ringcore::client::Client) -> Result<(), ringcore::client::ClientError> {
    /// use std::time::Duration;
    ///
    /// let written = client.put("session:7", "token").ttl(Duration::from_secs(900)).return_previous().await?;
    /// if let Some(previous) = written.previous {
    ///     println!("replaced {previous:?}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Put {
        let (level, deadline) = (self.shared.level, self.shared.deadline);
        let (client, key, value) = (self.clone(), key.into(), value.into());
        Put { client, key, value, expiry: Expiry::Never, previous: false, level, deadline }
    }

    /// Deletes a key, also one that has no value.
    pub fn delete(&self, key: impl Into<Bytes>) -> Delete {
        let (level, deadline) = (self.shared.level, self.shared.deadline);
        Delete { client: self.clone(), key: key.into(), previous: false, level, deadline }
    }

    /// All that [`Client::get`] says but the value.
    pub fn exists(&self, key: impl Into<Bytes>) -> Exists {
        let (level, deadline) = (self.shared.level, self.shared.deadline);
        Exists { client: self.clone(), key: key.into(), level, deadline }
    }
}

/// The options that every call has.
macro_rules! call_options {
    ($($call:ident),+) => {$(
        impl $call {
            /// How many replicas must take part, instead of the client's level.
            pub fn level(mut self, level: Level) -> $call {
                self.level = level;
                self
            }

            /// How long the call may take, repetitions included, instead of the client's deadline.
            pub fn deadline(mut self, deadline: Duration) -> $call {
                self.deadline = deadline;
                self
            }
        }
    )+};
}
pub(super) use call_options;

call_options!(Get, Put, Delete, Exists);

impl Put {
    /// The value ends so long after the write; rounded up to milliseconds.
    pub fn ttl(mut self, ttl: Duration) -> Put {
        self.expiry = Expiry::InMs(whole_ms(ttl));
        self
    }

    /// The value ends at this time, milliseconds since 1970.
    pub fn expires_at_ms(mut self, ms: u64) -> Put {
        self.expiry = Expiry::AtMs(ms);
        self
    }

    /// Fill [`Written::previous`].
    pub fn return_previous(mut self) -> Put {
        self.previous = true;
        self
    }

    async fn run(self) -> Result<Written, ClientError> {
        let ids = self.client.open_ids(1);
        let message = v1::PutRequest {
            key: self.key,
            value: self.value,
            client_id: ids.issued.first.client,
            request_id: ids.issued.first.request,
            level: level_on_the_wire(self.level),
            return_previous: self.previous,
            done_below: ids.issued.done_below,
            attempt: 0,
            expiry: match self.expiry {
                Expiry::Never => None,
                Expiry::InMs(ms) => Some(v1::put_request::Expiry::TtlMs(ms)),
                Expiry::AtMs(ms) => Some(v1::put_request::Expiry::ExpiresAtMs(ms)),
            },
        };
        let terms = Terms { write: true, deadline: self.deadline };
        let end = self
            .client
            .call(terms, |attempt| {
                let message = v1::PutRequest { attempt: attempt.number, ..message.clone() };
                async move {
                    let request = attempt.request(message);
                    kv(attempt.channel).put(request).await
                }
            })
            .await;
        ids.settle(&end);
        let answer = end?.message;
        Ok(Written {
            version: version(answer.timestamp, answer.member),
            had_previous: answer.had_old_value,
            previous: (self.previous && answer.had_old_value).then_some(answer.old_value.into()),
        })
    }
}

impl Delete {
    /// Fill [`Written::previous`].
    pub fn return_previous(mut self) -> Delete {
        self.previous = true;
        self
    }

    async fn run(self) -> Result<Written, ClientError> {
        let ids = self.client.open_ids(1);
        let message = v1::DeleteRequest {
            key: self.key,
            client_id: ids.issued.first.client,
            request_id: ids.issued.first.request,
            level: level_on_the_wire(self.level),
            return_previous: self.previous,
            done_below: ids.issued.done_below,
            attempt: 0,
        };
        let terms = Terms { write: true, deadline: self.deadline };
        let end = self
            .client
            .call(terms, |attempt| {
                let message = v1::DeleteRequest { attempt: attempt.number, ..message.clone() };
                async move {
                    let request = attempt.request(message);
                    kv(attempt.channel).delete(request).await
                }
            })
            .await;
        ids.settle(&end);
        let answer = end?.message;
        Ok(Written {
            version: version(answer.timestamp, answer.member),
            had_previous: answer.had_old_value,
            previous: (self.previous && answer.had_old_value).then_some(answer.old_value.into()),
        })
    }
}

impl Get {
    async fn run(self) -> Result<Option<Entry>, ClientError> {
        let level = level_on_the_wire(self.level);
        let message = v1::GetRequest { key: self.key, level, ..Default::default() };
        let terms = Terms { write: false, deadline: self.deadline };
        let Answered { message: answer, .. } = self
            .client
            .call(terms, |attempt| {
                let message = message.clone();
                async move {
                    let request = attempt.request(message);
                    kv(attempt.channel).get(request).await
                }
            })
            .await?;
        Ok(answer.exists.then(|| Entry {
            value: answer.value.into(),
            version: version(answer.timestamp, answer.member),
            expires_at_ms: some_ms(answer.expires_at_ms),
        }))
    }
}

impl Exists {
    async fn run(self) -> Result<Option<Meta>, ClientError> {
        let level = level_on_the_wire(self.level);
        let message = v1::ExistsRequest { key: self.key, level, ..Default::default() };
        let terms = Terms { write: false, deadline: self.deadline };
        let Answered { message: answer, .. } = self
            .client
            .call(terms, |attempt| {
                let message = message.clone();
                async move {
                    let request = attempt.request(message);
                    kv(attempt.channel).exists(request).await
                }
            })
            .await?;
        Ok(answer.exists.then(|| Meta {
            value_bytes: answer.value_bytes,
            version: version(answer.timestamp, answer.member),
            expires_at_ms: some_ms(answer.expires_at_ms),
        }))
    }
}

/// `.await` on the call itself makes it.
macro_rules! awaited {
    ($($call:ident => $output:ty),+ $(,)?) => {$(
        impl IntoFuture for $call {
            type Output = Result<$output, ClientError>;
            type IntoFuture = Call<$output>;

            fn into_future(self) -> Call<$output> {
                Box::pin(self.run())
            }
        }
    )+};
}

awaited! {
    Get => Option<Entry>,
    Put => Written,
    Delete => Written,
    Exists => Option<Meta>,
}

pub(super) fn version(timestamp: u64, member: u32) -> Version {
    Version::new(Hlc(timestamp), MemberId(member))
}

/// The wire's 0 means never.
pub(super) fn some_ms(expires_at_ms: u64) -> Option<u64> {
    (expires_at_ms != 0).then_some(expires_at_ms)
}

/// Milliseconds, rounded up: never shorter than asked for, and never the refused zero but for zero.
pub(super) fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
