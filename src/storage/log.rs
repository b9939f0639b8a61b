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
        assert!(flight.payload.is_empty(), "a batch is encoded before it is written");
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

#[cfg(test)]
mod tests {
    use super::super::block::{self, Reading, Seal};
    use super::super::log_record::{Entry, Records};
    use super::*;
    use crate::types::{Body, ClusterId, CoreId, MemberId, RecordRef, Version};

    const BOUND: Hlc = Hlc(1 << 16);
    /// Length, kind, flags, key length, version, key.
    const PUT_OVERHEAD: usize = 4 + 1 + 1 + 2 + 12 + 1;

    fn shape() -> LogShape {
        let seal = Seal::new(ClusterId::default(), MemberId::FIRST, CoreId(0), 1);
        LogShape { seal, segment_blocks: 8 }
    }

    fn restart() -> Restart {
        Restart {
            incarnation: 1,
            cut: Lsn(0),
            first: Lsn(0),
            hlc_bound: Hlc::ZERO,
            segments: alloc::vec![(SegmentId(0), None), (SegmentId(1), None)],
            set_aside: Vec::new(),
            next_segment: SegmentId(2),
            sync: Vec::new(),
        }
    }

    fn us(us: u64) -> Mono {
        Mono(us * 1_000)
    }

    /// A log whose start batch is durable.
    fn started() -> Log {
        let mut log = Log::start(shape(), 64 << 10, &restart());
        let plan = log.next_batch(us(0), BOUND).expect("the start batch is due");
        encode(&mut log, &plan);
        assert_eq!(log.written(plan.ticket, us(100)), Some(Ticket::START));
        log
    }

    fn encode(log: &mut Log, plan: &BatchPlan) -> Vec<u8> {
        let mut out = alloc::vec![0xEE; plan.bytes()];
        log.encode(plan, &mut out);
        out
    }

    fn put(log: &mut Log, value: &[u8]) -> Ticket {
        let version = Version::new(Hlc(1), MemberId::FIRST);
        let record = RecordRef { key: b"k", version, expires_at_ms: 0, body: Body::Value(value) };
        log.append(&LogRecord::Record(Entry { record, label: None, operation: None }))
    }

    fn headers(bytes: &[u8]) -> Vec<Header> {
        let open = |block| match block::open(shape().seal, block) {
            Reading::Intact(header) => header,
            other => panic!("an encoded block is intact: {other:?}"),
        };
        bytes.chunks_exact(BLOCK_BYTES).map(open).collect()
    }

    fn payload(bytes: &[u8]) -> Vec<u8> {
        let blocks = bytes.chunks_exact(BLOCK_BYTES).zip(headers(bytes));
        blocks
            .flat_map(|(block, header)| block[HEADER_BYTES..][..usize::from(header.used)].to_vec())
            .collect()
    }

    #[test]
    fn start_batch_goes_alone_and_before_everything() {
        let from = Restart { incarnation: 4, cut: Lsn(11), first: Lsn(16), hlc_bound: BOUND, ..restart() };
        let mut log = Log::start(shape(), 64 << 10, &from);
        let ticket = put(&mut log, &[1; 5_000]);
        let plan = log.next_batch(us(0), Hlc::ZERO).expect("the start batch is due");
        assert_eq!((plan.ticket, plan.first, plan.blocks, plan.offset), (Ticket::START, Lsn(16), 1, 0));
        let header = headers(&encode(&mut log, &plan))[0];
        assert_eq!((header.kind, header.incarnation), (BlockKind::Start, 4));
        assert_eq!((header.cut, header.prev, header.durable), (Lsn(11), Lsn(11), Lsn(11)));
        assert_eq!(header.hlc_bound, BOUND, "a bound is never taken back");
        assert_eq!(log.next_batch(us(1_000_000), BOUND), None);
        assert_eq!(log.durable(), (Ticket::RECOVERED, Lsn(11)));
        assert_eq!(log.written(plan.ticket, us(1)), Some(Ticket::START));
        assert_eq!(log.durable(), (Ticket::START, Lsn(17)));
        assert_eq!(
            log.next_batch(us(2), BOUND).map(|plan| (plan.ticket, plan.first)),
            Some((ticket, Lsn(17)))
        );
    }

    #[test]
    fn batches_become_durable_in_lsn_order_only() {
        let mut log = started();
        let first = put(&mut log, &[1; 100]);
        let one = log.next_batch(us(200), BOUND).expect("nothing is in flight");
        let second = put(&mut log, &[2; 5_000]);
        let two = log.next_batch(us(201), BOUND).expect("it is large enough");
        assert_eq!((one.ticket, two.ticket), (first, second));
        put(&mut log, &[3; 5_000]);
        assert_eq!(log.next_batch(us(900_000), BOUND), None, "two are in flight");
        let bytes = encode(&mut log, &two);
        assert_eq!(headers(&bytes)[0].durable, one.first, "the first of the two is not durable yet");
        encode(&mut log, &one);
        assert_eq!(log.written(second, us(300)), None);
        assert_eq!((log.proof(first), log.proof(second)), (None, None));
        assert_eq!(log.written(first, us(400)), Some(second));
        assert_eq!(log.proof(second).map(Durable::ticket), Some(second));
        assert_eq!(log.durable(), (second, Lsn(two.first.0 + 2)));
    }

    #[test]
    fn small_second_batch_waits_until_the_first_drags_on() {
        let mut log = started();
        assert_eq!(log.write_ns_mean(), 100_000);
        put(&mut log, b"1");
        log.next_batch(us(200), BOUND).expect("nothing is in flight");
        put(&mut log, b"2");
        assert_eq!(log.next_batch(us(300), BOUND), None);
        assert!(log.next_batch(us(301), BOUND).is_some());
    }

    #[test]
    fn batch_lies_within_one_segment_and_its_prev_says_what_was_skipped() {
        let mut log = started();
        for (len, first, prev) in [(18_000, 1, 1), (17_000, 8, 6)] {
            put(&mut log, &alloc::vec![7; len]);
            let plan = log.next_batch(us(0), BOUND).expect("a segment is ready");
            let bytes = encode(&mut log, &plan);
            assert_eq!((plan.first, plan.blocks), (Lsn(first), 5));
            assert!(headers(&bytes).iter().all(|header| header.prev == Lsn(prev)));
            log.written(plan.ticket, us(1)).expect("it is durable");
        }
        assert_eq!(log.end(), Lsn(13));
    }

    #[test]
    fn batch_waits_for_a_segment_and_takes_one_that_is_recycled() {
        let mut log = started();
        let write = |log: &mut Log| {
            put(log, &[7; 28_000]);
            let plan = log.next_batch(us(0), BOUND)?;
            encode(log, &plan);
            log.written(plan.ticket, us(1));
            Some((plan.segment, plan.first))
        };
        assert_eq!(write(&mut log), Some((SegmentId(0), Lsn(1))));
        assert_eq!(write(&mut log), Some((SegmentId(1), Lsn(8))));
        assert_eq!(log.wants_segment(), Some(SegmentId(2)));
        assert_eq!(write(&mut log), None);
        log.recycle_below(Lsn(7));
        assert_eq!((log.segments_left(), log.segments_held()), (0, 2));
        log.recycle_below(Lsn(8));
        assert_eq!((log.segments_left(), log.segments_held()), (1, 1));
        log.segment_ready(SegmentId(2));
        assert_eq!(
            log.next_batch(us(0), BOUND).map(|plan| (plan.segment, plan.first)),
            Some((SegmentId(0), Lsn(16)))
        );
    }

    #[test]
    fn quiet_core_writes_one_close_batch() {
        let mut log = started();
        for tick in 0..5 {
            log.tick();
            assert_eq!(log.next_batch(us(tick), BOUND), None, "a start needs no proof");
        }
        let data = put(&mut log, b"v");
        let plan = log.next_batch(us(10), BOUND).expect("data is due");
        encode(&mut log, &plan);
        log.tick();
        log.tick();
        assert_eq!(log.next_batch(us(11), BOUND), None, "it is still in flight");
        log.written(data, us(12));
        log.tick();
        assert_eq!(log.next_batch(us(13), BOUND), None, "the tick was not wholly quiet");
        log.tick();
        let close = log.next_batch(us(14), BOUND).expect("a whole tick was");
        let header = headers(&encode(&mut log, &close))[0];
        assert_eq!((header.kind, header.durable), (BlockKind::Close, Lsn(2)));
        assert!(close.ticket > data);
        log.written(close.ticket, us(15));
        for _ in 0..5 {
            log.tick();
            assert_eq!(log.next_batch(us(16), BOUND), None);
        }
        assert!(put(&mut log, b"v") > close.ticket);
    }

    #[test]
    fn failed_log_halts_for_ever() {
        let mut log = started();
        let first = put(&mut log, &[1; 5_000]);
        let plan = log.next_batch(us(0), BOUND).expect("data is due");
        encode(&mut log, &plan);
        put(&mut log, &[1; 5_000]);
        log.failed();
        assert!(log.has_failed());
        assert_eq!(log.written(first, us(1)), None);
        assert_eq!(log.proof(first), None);
        assert_eq!(log.next_batch(us(2), BOUND), None);
        assert_eq!(log.wants_segment(), None);
    }

    #[test]
    fn records_that_exceed_one_batch_go_into_several() {
        let mut log = started();
        let largest = alloc::vec![9; log.record_bytes_max() - PUT_OVERHEAD];
        assert!(log.has_room(64 << 10) && !log.has_room((64 << 10) + 1));
        let first = put(&mut log, b"small");
        let second = put(&mut log, &largest);
        let third = put(&mut log, b"small");
        assert!(first < second && second < third);
        assert_eq!(log.last_ticket(), third);
        assert!(!log.has_room(64 << 10));
        let mut values = Vec::new();
        while let Some(plan) = log.next_batch(us(0), BOUND) {
            let bytes = encode(&mut log, &plan);
            for record in Records::new(&payload(&bytes)) {
                let Ok(LogRecord::Record(entry)) = record else { panic!("a put was appended") };
                let Body::Value(value) = entry.record.body else { panic!("a put was appended") };
                values.push((plan.ticket, value.len()));
            }
            log.written(plan.ticket, us(1));
            log.recycle_below(log.durable().1);
        }
        assert_eq!(values, [(first, 5), (second, largest.len()), (third, 5)]);
        assert_eq!(log.gathering_bytes(), 0);
        assert!(log.is_idle());
    }

    #[test]
    fn each_block_names_the_first_record_that_begins_in_it() {
        let mut log = started();
        put(&mut log, &[1; 10]);
        put(&mut log, &[2; 9_000]);
        put(&mut log, &[3; 10]);
        let plan = log.next_batch(us(0), BOUND).expect("data is due");
        let bytes = encode(&mut log, &plan);
        let headers = headers(&bytes);
        let small = PUT_OVERHEAD + 10;
        let last = small + PUT_OVERHEAD + 9_000 - 2 * PAYLOAD_BYTES;
        let firsts: Vec<_> = headers.iter().map(|header| header.first_record).collect();
        assert_eq!(firsts, [0, NO_RECORD, last as u16]);
        let used: Vec<_> = headers.iter().map(|header| usize::from(header.used)).collect();
        assert_eq!(used, [PAYLOAD_BYTES, PAYLOAD_BYTES, last + small]);
        let padding = &bytes[2 * BLOCK_BYTES + HEADER_BYTES + last + small..];
        assert!(padding.iter().all(|&byte| byte == 0), "nothing of the buffer's past gets to the disk");
    }

    #[test]
    fn snapshot_end_covers_what_was_still_gathering() {
        let mut log = started();
        let seen = put(&mut log, b"v");
        assert_eq!((log.end(), log.covered(seen)), (Lsn(1), None));
        let plan = log.next_batch(us(0), BOUND).expect("data is due");
        encode(&mut log, &plan);
        assert_eq!(log.covered(seen), None);
        log.written(seen, us(1));
        assert_eq!(log.covered(seen), Some(Lsn(2)));
    }

    #[test]
    fn bound_is_durable_with_its_batch_and_never_falls() {
        let mut log = started();
        assert_eq!(log.durable_hlc_bound(), BOUND);
        for (passed, carried) in [(Hlc(9 << 16), Hlc(9 << 16)), (Hlc(5 << 16), Hlc(9 << 16))] {
            put(&mut log, b"v");
            let before = log.durable_hlc_bound();
            let plan = log.next_batch(us(0), passed).expect("data is due");
            assert_eq!(headers(&encode(&mut log, &plan))[0].hlc_bound, carried);
            assert_eq!(log.durable_hlc_bound(), before);
            log.written(plan.ticket, us(1));
            assert_eq!(log.durable_hlc_bound(), carried);
        }
    }
}
