//! Writes one core's log: what the machine plans, where it says, two batches at a time; and makes the segment files.

use super::clock;
use super::core::{Bell, Core};
use super::disk::{DirDisk, Flush, LogFile};
use crate::node::event::Event;
use crate::storage::data_dir::segment_name;
use crate::storage::disk::{Disk, DiskError, DiskErrorKind, DiskResult};
use crate::storage::log::BatchPlan;
use crate::storage::open::prepare_segment;
use crate::storage::segment::{LogShape, SegmentId};
use crate::storage::small_file::join;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Segments that are kept free on the disk for what must be written when clients' writes are refused.
const RESERVE_SEGMENTS: u64 = 2;

/// Recycled segments that are kept to be written next.
const READY_SEGMENTS_MAX: usize = 2;

/// The files of one core's log.
pub(crate) struct LogWriter {
    disk: DirDisk,
    dir: String,
    flush: Flush,
    shape: Cell<Option<LogShape>>,
    files: RefCell<BTreeMap<SegmentId, Rc<LogFile>>>,
    work: Bell,
    flushes: Cell<u64>,
    written_bytes: Cell<u64>,
    /// Bytes of the largest part: what the next one will need.
    part_bytes: Cell<u64>,
}

impl LogWriter {
    pub(crate) fn new(disk: DirDisk, dir: String, flush: Flush) -> LogWriter {
        LogWriter {
            disk,
            dir,
            flush,
            shape: Cell::new(None),
            files: RefCell::default(),
            work: Bell::default(),
            flushes: Cell::new(0),
            written_bytes: Cell::new(0),
            part_bytes: Cell::new(0),
        }
    }

    /// What the log looks like; before anything else.
    pub(crate) fn set_shape(&self, shape: LogShape) {
        self.shape.set(Some(shape));
    }

    fn shape(&self) -> LogShape {
        self.shape.get().expect("the shape is set before the log is used")
    }

    /// There may be something to write.
    pub(crate) fn ring(&self) {
        self.work.ring();
    }

    pub(crate) fn flushes(&self) -> u64 {
        self.flushes.get()
    }

    pub(crate) fn written_bytes(&self) -> u64 {
        self.written_bytes.get()
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        self.shape.get().map_or(0, |shape| shape.segment_bytes() as u64)
    }

    /// The largest part has so many bytes.
    pub(crate) fn expect_part(&self, bytes: u64) {
        self.part_bytes.set(bytes);
    }

    /// Makes a segment file, if that leaves the reserve untouched.
    pub(crate) async fn prepare(&self, segment: SegmentId) -> DiskResult<()> {
        let shape = self.shape();
        let needed = shape.segment_bytes() as u64 * (RESERVE_SEGMENTS + 1) + self.part_bytes.get();
        let free = self.disk.free_bytes().await?;
        if free < needed {
            let context = format!("{free} bytes are free, {needed} are needed with the reserve");
            return Err(DiskError { kind: DiskErrorKind::Full, context });
        }
        prepare_segment(&self.disk, &self.dir, segment, &shape).await
    }

    /// Gives back the files that a burst of writes needed and the present pace does not.
    pub(crate) async fn remove_surplus(&self, core: &Core) {
        while let Some(segment) =
            core.with_machine(|machine| machine.replica_mut().log_mut().surplus_segment(READY_SEGMENTS_MAX))
        {
            self.files.borrow_mut().remove(&segment);
            if let Err(error) = self.disk.remove(&join(&self.dir, &segment_name(segment.0))).await {
                core.halt(&error.to_string());
            }
        }
    }

    /// Writes whatever the machine plans, until cancelled.
    pub(crate) async fn run(core: Core) {
        loop {
            core.log().work.heard().await;
            while let Some(plan) = core.with_machine(|machine| machine.next_batch(clock::now())) {
                match core.log().file(plan.segment).await {
                    Ok(file) => write(&core, file, plan),
                    Err(error) => core.halt(&error.to_string()),
                }
            }
        }
    }

    async fn file(&self, segment: SegmentId) -> DiskResult<Rc<LogFile>> {
        if let Some(file) = self.files.borrow().get(&segment) {
            return Ok(Rc::clone(file));
        }
        let path = join(&self.dir, &segment_name(segment.0));
        let file = Rc::new(LogFile::open(&self.disk, &path, self.flush).await?);
        self.files.borrow_mut().insert(segment, Rc::clone(&file));
        Ok(file)
    }
}

/// Encodes a planned batch and starts its write.
fn write(core: &Core, file: Rc<LogFile>, plan: BatchPlan) {
    let mut buffer = file.buffer(plan.bytes());
    core.with_machine(|machine| machine.replica_mut().log_mut().encode(&plan, buffer.bytes_mut()));
    let core = core.clone();
    let since = clock::mono();
    let queue = core.queues().log.clone();
    let task = async move {
        match file.write(plan.offset, buffer).await {
            Ok(_) => {
                let log = core.log();
                log.flushes.set(log.flushes.get() + 1);
                log.written_bytes.set(log.written_bytes.get() + plan.bytes() as u64);
                core.flushed(clock::mono().since(since));
                core.step(Event::Written(plan.ticket));
            }
            Err(error) => {
                tracing::error!(core = core.id().0, %error, "writing the log failed");
                core.step(Event::WriteFailed(plan.ticket));
            }
        }
    };
    queue.spawn(task).detach();
}
