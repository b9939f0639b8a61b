//! Messages between cores: a bounded queue for each ordered pair, in order, without locks and without waiting.
//!
//! A full mailbox is an answer to the sender, which gets its message back. A message that expects an answer (an *ask*)
//! also takes one of the asker's credits, and the queue back has room for as many answers as there are credits beside
//! other messages: so an answer never fails, and two cores cannot wait for each other. [`Outbox::flush`] at the end of a
//! pass tells each core that was sent something, once; for one that is awake this costs a store.

use super::bell::{Bell, Post, Ringer};
use super::executor::{Queue, Task};
use super::padded::Padded;
use crate::types::CoreId;
use crossbeam_queue::ArrayQueue;
use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

/// How many messages one core may have waiting at another.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Messages under way that are no answers; under 128 the cores wait for each other's passes.
    pub messages: usize,
    /// Asks without an answer yet.
    pub asks: usize,
}

impl Default for Room {
    fn default() -> Room {
        Room { messages: 256, asks: 256 }
    }
}

/// A message as it arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mail<M> {
    /// Nothing is expected.
    Tell(M),
    /// Exactly one [`Outbox::answer`] to the sender is expected.
    Ask(M),
    /// The answer to an ask of this core. Answers come in the order in which they were given, not asked for.
    Answer(M),
}

/// The messages from one core to another.
struct Lane<M> {
    queue: ArrayQueue<Mail<M>>,
    /// Tells and asks that the receiver has taken out: written by it alone, so the sender knows how many are under way
    /// without a shared read-modify-write.
    taken: Padded<AtomicU64>,
    post: Post,
}

/// One core's place among the others, until its executor runs.
pub struct Seat<M> {
    core: CoreId,
    room: Room,
    /// To and from each core; None at its own place.
    lanes: Vec<Option<Lanes<M>>>,
}

struct Lanes<M> {
    to: Arc<Lane<M>>,
    from: Arc<Lane<M>>,
}

/// The seats of all cores, in order.
pub fn seats<M: Send>(cores: usize, room: Room) -> Vec<Seat<M>> {
    assert!(room.messages > 0 && room.asks > 0, "a mailbox without room is none");
    let lane = || {
        Arc::new(Lane {
            queue: ArrayQueue::new(room.messages + room.asks),
            taken: Padded::default(),
            post: Post::default(),
        })
    };
    let all: Vec<Vec<Arc<Lane<M>>>> = (0..cores).map(|_| (0..cores).map(|_| lane()).collect()).collect();
    let seat = |me: usize| {
        let between =
            |other: usize| Lanes { to: Arc::clone(&all[me][other]), from: Arc::clone(&all[other][me]) };
        let lanes = (0..cores).map(|other| (other != me).then(|| between(other))).collect();
        Seat { core: CoreId(u16::try_from(me).expect("a node has at most 256 cores")), room, lanes }
    };
    (0..cores).map(seat).collect()
}

impl<M: Send + 'static> Seat<M> {
    /// Opens the mailbox on this core's executor. Others may have sent already.
    pub async fn open(self, queue: &Queue) -> (Outbox<M>, Inbox<M>) {
        let alarm = Rc::new(RefCell::new(None::<Waker>));
        let mut bells = Vec::new();
        for lanes in self.lanes.iter().flatten() {
            let (ringer, bell) = Bell::new().await;
            lanes.from.post.leave(ringer);
            bells.push(queue.spawn(relay(bell, Rc::clone(&alarm))));
        }
        let peers: Rc<[Option<Peer<M>>]> = self.lanes.into_iter().map(|lanes| lanes.map(Peer::new)).collect();
        let outbox = Outbox { core: self.core, room: self.room, peers: Rc::clone(&peers) };
        (outbox, Inbox { peers, next: 0, alarm, bells })
    }
}

/// Hands the rings of one core to the task that waits in [`Inbox::ready`].
async fn relay(bell: Bell, alarm: Rc<RefCell<Option<Waker>>>) {
    while bell.heard().await {
        if let Some(waker) = alarm.take() {
            waker.wake();
        }
    }
}

/// What this core knows of its dealings with another.
struct Peer<M> {
    to: Arc<Lane<M>>,
    from: Arc<Lane<M>>,
    ringer: OnceCell<Ringer>,
    /// Tells and asks sent.
    sent: Cell<u64>,
    /// Tells and asks received.
    taken: Cell<u64>,
    /// Asks sent that have no answer yet.
    asked: Cell<usize>,
    /// Asks received that have no answer yet.
    owed: Cell<usize>,
    /// Something was sent since it was woken last.
    unrung: Cell<bool>,
}

impl<M> Peer<M> {
    fn new(lanes: Lanes<M>) -> Peer<M> {
        Peer {
            to: lanes.to,
            from: lanes.from,
            ringer: OnceCell::new(),
            sent: Cell::new(0),
            taken: Cell::new(0),
            asked: Cell::new(0),
            owed: Cell::new(0),
            unrung: Cell::new(false),
        }
    }

    /// Tells and asks that the other core has not taken out yet: at most this many.
    fn under_way(&self) -> u64 {
        self.sent.get() - self.to.taken.load(Ordering::Acquire)
    }

    fn push(&self, mail: Mail<M>) {
        assert!(
            self.to.queue.push(mail).is_ok(),
            "the counts of messages and credits bound what the queue holds"
        );
        self.unrung.set(true);
    }

    fn pop(&self) -> Option<Mail<M>> {
        let mail = self.from.queue.pop()?;
        match mail {
            Mail::Tell(_) => self.taken.set(self.taken.get() + 1),
            Mail::Ask(_) => {
                self.taken.set(self.taken.get() + 1);
                self.owed.set(self.owed.get() + 1);
            }
            Mail::Answer(_) => {
                let asked = self.asked.get();
                assert!(asked > 0, "an answer follows an ask");
                self.asked.set(asked - 1);
            }
        }
        Some(mail)
    }

    fn ring(&self) {
        if self.ringer.get().is_none() {
            // No ringer: the other core has not opened its mailbox. It will look into it when it does.
            let Some(ringer) = self.to.post.fetch() else { return };
            assert!(self.ringer.set(ringer).is_ok(), "checked to be empty");
        }
        self.ringer.get().expect("set above").ring();
    }
}

/// This core's way to the others. Clones are the same outbox.
pub struct Outbox<M> {
    core: CoreId,
    room: Room,
    peers: Rc<[Option<Peer<M>>]>,
}

impl<M> Clone for Outbox<M> {
    fn clone(&self) -> Outbox<M> {
        Outbox { core: self.core, room: self.room, peers: Rc::clone(&self.peers) }
    }
}

impl<M> Outbox<M> {
    /// Sends a message that expects nothing. Full: it comes back, and nothing has happened.
    pub fn try_tell(&self, to: CoreId, message: M) -> Result<(), M> {
        let peer = self.peer(to);
        if peer.under_way() >= self.room.messages as u64 {
            return Err(message);
        }
        peer.sent.set(peer.sent.get() + 1);
        peer.push(Mail::Tell(message));
        Ok(())
    }

    /// Sends a message that expects an answer, and reserves the answer's room. Full, or too many asks open: it comes
    /// back, and nothing has happened.
    pub fn try_ask(&self, to: CoreId, message: M) -> Result<(), M> {
        let peer = self.peer(to);
        if peer.asked.get() >= self.room.asks || peer.under_way() >= self.room.messages as u64 {
            return Err(message);
        }
        peer.asked.set(peer.asked.get() + 1);
        peer.sent.set(peer.sent.get() + 1);
        peer.push(Mail::Ask(message));
        Ok(())
    }

    /// Answers an ask. Each ask is answered once, so this cannot fail.
    pub fn answer(&self, to: CoreId, message: M) {
        let peer = self.peer(to);
        let owed = peer.owed.get();
        assert!(owed > 0, "core {} owes core {to} no answer", self.core);
        peer.owed.set(owed - 1);
        peer.push(Mail::Answer(message));
    }

    /// Tells the cores that were sent something: at the end of a pass. Before this they may not look.
    pub fn flush(&self) {
        for peer in self.peers.iter().flatten() {
            if peer.unrung.replace(false) {
                peer.ring();
            }
        }
    }

    /// Asks of this core that wait for an answer.
    pub fn asks_open(&self) -> usize {
        self.peers.iter().flatten().map(|peer| peer.asked.get()).sum()
    }

    fn peer(&self, to: CoreId) -> &Peer<M> {
        let peer = self.peers.get(usize::from(to.0)).and_then(Option::as_ref);
        peer.expect("a core sends to other cores of its node, not to itself")
    }
}

/// What the other cores have sent to this one.
pub struct Inbox<M> {
    peers: Rc<[Option<Peer<M>>]>,
    /// Whose turn it is to be looked at first.
    next: usize,
    alarm: Rc<RefCell<Option<Waker>>>,
    bells: Vec<Task<()>>,
}

impl<M> Inbox<M> {
    /// Waits until there is mail. One task may wait.
    pub async fn ready(&mut self) {
        poll_fn(|cx| self.poll_ready(cx)).await;
    }

    /// Ready when there is mail; otherwise the task is woken when there may be some.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.peers.iter().flatten().any(|peer| !peer.from.queue.is_empty()) {
            return Poll::Ready(());
        }
        self.alarm.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Takes out what is there, at most `max` from each core, each core's in its order. Returns how many.
    pub fn drain(&mut self, max: usize, mut each: impl FnMut(CoreId, Mail<M>)) -> usize {
        let cores = self.peers.len();
        let mut taken = 0;
        for index in (0..cores).map(|offset| (self.next + offset) % cores) {
            let Some(peer) = &self.peers[index] else { continue };
            let mut count = 0;
            while count < max
                && let Some(mail) = peer.pop()
            {
                count += 1;
                each(CoreId(index as u16), mail);
            }
            if count > 0 {
                // Once per batch: the cache line moves rarely.
                peer.from.taken.store(peer.taken.get(), Ordering::Release);
            }
            taken += count;
        }
        self.next = (self.next + 1) % cores.max(1);
        taken
    }

    /// Stops listening, before the executor ends. Mail that is still there is dropped.
    pub async fn close(self) {
        for bell in self.bells {
            bell.cancel().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::executor::start;
    use std::future::Future;

    const HERE: CoreId = CoreId(0);
    const THERE: CoreId = CoreId(1);

    type Ends = ((Outbox<u32>, Inbox<u32>), (Outbox<u32>, Inbox<u32>));

    /// Both ends of a pair of mailboxes on one executor, so that what happens when is the test's to say.
    fn between_two<B: Future<Output = ()> + 'static>(
        room: Room,
        body: impl Fn(Ends) -> B + Clone + Send + 'static,
    ) {
        let main = move |context: crate::runtime::executor::CoreContext| {
            let body = body.clone();
            async move {
                let mut seats = seats(2, room).into_iter();
                let here = seats.next().expect("two seats").open(&context.queues.requests).await;
                let there = seats.next().expect("two seats").open(&context.queues.requests).await;
                body((here, there)).await;
            }
        };
        start(&[None], main).unwrap().join().unwrap();
    }

    fn drain(inbox: &mut Inbox<u32>, max: usize) -> Vec<Mail<u32>> {
        let mut mail = Vec::new();
        inbox.drain(max, |_, letter| mail.push(letter));
        mail
    }

    #[test]
    fn full_mailbox_gives_the_message_back() {
        between_two(Room { messages: 2, asks: 2 }, async |((here, _hear), (_there, mut inbox))| {
            assert_eq!((here.try_tell(THERE, 1), here.try_ask(THERE, 2)), (Ok(()), Ok(())));
            assert_eq!((here.try_tell(THERE, 3), here.try_ask(THERE, 4)), (Err(3), Err(4)));
            assert_eq!(here.asks_open(), 1);
            assert_eq!(drain(&mut inbox, 1), [Mail::Tell(1)]);
            assert_eq!(here.try_tell(THERE, 5), Ok(()));
            assert_eq!(drain(&mut inbox, 9), [Mail::Ask(2), Mail::Tell(5)]);
        });
    }

    #[test]
    fn asks_are_bounded_by_their_answers() {
        between_two(Room { messages: 9, asks: 2 }, async |((here, mut hear), (there, mut inbox))| {
            assert_eq!((here.try_ask(THERE, 1), here.try_ask(THERE, 2)), (Ok(()), Ok(())));
            assert_eq!(drain(&mut inbox, 9).len(), 2);
            assert_eq!(here.try_ask(THERE, 3), Err(3));
            there.answer(HERE, 10);
            assert_eq!(here.try_ask(THERE, 3), Err(3), "an answer that was not taken out holds its room");
            assert_eq!(drain(&mut hear, 9), [Mail::Answer(10)]);
            assert_eq!(here.try_ask(THERE, 3), Ok(()));
        });
    }

    #[test]
    fn answers_fit_though_both_mailboxes_are_full() {
        let room = Room { messages: 3, asks: 3 };
        between_two(room, async |((here, mut hear), (there, mut inbox))| {
            for number in 0..3 {
                here.try_ask(THERE, number).unwrap();
                there.try_ask(HERE, number).unwrap();
            }
            assert_eq!((drain(&mut inbox, 9).len(), drain(&mut hear, 9).len()), (3, 3));
            for number in 0..3 {
                here.try_tell(THERE, number).unwrap();
                there.try_tell(HERE, number).unwrap();
            }
            assert_eq!((here.try_tell(THERE, 9), there.try_tell(HERE, 9)), (Err(9), Err(9)));
            for number in 0..3 {
                here.answer(THERE, number);
                there.answer(HERE, number);
            }
            let all =
                [0, 1, 2].map(Mail::Tell).into_iter().chain([0, 1, 2].map(Mail::Answer)).collect::<Vec<_>>();
            assert_eq!((drain(&mut inbox, 9), drain(&mut hear, 9)), (all.clone(), all));
        });
    }

    #[test]
    #[should_panic(expected = "core 1 owes core 0 no answer")]
    fn answer_without_an_ask_is_a_defect() {
        between_two(Room::default(), async |(_, (there, _))| there.answer(HERE, 1));
    }

    #[test]
    fn flush_wakes_who_waits() {
        between_two(Room::default(), async |((here, _hear), (_there, mut inbox))| {
            let (send, mut waits) = (here.clone(), std::pin::pin!(inbox.ready()));
            poll_fn(|cx| {
                assert!(waits.as_mut().poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            send.try_tell(THERE, 1).unwrap();
            send.flush();
            waits.await;
        });
    }
}
