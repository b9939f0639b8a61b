//! The writer's side of one core's log: gathers records into batches, says which batch is written where and when, and
//! what is durable. Writes nothing itself, and knows nothing of what the records mean.
//!
//! The one rule: a [`Ticket`] becomes durable when the write of its batch *and of all batches before it* has returned.
//! What waits for a ticket can be let go only with a [`Durable`], which nothing but the log can make.
//!
//! The life of a batch: [`Log::append`] gathers, [`Log::next_batch`] plans, [`Log::encode`] fills the caller's buffer,
//! the caller writes it with one write that is durable when it returns, and [`Log::written`] says so. After a failed
//! write nothing is known of the disk: [`Log::failed`] ends the log for ever.

use super::block::{BLOCK_BYTES, BlockKind, HEADER_BYTES, Header, NO_RECORD, PAYLOAD_BYTES};
use super::log_record::{LogRecord, framed_bytes};
use super::lsn::Lsn;
use super::recovery::Restart;
use super::segment::{LogShape, SegmentId, SegmentPool};
use crate::types::mutant::{Mutant, planted};
use crate::types::{Hlc, Mono};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Batches in flight at once. A third would only lengthen the queue in the device.
pub const FLIGHTS_MAX: usize = 2;
/// Payload from which on a second batch is worth a write of its own while the first is under way, bytes.
pub const SECOND_FLIGHT_BYTES_MIN: usize = 4_096;

/// Names the batch that a record was gathered into. Rises with every batch of this process; not kept over a restart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Ticket(u64);

impl Ticket {
    /// What was there before this process started: always durable.
    pub const RECOVERED: Ticket = Ticket(0);
    /// The start batch. Nothing is served before it is durable.
    pub const START: Ticket = Ticket(1);
}

/// Proof that a ticket is durable. An acknowledgement is built from one, so an early one cannot be expressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Durable(Ticket);

impl Durable {
    /// What is durable, with everything before it.
    pub fn ticket(self) -> Ticket {
        self.0
    }
}

/// One write that the caller is to make: all of it, at this place, durable when it returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchPlan {
    /// The batch.
    pub ticket: Ticket,
    /// The file.
    pub segment: SegmentId,
    /// Byte in the file, a multiple of [`BLOCK_BYTES`].
    pub offset: u64,
    /// Length, in blocks.
    pub blocks: usize,
    /// LSN of the first block.
    pub first: Lsn,
}

impl BatchPlan {
    /// Length of the write.
    pub fn bytes(&self) -> usize {
        self.blocks * BLOCK_BYTES
    }
}

/// The log of one core.
#[derive(Debug)]
pub struct Log {
    shape: LogShape,
    gathering_bytes_max: usize,
    incarnation: u32,
    cut: Lsn,
    segments: SegmentPool,
    /// Where the next segment to be opened begins, at least.
    next_base: u64,
    /// Where the last planned batch ends.
    end: Lsn,
    /// In ticket order; the last one takes what is appended, the others are full.
    gathering: VecDeque<Gathering>,
    gathering_bytes: usize,
    /// In ticket order and in LSN order.
    flights: VecDeque<Flight>,
    next_ticket: Ticket,
    durable: (Ticket, Lsn),
    durable_hlc_bound: Hlc,
    /// The highest bound that any batch carries: a header never takes a promise back.
    hlc_bound: Hlc,
    /// How long a write takes, on average over about the last eight.
    mean_ns: u64,
    quiet: Quiet,
    failed: bool,
    /// An empty buffer that has its capacity.
    spare: Vec<u8>,
    #[cfg(mutants)]
    last: Option<LastBatch>,
}

#[derive(Debug)]
struct Gathering {
    ticket: Ticket,
    payload: Vec<u8>,
}

#[derive(Debug)]
struct Flight {
    ticket: Ticket,
    /// Of its first block; `index`, `used` and `first_record` are still to be filled in.
    header: Header,
    /// Empty once encoded.
    payload: Vec<u8>,
    since: Mono,
    written: bool,
}

impl Flight {
    fn end(&self) -> Lsn {
        Lsn(self.header.lsn.0 + u64::from(self.header.count))
    }
}

/// How far the log is on its way to a close batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Quiet {
    /// The last batch proves the one before it and has nothing to be proven itself.
    Closed,
    /// There was traffic since the last tick.
    Busy,
    /// None yet since the last tick.
    Waiting,
    /// A whole tick without any: a close batch is due.
    Due,
}

#[cfg(mutants)]
#[derive(Debug)]
struct LastBatch {
    first: Lsn,
    prev: Lsn,
    blocks: usize,
    payload: Vec<u8>,
}

// A buffer above this is given back: one large batch must not hold its memory for ever.
const SPARE_BYTES_MAX: usize = 1 << 20;

impl Log {
    /// The log of a process that recovered to `restart`. Its first batch is the start batch: see [`Ticket::START`].
    /// At most about `gathering_bytes_max` bytes wait for their write: see [`Log::has_room`].
    pub fn start(shape: LogShape, gathering_bytes_max: usize, restart: &Restart) -> Log {
        assert!(restart.incarnation > 0, "incarnations count from 1");
        #[cfg_attr(not(mutants), expect(unused_mut, reason = "only a planted bug changes it"))]
        let mut segments = SegmentPool::new(&shape, &restart.segments, restart.next_segment);
        #[cfg(mutants)]
        if planted(Mutant::ReuseLsn) {
            segments.reopen(restart.first);
        }
        assert!(
            restart.first >= restart.cut
                && (shape.base_of(restart.first.0) == restart.first.0 || planted(Mutant::ReuseLsn)),
            "an incarnation starts in a fresh segment"
        );
        Log {
            shape,
            gathering_bytes_max,
            incarnation: restart.incarnation,
            cut: restart.cut,
            segments,
            next_base: restart.first.0,
            end: if planted(Mutant::ReuseLsn) { restart.first } else { restart.cut },
            gathering: VecDeque::new(),
            gathering_bytes: 0,
            flights: VecDeque::new(),
            next_ticket: Ticket(Ticket::START.0 + 1),
            durable: (Ticket::RECOVERED, restart.cut),
            durable_hlc_bound: restart.hlc_bound,
            hlc_bound: restart.hlc_bound,
            mean_ns: 0,
            quiet: Quiet::Closed,
            failed: false,
            spare: Vec::new(),
            #[cfg(mutants)]
            last: None,
        }
    }

    /// May `bytes` more be taken on? Asked before an operation is accepted; [`Log::append`] itself never refuses, so
    /// what must go in (floors, drops, repair) can have a share of its own above the clients'.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.gathering_bytes.saturating_add(bytes) <= self.gathering_bytes_max
    }

    /// Bytes of records whose write has not been planned.
    pub fn gathering_bytes(&self) -> usize {
        self.gathering_bytes
    }

    /// Bytes of the largest record, its length field included: it must fit one batch.
    pub fn record_bytes_max(&self) -> usize {
        self.shape.batch_blocks_max() * PAYLOAD_BYTES
    }

    /// Adds a record to the batch that is being gathered, and says which one that is.
    pub fn append(&mut self, record: &LogRecord<'_>) -> Ticket {
        if self.gathering.is_empty() {
            self.gather_anew();
        }
        let payload_bytes_max = self.record_bytes_max();
        let batch = self.gathering.back_mut().expect("one was begun");
        let before = batch.payload.len();
        record.encode(&mut batch.payload);
        let record_bytes = batch.payload.len() - before;
        assert!(record_bytes <= payload_bytes_max, "a record fits one batch");
        if batch.payload.len() > payload_bytes_max {
            let overflow = batch.payload.split_off(before);
            self.gather_anew().payload.extend_from_slice(&overflow);
        }
        self.gathering_bytes += record_bytes;
        self.last_ticket()
    }

    /// The newest ticket that was given out: once it is durable, so is everything appended until now.
    pub fn last_ticket(&self) -> Ticket {
        Ticket(self.next_ticket.0 - 1)
    }

    /// The next write, if there is one to make now. Asked for at the end of each reactor pass and at each tick.
    ///
    /// `hlc_bound` = no version above it leaves this core before a later batch is durable: the highest one issued, and
    /// some time ahead of it (`ENGINE.md`: 500 ms). The plan must be encoded and written; it cannot be taken back.
    pub fn next_batch(&mut self, now: Mono, hlc_bound: Hlc) -> Option<BatchPlan> {
        let kind = self.due(now)?;
        let prev = self.end;
        #[cfg(mutants)]
        let prev = self.rewrite_last(kind).unwrap_or(prev);
        let payload_bytes = match kind {
            BlockKind::Data => self.gathering.front()?.payload.len(),
            BlockKind::Start | BlockKind::Close => 0,
        };
        let blocks = payload_bytes.div_ceil(PAYLOAD_BYTES).max(1);
        let (segment, first) = self.place(blocks)?;
        let (ticket, payload) = match kind {
            BlockKind::Data => {
                let batch = self.gathering.pop_front().expect("data is due");
                self.gathering_bytes -= batch.payload.len();
                self.quiet = Quiet::Busy;
                (batch.ticket, batch.payload)
            }
            BlockKind::Start => (Ticket::START, Vec::new()),
            BlockKind::Close => {
                self.quiet = Quiet::Closed;
                (self.issue_ticket(), Vec::new())
            }
        };
        self.end = Lsn(first.0 + blocks as u64);
        self.hlc_bound = self.hlc_bound.max(hlc_bound);
        let header = Header {
            kind,
            used: 0,
            lsn: first,
            incarnation: self.incarnation,
            index: 0,
            count: u16::try_from(blocks).expect("a batch has at most 1 100 blocks"),
            durable: self.durable.1,
            prev,
            cut: self.cut,
            hlc_bound: self.hlc_bound,
            first_record: NO_RECORD,
        };
        self.flights.push_back(Flight { ticket, header, payload, since: now, written: false });
        let in_segment = first.0 - self.shape.base_of(first.0);
        Some(BatchPlan { ticket, segment, offset: in_segment * BLOCK_BYTES as u64, blocks, first })
    }

    /// Fills the buffer that is to be written, `plan.bytes()` long.
    pub fn encode(&mut self, plan: &BatchPlan, out: &mut [u8]) {
        assert_eq!(out.len(), plan.bytes(), "the buffer is as long as the plan says");
        let flight = self
            .flights
            .iter_mut()
            .find(|flight| flight.ticket == plan.ticket && !flight.written)
            .expect("a planned batch is encoded before it is written");
        let payload = core::mem::take(&mut flight.payload);
        let mut record_at = 0;
        for (index, block) in out.chunks_exact_mut(BLOCK_BYTES).enumerate() {
            let begins = (index * PAYLOAD_BYTES).min(payload.len());
            let ends = (begins + PAYLOAD_BYTES).min(payload.len());
            while record_at < begins {
                record_at += framed_bytes(&payload, record_at);
            }
            let (filled, padding) = block[HEADER_BYTES..].split_at_mut(ends - begins);
            filled.copy_from_slice(&payload[begins..ends]);
            padding.fill(0);
            let header = Header {
                used: (ends - begins) as u16,
                lsn: Lsn(plan.first.0 + index as u64),
                index: index as u16,
                first_record: if record_at < ends { (record_at - begins) as u16 } else { NO_RECORD },
                ..flight.header
            };
            header.seal(self.shape.seal, block);
        }
        #[cfg(mutants)]
        self.remember(plan, &payload);
        self.keep_spare(payload);
        if planted(Mutant::AckEarly) {
            self.durable.0 = plan.ticket;
        }
    }

    /// The write of a batch has returned: all of it is on stable storage. Returns the newest durable ticket, if it rose.
    /// Ignored once the log has failed.
    pub fn written(&mut self, ticket: Ticket, now: Mono) -> Option<Ticket> {
        if self.failed {
            return None;
        }
        let flight = self
            .flights
            .iter_mut()
            .find(|flight| flight.ticket == ticket && !flight.written)
            .expect("only a batch in flight is written, and once");
        flight.written = true;
        if self.quiet == Quiet::Waiting {
            self.quiet = Quiet::Busy;
        }
        let took_ns = now.since(flight.since);
        self.mean_ns =
            if self.mean_ns == 0 { took_ns } else { self.mean_ns - self.mean_ns / 8 + took_ns / 8 };
        let before = self.durable.0;
        while self.flights.front().is_some_and(|flight| flight.written) {
            let flight = self.flights.pop_front().expect("there is a first one");
            self.durable = (flight.ticket.max(self.durable.0), flight.end());
            self.durable_hlc_bound = flight.header.hlc_bound;
        }
        if planted(Mutant::AckOrder) {
            self.durable.0 = self.durable.0.max(ticket);
        }
        (self.durable.0 > before).then_some(self.durable.0)
    }

    /// A write or flush failed or was short. Nothing becomes durable any more, and nothing is written: the process says
    /// why and ends. A second try could succeed without the data being there.
    pub fn failed(&mut self) {
        self.failed = !planted(Mutant::RetriedFlush);
    }

    /// Has a write failed?
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// A tick of the core's timer. After a whole one without traffic a close batch is due, which proves the last batch.
    pub fn tick(&mut self) {
        self.quiet = match self.quiet {
            Quiet::Busy => Quiet::Waiting,
            Quiet::Waiting if self.is_idle() => Quiet::Due,
            unchanged => unchanged,
        };
    }

    /// The newest durable ticket, and the LSN below which everything is durable.
    pub fn durable(&self) -> (Ticket, Lsn) {
        self.durable
    }

    /// No version above it may leave this core before its own record is durable.
    pub fn durable_hlc_bound(&self) -> Hlc {
        self.durable_hlc_bound
    }

    /// The proof that `ticket` is durable, if it is.
    pub fn proof(&self, ticket: Ticket) -> Option<Durable> {
        (ticket <= self.durable.0).then_some(Durable(ticket))
    }

    /// The end LSN of a snapshot whose walk saw records up to `ticket`: Some once all of them are durable. A record that
    /// is still gathering has no LSN yet, so the log's end at the end of the walk would be too low.
    pub fn covered(&self, ticket: Ticket) -> Option<Lsn> {
        if planted(Mutant::KnownEarly) {
            return Some(self.end);
        }
        self.proof(ticket).map(|_| self.durable.1)
    }

    /// Where the last planned batch ends, durable or not.
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// Is everything that was appended durable?
    pub fn is_idle(&self) -> bool {
        self.gathering.is_empty() && self.flights.is_empty()
    }

    /// Is anything in flight, or a close batch still to come? Ticks must then come at their busy pace.
    pub fn wants_tick(&self) -> bool {
        !self.is_idle() || self.quiet != Quiet::Closed
    }

    /// How long a write takes, nanoseconds, on average over about the last eight.
    pub fn write_ns_mean(&self) -> u64 {
        self.mean_ns
    }

    /// The file to make next, if none is ready: to be written with zeros, fsynced, its directory too. Each is asked for
    /// once; [`Log::segment_ready`] or [`Log::segment_refused`] answers.
    pub fn wants_segment(&mut self) -> Option<SegmentId> {
        if self.failed { None } else { self.segments.wants() }
    }

    /// The wanted file is there, zeroed and durable with its name.
    pub fn segment_ready(&mut self, id: SegmentId) {
        self.segments.prepared(id);
    }

    /// The wanted file cannot be made now; the next [`Log::wants_segment`] asks for it again.
    pub fn segment_refused(&mut self, id: SegmentId) {
        self.segments.refused(id);
    }

    /// Segments that can be written at once, after the present one.
    pub fn segments_left(&self) -> usize {
        self.segments.ready()
    }

    /// Segments that hold what a recovery may need.
    pub fn segments_held(&self) -> usize {
        self.segments.held()
    }

    /// Makes segments that end at or below `low` writable again. `low` is durable in the manifest by now.
    pub fn recycle_below(&mut self, low: Lsn) {
        assert!(low <= self.durable.1.max(self.cut), "only what is durable can be covered by snapshots");
        self.segments.recycle_below(low);
    }

    /// Gives up one ready segment if there are more than `keep`; its file is to be removed.
    pub fn surplus_segment(&mut self, keep: usize) -> Option<SegmentId> {
        self.segments.surplus(keep)
    }

    /// Is there a batch to be written now, and why?
    fn due(&self, now: Mono) -> Option<BlockKind> {
        if self.failed {
            return None;
        }
        if self.durable.0 < Ticket::START {
            return self.flights.is_empty().then_some(BlockKind::Start);
        }
        let Some(batch) = self.gathering.front() else {
            return (self.quiet == Quiet::Due && self.flights.is_empty()).then_some(BlockKind::Close);
        };
        match self.flights.front() {
            None => Some(BlockKind::Data),
            Some(first) => {
                // A small batch waits for company, unless the write before it drags on.
                let worth_it =
                    batch.payload.len() >= SECOND_FLIGHT_BYTES_MIN || now.since(first.since) > self.mean_ns;
                (self.flights.len() < FLIGHTS_MAX && worth_it).then_some(BlockKind::Data)
            }
        }
    }

    /// Where a batch of so many blocks goes; None if no segment is ready for it.
    fn place(&mut self, blocks: usize) -> Option<(SegmentId, Lsn)> {
        if let Some(id) = self.segments.active_with_room(self.end, blocks as u64) {
            return Some((id, self.end));
        }
        let base = Lsn(self.next_base.max(self.shape.base_from(self.end.0)));
        let id = self.segments.open(base)?;
        self.next_base = base.0 + u64::from(self.shape.segment_blocks);
        Some((id, base))
    }

    fn gather_anew(&mut self) -> &mut Gathering {
        let ticket = self.issue_ticket();
        let payload = core::mem::take(&mut self.spare);
        self.gathering.push_back(Gathering { ticket, payload });
        self.gathering.back_mut().expect("it was just pushed")
    }

    fn issue_ticket(&mut self) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket = Ticket(ticket.0 + 1);
        ticket
    }

    fn keep_spare(&mut self, mut payload: Vec<u8>) {
        if payload.capacity() > self.spare.capacity() && payload.capacity() <= SPARE_BYTES_MAX {
            payload.clear();
            self.spare = payload;
        }
    }

    #[cfg(mutants)]
    fn remember(&mut self, plan: &BatchPlan, payload: &[u8]) {
        let flight = self.flights.iter().find(|flight| flight.ticket == plan.ticket).expect("in flight");
        let prev = flight.header.prev;
        self.last =
            Some(LastBatch { first: plan.first, prev, blocks: plan.blocks, payload: payload.to_vec() });
    }

    /// Steps back to the last batch, if both it and the next one fit one block, and puts its payload before the next
    /// one's: what saves padding and puts acknowledged data at risk. Returns the last batch's own predecessor's end.
    #[cfg(mutants)]
    fn rewrite_last(&mut self, kind: BlockKind) -> Option<Lsn> {
        if !planted(Mutant::InPlace) || kind != BlockKind::Data || !self.flights.is_empty() {
            return None;
        }
        let (last, next) = (self.last.as_ref()?, self.gathering.front_mut()?);
        self.segments.active_with_room(last.first, 1)?;
        if last.blocks > 1 || last.payload.len() + next.payload.len() > PAYLOAD_BYTES {
            return None;
        }
        next.payload.splice(0..0, last.payload.iter().copied());
        self.gathering_bytes += last.payload.len();
        self.end = last.first;
        Some(last.prev)
    }
}
