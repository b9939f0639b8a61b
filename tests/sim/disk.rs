//! A simulated disk: what was written against what is durable, and every way to lose the difference.
//!
//! Per file two images, what a running process reads and what a power cut leaves for certain; between them sectors that
//! are kept or lost one by one. Names likewise: a change of a directory is certain only after its `sync_dir`. Every
//! step is counted, so that a test can stop the process at each of them in turn.

use ringcore::storage::disk::{Disk, DiskError, DiskErrorKind, DiskResult};
use ringcore::types::prng::Prng;
use std::cell::{Ref, RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// What a device writes whole, or leaves alone, unless it tears.
pub(crate) const SECTOR: usize = 4_096;
/// What a tearing device writes whole.
const TORN: usize = 512;
/// The steps of background writing, as the real disk paces them.
const PACE_NS_PER_BYTE: u64 = 20;

/// One disk; clones are the same disk.
#[derive(Clone)]
pub(crate) struct SimDisk(Rc<RefCell<World>>);

/// An open file. Of a process that was killed: its steps never end.
pub(crate) struct SimFile {
    inode: usize,
    dsync: bool,
    process: u64,
}

/// A copy of everything on a disk.
#[derive(Clone)]
pub(crate) struct Image {
    inodes: Vec<Inode>,
    dirs: Vec<Dir>,
}

/// What goes wrong with a step, once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// An arbitrary part of the step takes effect, then it fails.
    Io,
    /// Nothing takes effect: no space.
    Full,
    /// Of a write, only the first sectors are written. Any other step: as `Io`.
    Short,
}

/// Virtual time that steps take: none unless told otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Latency {
    /// A read, write, flush or change of names takes at least this long, nanoseconds.
    pub(crate) least_ns: u64,
    /// And at most this.
    pub(crate) most_ns: u64,
    /// Flushes never end.
    pub(crate) flush_hangs: bool,
}

struct World {
    image: Image,
    prng: Prng,
    tearing: bool,
    capacity: u64,
    process: u64,
    steps: u64,
    stop_at: Option<u64>,
    stopped: bool,
    faults: BTreeMap<u64, Fault>,
    latency: Latency,
    now_ns: u64,
    /// When the steps under way end, with who waits for it.
    due: Vec<(u64, Waker)>,
    paced_most: u64,
}

#[derive(Clone, Default)]
struct Inode {
    written: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors of `written` that the next flush makes durable.
    dirty: BTreeSet<usize>,
}

#[derive(Clone, Default)]
struct Dir {
    names: BTreeMap<String, Entry>,
    durable: BTreeMap<String, Entry>,
    /// Changes since the last flush, oldest first. A rename is one change: never half done.
    pending: Vec<Vec<(String, Option<Entry>)>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry {
    File(usize),
    Dir(usize),
}

/// How a step goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Course {
    Whole,
    /// It takes effect in an arbitrary part, and the process never learns of it.
    Stops,
    Fails(Fault),
}

/// Runs a future that waits for nothing but this disk, in virtual time. None: the process was stopped.
pub(crate) fn block_on<T>(disk: &SimDisk, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        let due = disk.next_due()?;
        disk.advance(due);
    }
}

impl SimDisk {
    /// An empty disk; the seed decides what crashes and faults keep.
    pub(crate) fn new(seed: u64) -> SimDisk {
        let image = Image { inodes: Vec::new(), dirs: vec![Dir::default()] };
        SimDisk::of_image(image, seed)
    }

    /// A disk with a copy of another's contents: a backup put back, or many runs from one beginning.
    pub(crate) fn of_image(image: Image, seed: u64) -> SimDisk {
        SimDisk(Rc::new(RefCell::new(World {
            image,
            prng: Prng::new(seed),
            tearing: false,
            capacity: u64::MAX,
            process: 0,
            steps: 0,
            stop_at: None,
            stopped: false,
            faults: BTreeMap::new(),
            latency: Latency::default(),
            now_ns: 0,
            due: Vec::new(),
            paced_most: 0,
        })))
    }

    /// Everything on the disk, as it is now.
    pub(crate) fn image(&self) -> Image {
        self.world().image.clone()
    }

    /// Sectors are written in pieces of 512 bytes from now on.
    pub(crate) fn tear(&self) {
        self.world_mut().tearing = true;
    }

    /// Bytes that files may have in sum.
    pub(crate) fn limit(&self, capacity: u64) {
        self.world_mut().capacity = capacity;
    }

    /// How long steps take from now on.
    pub(crate) fn delay(&self, latency: Latency) {
        self.world_mut().latency = latency;
    }

    /// Steps issued so far.
    pub(crate) fn steps(&self) -> u64 {
        self.world().steps
    }

    /// The step with this number (counted from the start of the process) and all later ones never end.
    pub(crate) fn stop_at(&self, step: u64) {
        self.world_mut().stop_at = Some(step);
    }

    /// The step with this number goes wrong.
    pub(crate) fn fail_at(&self, step: u64, fault: Fault) {
        self.world_mut().faults.insert(step, fault);
    }

    /// Most bytes that were written in the background between two pauses.
    pub(crate) fn paced_most(&self) -> u64 {
        self.world().paced_most
    }

    /// Virtual time since the disk was made, nanoseconds.
    pub(crate) fn now_ns(&self) -> u64 {
        self.world().now_ns
    }

    /// When the next step under way ends; None if none ever will.
    pub(crate) fn next_due(&self) -> Option<u64> {
        self.world().due.iter().map(|&(due, _)| due).min()
    }

    /// Lets virtual time pass.
    pub(crate) fn advance(&self, now_ns: u64) {
        let mut world = self.world_mut();
        world.now_ns = world.now_ns.max(now_ns);
        let now_ns = world.now_ns;
        let (ended, due): (Vec<_>, Vec<_>) = world.due.drain(..).partition(|&(due, _)| due <= now_ns);
        world.due = due;
        drop(world);
        ended.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Kills the process (as `kill -9` does): what it wrote stays readable, durable or not.
    pub(crate) fn kill(&self) {
        let mut world = self.world_mut();
        world.process += 1;
        (world.steps, world.stop_at, world.stopped) = (0, None, false);
        world.faults.clear();
        world.due.clear();
    }

    /// Cuts the power: of what was not flushed, any part is lost.
    pub(crate) fn crash(&self) {
        self.kill();
        let World { image, prng, tearing, .. } = &mut *self.world_mut();
        let grain = if *tearing { TORN } else { SECTOR };
        image.inodes.iter_mut().for_each(|inode| inode.crash(prng, grain));
        image.dirs.iter_mut().for_each(|dir| dir.crash(prng));
    }

    /// Names in a directory, as a running process sees them; empty if there is none. Not a step.
    pub(crate) fn names(&self, dir: &str) -> Vec<String> {
        let world = self.world();
        let dir = world.image.dir(dir);
        dir.map_or(Vec::new(), |dir| world.image.dirs[dir].names.keys().cloned().collect())
    }

    /// What a running process reads in a file. Not a step.
    pub(crate) fn contents(&self, path: &str) -> Option<Vec<u8>> {
        let world = self.world();
        let inode = world.image.file(path)?;
        Some(world.image.inodes[inode].written.clone())
    }

    /// Changes bytes of a file behind everybody's back, durably: rot, a misdirected write, a recycled segment. Cut off
    /// at the file's end.
    pub(crate) fn overwrite(&self, path: &str, offset: usize, data: &[u8]) {
        let mut world = self.world_mut();
        let inode = world.image.file(path).expect("the file is there");
        let Inode { written, durable, .. } = &mut world.image.inodes[inode];
        for image in [written, durable] {
            for (byte, new) in image.iter_mut().skip(offset).zip(data) {
                *byte = *new;
            }
        }
    }

    /// Flips one bit of a file.
    pub(crate) fn flip(&self, path: &str, bit: usize) {
        let byte = self.contents(path).expect("the file is there")[bit / 8];
        self.overwrite(path, bit / 8, &[byte ^ (1 << (bit % 8))]);
    }

    /// Takes a file away behind everybody's back.
    pub(crate) fn lose(&self, path: &str) {
        let mut world = self.world_mut();
        let (dir, name) = world.image.place(path).expect("the directory is there");
        world.image.dirs[dir].durable.remove(&name);
        world.image.dirs[dir].names.remove(&name);
    }

    fn world(&self) -> Ref<'_, World> {
        self.0.borrow()
    }

    fn world_mut(&self) -> RefMut<'_, World> {
        self.0.borrow_mut()
    }

    /// Counts a step and decides how it goes on.
    async fn step(&self, process: Option<u64>) -> Course {
        let course = self.world_mut().course(process);
        match course {
            Some(course) => course,
            None => pending().await,
        }
    }

    /// The end of a step that has taken effect: now, later, or never.
    async fn end<T>(&self, course: Course, flush: bool, result: DiskResult<T>) -> DiskResult<T> {
        if course == Course::Stops || (flush && self.world().latency.flush_hangs) {
            return pending().await;
        }
        let (process, due) = {
            let mut world = self.world_mut();
            let Latency { least_ns, most_ns, .. } = world.latency;
            let now_ns = world.now_ns;
            (world.process, now_ns + world.prng.between(least_ns, most_ns))
        };
        self.wait_until(process, due).await;
        result
    }

    async fn wait_until(&self, process: u64, due: u64) {
        poll_fn(|context| {
            let mut world = self.world_mut();
            if world.process != process {
                return Poll::Pending;
            }
            if world.now_ns >= due {
                return Poll::Ready(());
            }
            world.due.push((due, context.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// A step that changes names: all or nothing.
    async fn change<T>(
        &self,
        what: &str,
        path: &str,
        effect: impl FnOnce(&mut World) -> DiskResult<T>,
    ) -> DiskResult<T> {
        let course = self.step(None).await;
        let takes_effect = match course {
            Course::Whole => true,
            Course::Fails(Fault::Full) => false,
            Course::Stops | Course::Fails(Fault::Io | Fault::Short) => self.world_mut().prng.chance(500),
        };
        let effect = if takes_effect { Some(effect(&mut self.world_mut())) } else { None };
        let result = match (course, effect) {
            (Course::Fails(fault), _) => Err(fault.error(what, path)),
            (_, Some(result)) => result,
            // Never seen: the process was stopped.
            (_, None) => return pending().await,
        };
        self.end(course, false, result).await
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    async fn create(&self, path: &str) -> DiskResult<SimFile> {
        self.change("create", path, |world| {
            let (dir, name) = world.image.place(path).ok_or_else(|| not_found("create", path))?;
            let inode = match world.image.dirs[dir].names.get(&name) {
                Some(Entry::File(inode)) => *inode,
                Some(Entry::Dir(_)) => return Err(error(DiskErrorKind::Io, "create", path)),
                None => {
                    world.image.inodes.push(Inode::default());
                    let inode = world.image.inodes.len() - 1;
                    world.image.dirs[dir].change(vec![(name, Some(Entry::File(inode)))]);
                    inode
                }
            };
            world.image.inodes[inode].resize(0);
            Ok(SimFile { inode, dsync: false, process: world.process })
        })
        .await
    }

    async fn open(&self, path: &str, dsync: bool) -> DiskResult<SimFile> {
        self.change("open", path, |world| {
            let inode = world.image.file(path).ok_or_else(|| not_found("open", path))?;
            Ok(SimFile { inode, dsync, process: world.process })
        })
        .await
    }

    async fn len(&self, file: &SimFile) -> DiskResult<u64> {
        let course = self.step(Some(file.process)).await;
        let len = self.world().image.inodes[file.inode].written.len() as u64;
        let result = match course {
            Course::Fails(fault) => Err(fault.error("len", "")),
            Course::Whole | Course::Stops => Ok(len),
        };
        self.end(course, false, result).await
    }

    async fn read(&self, file: &SimFile, offset: u64, len: usize) -> DiskResult<Vec<u8>> {
        assert!(offset.is_multiple_of(SECTOR as u64) && len.is_multiple_of(SECTOR), "O_DIRECT reads sectors");
        let course = self.step(Some(file.process)).await;
        let result = match course {
            Course::Fails(fault) => Err(fault.error("read", "")),
            Course::Whole | Course::Stops => {
                let world = self.world();
                let written = &world.image.inodes[file.inode].written;
                let begin = written.len().min(offset as usize);
                Ok(written[begin..written.len().min(begin + len)].to_vec())
            }
        };
        self.end(course, false, result).await
    }

    async fn write(&self, file: &SimFile, offset: u64, data: Vec<u8>) -> DiskResult<()> {
        let aligned = offset.is_multiple_of(SECTOR as u64) && data.len().is_multiple_of(SECTOR);
        assert!(aligned, "O_DIRECT writes sectors");
        let course = self.step(Some(file.process)).await;
        let result = self.world_mut().write(file, offset as usize, &data, course);
        self.end(course, file.dsync, result).await?;
        if file.dsync {
            // Its own sectors and no others: what else is dirty in the file waits for its own flush.
            self.world_mut().image.inodes[file.inode].flush_range(offset as usize, data.len());
        }
        Ok(())
    }

    async fn sync(&self, file: &SimFile) -> DiskResult<()> {
        let course = self.step(Some(file.process)).await;
        let result = {
            let World { image, prng, .. } = &mut *self.world_mut();
            let inode = &mut image.inodes[file.inode];
            match course {
                Course::Whole => {
                    inode.flush();
                    Ok(())
                }
                // What is flushed before the crash is a matter of the crash.
                Course::Stops => Ok(()),
                Course::Fails(fault) => {
                    inode.fail_flush(prng);
                    Err(fault.error("sync", ""))
                }
            }
        };
        self.end(course, true, result).await
    }

    async fn truncate(&self, file: &SimFile, len: u64) -> DiskResult<()> {
        let inode = file.inode;
        self.change("truncate", "", |world| {
            world.image.inodes[inode].resize(len as usize);
            Ok(())
        })
        .await
    }

    async fn rename(&self, from: &str, to: &str) -> DiskResult<()> {
        self.change("rename", from, |world| {
            let (dir, from_name) = world.image.place(from).ok_or_else(|| not_found("rename", from))?;
            let (to_dir, to_name) = world.image.place(to).ok_or_else(|| not_found("rename", to))?;
            assert!(dir == to_dir, "files stay in their directory");
            let entry = world.image.dirs[dir].names.get(&from_name).copied();
            let entry = entry.ok_or_else(|| not_found("rename", from))?;
            world.image.dirs[dir].change(vec![(from_name, None), (to_name, Some(entry))]);
            Ok(())
        })
        .await
    }

    async fn remove(&self, path: &str) -> DiskResult<()> {
        self.change("remove", path, |world| {
            let Some((dir, name)) = world.image.place(path) else { return Ok(()) };
            match world.image.dirs[dir].names.get(&name) {
                Some(Entry::File(_)) => world.image.dirs[dir].change(vec![(name, None)]),
                Some(Entry::Dir(_)) => return Err(error(DiskErrorKind::Io, "remove", path)),
                None => {}
            }
            Ok(())
        })
        .await
    }

    async fn make_dir(&self, path: &str) -> DiskResult<()> {
        self.change("make_dir", path, |world| {
            let (dir, name) = world.image.place(path).ok_or_else(|| not_found("make_dir", path))?;
            match world.image.dirs[dir].names.get(&name) {
                Some(Entry::Dir(_)) => Ok(()),
                Some(Entry::File(_)) => Err(error(DiskErrorKind::Io, "make_dir", path)),
                None => {
                    world.image.dirs.push(Dir::default());
                    let made = world.image.dirs.len() - 1;
                    world.image.dirs[dir].change(vec![(name, Some(Entry::Dir(made)))]);
                    Ok(())
                }
            }
        })
        .await
    }

    async fn remove_dir(&self, path: &str) -> DiskResult<()> {
        self.change("remove_dir", path, |world| {
            let Some((dir, name)) = world.image.place(path) else { return Ok(()) };
            match world.image.dirs[dir].names.get(&name) {
                Some(Entry::Dir(inner)) if world.image.dirs[*inner].names.is_empty() => {
                    world.image.dirs[dir].change(vec![(name, None)]);
                    Ok(())
                }
                Some(_) => Err(error(DiskErrorKind::Io, "remove_dir", path)),
                None => Ok(()),
            }
        })
        .await
    }

    async fn sync_dir(&self, path: &str) -> DiskResult<()> {
        let course = self.step(None).await;
        let result = {
            let World { image, prng, .. } = &mut *self.world_mut();
            match (course, image.dir(path)) {
                (_, None) => Err(not_found("sync_dir", path)),
                (Course::Whole, Some(dir)) => {
                    image.dirs[dir].flush();
                    Ok(())
                }
                (Course::Stops, Some(_)) => Ok(()),
                (Course::Fails(fault), Some(dir)) => {
                    image.dirs[dir].fail_flush(prng);
                    Err(fault.error("sync_dir", path))
                }
            }
        };
        self.end(course, true, result).await
    }

    async fn list(&self, path: &str) -> DiskResult<Vec<String>> {
        self.change("list", path, |world| {
            let dir = world.image.dir(path).ok_or_else(|| not_found("list", path))?;
            Ok(world.image.dirs[dir].names.keys().cloned().collect())
        })
        .await
    }

    async fn free_bytes(&self) -> DiskResult<u64> {
        self.change("free_bytes", "", |world| Ok(world.free_bytes())).await
    }

    async fn pace(&self, bytes: u64) {
        let (process, due) = {
            let mut world = self.world_mut();
            world.paced_most = world.paced_most.max(bytes);
            let ns = if world.latency.most_ns > 0 { bytes * PACE_NS_PER_BYTE } else { 0 };
            (world.process, world.now_ns + ns)
        };
        self.wait_until(process, due).await;
    }
}

impl World {
    /// None: the process that asks is no more.
    fn course(&mut self, process: Option<u64>) -> Option<Course> {
        if self.stopped || process.is_some_and(|process| process != self.process) {
            return None;
        }
        let step = self.steps;
        self.steps += 1;
        if self.stop_at.is_some_and(|stop_at| stop_at <= step) {
            self.stopped = true;
            return Some(Course::Stops);
        }
        Some(self.faults.remove(&step).map_or(Course::Whole, Course::Fails))
    }

    fn write(&mut self, file: &SimFile, offset: usize, data: &[u8], course: Course) -> DiskResult<()> {
        let grows = (offset + data.len()).saturating_sub(self.image.inodes[file.inode].written.len());
        if grows as u64 > self.free_bytes() || course == Course::Fails(Fault::Full) {
            return Err(Fault::Full.error("write", ""));
        }
        let World { image, prng, .. } = self;
        let inode = &mut image.inodes[file.inode];
        let short = prng.below((data.len() / SECTOR) as u64 + 1) as usize;
        for (nth, sector) in data.chunks(SECTOR).enumerate() {
            let written = match course {
                Course::Whole => true,
                Course::Fails(Fault::Short) => nth < short,
                Course::Stops | Course::Fails(Fault::Io | Fault::Full) => prng.chance(500),
            };
            if written {
                inode.write(offset + nth * SECTOR, sector);
            }
        }
        match course {
            Course::Fails(fault) => return Err(fault.error("write", "")),
            Course::Whole | Course::Stops => {}
        }
        Ok(())
    }

    fn free_bytes(&self) -> u64 {
        let files = self.image.dirs.iter().flat_map(|dir| dir.names.values());
        let used = files.map(|entry| match entry {
            Entry::File(inode) => self.image.inodes[*inode].written.len() as u64,
            Entry::Dir(_) => 0,
        });
        self.capacity.saturating_sub(used.sum())
    }
}

impl Image {
    fn dir(&self, path: &str) -> Option<usize> {
        let names = path.split('/').filter(|name| !name.is_empty());
        names.into_iter().try_fold(0, |dir, name| match self.dirs[dir].names.get(name)? {
            Entry::Dir(inner) => Some(*inner),
            Entry::File(_) => None,
        })
    }

    /// The directory that a path lies in, and its last name.
    fn place(&self, path: &str) -> Option<(usize, String)> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Some((self.dir(dir)?, name.to_string()))
    }

    fn file(&self, path: &str) -> Option<usize> {
        let (dir, name) = self.place(path)?;
        match self.dirs[dir].names.get(&name)? {
            Entry::File(inode) => Some(*inode),
            Entry::Dir(_) => None,
        }
    }
}

impl Inode {
    fn write(&mut self, offset: usize, data: &[u8]) {
        if self.written.len() < offset + data.len() {
            self.resize(offset + data.len());
        }
        self.written[offset..offset + data.len()].copy_from_slice(data);
        self.touch(offset, offset + data.len());
    }

    fn resize(&mut self, len: usize) {
        let (from, to) = (self.written.len().min(len), self.written.len().max(len));
        self.written.resize(len, 0);
        self.touch(from, to);
    }

    fn touch(&mut self, from: usize, to: usize) {
        self.dirty.extend(from / SECTOR..to.div_ceil(SECTOR));
    }

    fn flush(&mut self) {
        self.durable.resize(self.written.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            self.keep(sector * SECTOR, SECTOR);
        }
    }

    fn flush_range(&mut self, offset: usize, len: usize) {
        self.durable.resize(self.written.len(), 0);
        for sector in offset / SECTOR..(offset + len) / SECTOR {
            if self.dirty.remove(&sector) {
                self.keep(sector * SECTOR, SECTOR);
            }
        }
    }

    /// What was not flushed counts as clean afterwards: it can still be read, and no later flush writes it.
    fn fail_flush(&mut self, prng: &mut Prng) {
        self.durable.resize(self.written.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            if prng.chance(500) {
                self.keep(sector * SECTOR, SECTOR);
            }
        }
    }

    fn crash(&mut self, prng: &mut Prng, grain: usize) {
        // The length is a thing of its own.
        if prng.chance(500) {
            self.durable.resize(self.written.len(), 0);
        }
        for sector in std::mem::take(&mut self.dirty) {
            for piece in (0..SECTOR).step_by(grain) {
                if prng.chance(500) {
                    self.keep(sector * SECTOR + piece, grain);
                }
            }
        }
        self.written.clone_from(&self.durable);
    }

    fn keep(&mut self, offset: usize, len: usize) {
        let end = (offset + len).min(self.written.len()).min(self.durable.len());
        if offset < end {
            self.durable[offset..end].copy_from_slice(&self.written[offset..end]);
        }
    }
}

impl Dir {
    fn change(&mut self, change: Vec<(String, Option<Entry>)>) {
        apply(&mut self.names, &change);
        self.pending.push(change);
    }

    fn flush(&mut self) {
        self.pending.clear();
        self.durable.clone_from(&self.names);
    }

    fn fail_flush(&mut self, prng: &mut Prng) {
        for change in std::mem::take(&mut self.pending) {
            if prng.chance(500) {
                apply(&mut self.durable, &change);
            }
        }
    }

    fn crash(&mut self, prng: &mut Prng) {
        self.fail_flush(prng);
        self.names.clone_from(&self.durable);
    }
}

fn apply(names: &mut BTreeMap<String, Entry>, change: &[(String, Option<Entry>)]) {
    for (name, entry) in change {
        match entry {
            Some(entry) => names.insert(name.clone(), *entry),
            None => names.remove(name),
        };
    }
}

impl Fault {
    fn error(self, what: &str, path: &str) -> DiskError {
        let kind = match self {
            Fault::Full => DiskErrorKind::Full,
            Fault::Io | Fault::Short => DiskErrorKind::Io,
        };
        error(kind, what, path)
    }
}

fn error(kind: DiskErrorKind, what: &str, path: &str) -> DiskError {
    DiskError { kind, context: format!("{what} {path}: {kind:?}") }
}

fn not_found(what: &str, path: &str) -> DiskError {
    error(DiskErrorKind::NotFound, what, path)
}
