//! All records of the cluster, page by page. Keeps its place by the cursor of the last page, which any node takes.

use super::call::Terms;
use super::error::ClientError;
use super::operation::{call_options, some_ms, version};
use super::{Client, Level, kv, level_on_the_wire};
use crate::rpc::proto::v1;
use crate::types::version::Version;
use bytes::Bytes;
use std::time::Duration;

/// A record that a scan found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The key.
    pub key: Bytes,
    /// The value; empty if the scan leaves values out.
    pub value: Bytes,
    /// The value's length, also if it was left out.
    pub value_bytes: u32,
    /// When and by whom it was written.
    pub version: Version,
    /// When it ends, milliseconds since 1970; None = never.
    pub expires_at_ms: Option<u64>,
}

/// A part of a scan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// In order of (token, key); may be empty although more follows.
    pub records: Vec<Record>,
    /// Where the next page begins; empty = this is the last one. Valid over restarts and changes of the ring.
    pub cursor: Bytes,
    /// Records looked at for this page, matching or not.
    pub examined: u64,
}

/// A scan of the whole cluster. See [`Client::scan`].
#[derive(Clone, Debug)]
#[must_use = "nothing is sent until a page is asked for"]
pub struct Scan {
    client: Client,
    message: v1::ScanRequest,
    level: Level,
    deadline: Duration,
    complete: bool,
}

impl Client {
    /// Reads the records of the whole cluster in pages. At QUORUM every record that exists throughout the scan is
    /// returned exactly once; what is written meanwhile may or may not be.
    ///
    /// ```no_run
    /// # async fn example(client: ringcore::client::Client) -> Result<(), ringcore::client::ClientError> {
    /// let mut scan = client.scan().prefix("user:");
    /// while let Some(page) = scan.next_page().await? {
    ///     for record in page.records {
    ///         println!("{:?} = {:?}", record.key, record.value);
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn scan(&self) -> Scan {
        let (level, deadline) = (self.shared.level, self.shared.deadline);
        let message = v1::ScanRequest::default();
        Scan { client: self.clone(), message, level, deadline, complete: false }
    }
}

call_options!(Scan);

impl Scan {
    /// Only keys that begin so. A filter: the scan reads everything, whatever the prefix.
    pub fn prefix(mut self, prefix: impl Into<Bytes>) -> Scan {
        self.message.prefix = prefix.into();
        self
    }

    /// Leave the values out.
    pub fn keys_only(mut self) -> Scan {
        self.message.omit_values = true;
        self
    }

    /// Go on where the page with this cursor ended.
    pub fn cursor(mut self, cursor: impl Into<Bytes>) -> Scan {
        self.message.cursor = cursor.into();
        self
    }

    /// At most so many records on the pages to come: 1 to 10 000, instead of 1 000.
    pub fn page_records(mut self, records_max: u32) -> Scan {
        self.message.records_max = records_max;
        self
    }

    /// At most so many bytes on the pages to come, but always a record: up to 3 MiB, instead of 1 MiB.
    pub fn page_bytes(mut self, bytes_max: u32) -> Scan {
        self.message.bytes_max = bytes_max;
        self
    }

    /// The next page; None after the last. The deadline is each page's own. After an error the same page can be asked
    /// for again.
    pub async fn next_page(&mut self) -> Result<Option<Page>, ClientError> {
        if self.complete {
            return Ok(None);
        }
        self.message.level = level_on_the_wire(self.level);
        let answered = self
            .client
            .call(Terms { write: false, deadline: self.deadline }, |attempt| {
                let message = self.message.clone();
                async move {
                    let request = attempt.request(message);
                    kv(attempt.channel).scan(request).await
                }
            })
            .await?;
        let answer = answered.message;
        self.complete = answer.cursor.is_empty();
        let cursor = Bytes::from(answer.cursor);
        self.message.cursor = cursor.clone();
        let record = |record: v1::Record| Record {
            key: record.key.into(),
            value: record.value.into(),
            value_bytes: record.value_bytes,
            version: version(record.timestamp, record.member),
            expires_at_ms: some_ms(record.expires_at_ms),
        };
        let records = answer.records.into_iter().map(record).collect();
        Ok(Some(Page { records, cursor, examined: answer.examined }))
    }
}
