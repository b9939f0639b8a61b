//! The client library: typed calls to a cluster, with deadlines, fail-over and repetition that never applies a write
//! twice. Knows the wire and the words of `types`, nothing of storage.
//!
//! A [`Client`] is cheap to clone, and its clones share their connections. It needs tokio's runtime.
//!
//! ```no_run
//! use ringcore::client::Client;
//! use std::time::Duration;
//!
//! # async fn example() -> Result<(), ringcore::client::ClientError> {
//! let client = Client::builder().endpoints(["127.0.0.1:7717", "127.0.0.1:7727"]).connect().await?;
//!
//! client.put("user:42", "Ada").ttl(Duration::from_secs(3600)).await?;
//! if let Some(entry) = client.get("user:42").await? {
//!     println!("{:?}, written at {} ms", entry.value, entry.version.hlc.ms());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # When a call fails
//!
//! Every write carries an identity, so the client repeats it by itself where that can help: when no connection could
//! be made, when one broke, when the node is overloaded, starting or stopping, or sees too few replicas. What is left
//! is for the caller, and [`ClientError::outcome`] tells what became of a write:
//!
//! ```no_run
//! use ringcore::client::{Client, Outcome};
//!
//! # async fn example(client: Client) {
//! if let Err(error) = client.put("balance", "100").await {
//!     match error.outcome() {
//!         Outcome::NotApplied => println!("nothing happened: {error}"),
//!         Outcome::InDoubt => println!("read the key before going on: {error}"),
//!         Outcome::Applied => println!("it is done: {error}"),
//!         Outcome::Read => unreachable!("a put is a write"),
//!     }
//! }
//! # }
//! ```

mod batch;
mod call;
mod endpoints;
mod error;
mod health;
mod identity;
mod operation;
mod retry;
mod scan;

pub use self::batch::{BatchRead, BatchWrite, Write};
pub use self::error::{Cause, ClientError};
pub use self::operation::{Delete, Entry, Exists, Get, Meta, Put, Written};
pub use self::retry::RetryPolicy;
pub use self::scan::{Page, Record, Scan};
pub use crate::types::error::{Outcome, Reason};
pub use crate::types::request::{Expiry, Level};
pub use tonic::Code;

use self::call::Terms;
use self::endpoints::Endpoints;
use self::identity::Identities;
use self::retry::Budget;
use crate::rpc::proto::v1;
use crate::types::prng::Prng;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use v1::cluster_client::ClusterClient;
use v1::kv_client::KvClient;

/// Longest answer that is read, bytes: well above any page, so that a node with raised limits is understood.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// A connection to a cluster.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    endpoints: Endpoints,
    level: Level,
    deadline: Duration,
    retry: RetryPolicy,
    state: Mutex<State>,
}

/// What calls change. Locked for a few instructions at a time, never across a wait.
#[derive(Debug)]
struct State {
    identities: Identities,
    budget: Budget,
    dice: Prng,
}

/// What a [`Client`] is made from.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until connect is awaited"]
pub struct ClientBuilder {
    endpoints: Vec<String>,
    level: Level,
    deadline: Duration,
    connect_timeout: Duration,
    retry: RetryPolicy,
}

impl Client {
    /// Starts with no endpoints, level QUORUM, a deadline of 10 s.
    pub fn builder() -> ClientBuilder {
        ClientBuilder {
            endpoints: Vec::new(),
            level: Level::Quorum,
            deadline: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(2),
            retry: RetryPolicy::default(),
        }
    }

    /// The cluster as the asked node sees it: its health, and load, storage and links of that node, or of all nodes
    /// that answer within a second.
    pub async fn status(&self, all_nodes: bool) -> Result<v1::GetStatusResponse, ClientError> {
        let answered = self.call(self.reading(), |attempt| async move {
            let request = attempt.request(v1::GetStatusRequest { all_nodes });
            ClusterClient::new(attempt.channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .get_status(request)
                .await
        });
        Ok(answered.await?.message)
    }

    /// Members, their addresses and the replicas of every slot, without the members' tokens.
    pub async fn ring(&self) -> Result<v1::GetRingResponse, ClientError> {
        let answered = self.call(self.reading(), |attempt| async move {
            let message = v1::GetRingRequest { include_slots: true, include_tokens: false, known_ring: 0 };
            let request = attempt.request(message);
            ClusterClient::new(attempt.channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .get_ring(request)
                .await
        });
        Ok(answered.await?.message)
    }

    fn reading(&self) -> Terms {
        Terms { write: false, deadline: self.shared.deadline }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("nothing panics while it holds the lock")
    }
}

impl ClientBuilder {
    /// Adds nodes to talk to, `host:port` each. The first that answers is used; the others when it does not.
    pub fn endpoints<E: Into<String>>(mut self, endpoints: impl IntoIterator<Item = E>) -> ClientBuilder {
        self.endpoints.extend(endpoints.into_iter().map(Into::into));
        self
    }

    /// How many replicas take part unless a call says otherwise.
    pub fn level(mut self, level: Level) -> ClientBuilder {
        self.level = level;
        self
    }

    /// How long a call may take, repetitions included, unless it says otherwise. The time left travels with each
    /// attempt, so that no node works on a call that nobody waits for.
    pub fn deadline(mut self, deadline: Duration) -> ClientBuilder {
        self.deadline = deadline;
        self
    }

    /// How long to wait for one node's connection before the next node is tried: 2 s, and never more than half of the
    /// deadline, so that a node that is silent leaves time for another.
    pub fn connect_timeout(mut self, timeout: Duration) -> ClientBuilder {
        self.connect_timeout = timeout;
        self
    }

    /// How often a failed call is repeated.
    pub fn retry(mut self, policy: RetryPolicy) -> ClientBuilder {
        self.retry = policy;
        self
    }

    /// Connects to the first endpoint that takes a connection. Later, broken connections are made anew by the calls
    /// that need them.
    ///
    /// # Errors
    ///
    /// [`Cause::Usage`] if an endpoint is malformed or none was given, [`Cause::Unreachable`] if none takes a
    /// connection.
    pub async fn connect(self) -> Result<Client, ClientError> {
        let connect_timeout = self.connect_timeout.min(self.deadline / 2);
        let endpoints = Endpoints::connect(&self.endpoints, connect_timeout).await?;
        // The standard library's hasher keys come from the operating system's randomness; no more is needed to tell
        // this client from all others and to spread waits.
        let mut dice = Prng::new(RandomState::new().hash_one(std::process::id()));
        let client_id = dice.next_u64().max(1);
        let state = State { identities: Identities::new(client_id), budget: Budget::full(), dice };
        let shared = Shared {
            endpoints,
            level: self.level,
            deadline: self.deadline,
            retry: self.retry,
            state: Mutex::new(state),
        };
        Ok(Client { shared: Arc::new(shared) })
    }
}

fn kv(channel: tonic::transport::Channel) -> KvClient<tonic::transport::Channel> {
    KvClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

fn level_on_the_wire(level: Level) -> i32 {
    match level {
        Level::One => v1::Level::One.into(),
        Level::Quorum => v1::Level::Quorum.into(),
        Level::All => v1::Level::All.into(),
    }
}
