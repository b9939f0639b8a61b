//! Wakes a task of another executor, or of this one from a plain thread, without lending it a waker.
//!
//! glommio's wakers may be freed twice when their last copy is dropped on a foreign thread, and each foreign wake takes
//! a lock of the process. A channel of one token whose two ends were joined on the listening executor does neither:
//! ringing is a store, and a system call only if the listener is asleep. Making a bell leaks a few hundred bytes, and
//! the first one of an executor keeps its eventfd open until the process ends: bells are made at start, not as one goes.

use futures_util::future::join;
use glommio::GlommioError;
use glommio::channels::shared_channel::{ConnectedReceiver, ForeignSender, new_bounded};
use std::sync::atomic::{Ordering, fence};
use std::sync::{Mutex, PoisonError};

/// The end that rings. One thread at a time owns it.
pub struct Ringer(ForeignSender<()>);

impl Ringer {
    /// Wakes the listener. What was written before is seen by it; rings that it has not heard yet are one.
    pub fn ring(&self) {
        // With the fence of `heard`: either it sees what was written, or this sees that its token is gone.
        fence(Ordering::SeqCst);
        let sent = self.0.try_send(());
        debug_assert!(matches!(sent, Ok(()) | Err(GlommioError::WouldBlock(_) | GlommioError::Closed(_))));
        // Full: a token that lies there still is as good. Closed: a listener that has gone needs no waking.
    }
}

/// The end that listens; it stays on its executor.
pub struct Bell(ConnectedReceiver<()>);

impl Bell {
    /// A bell for this executor.
    pub async fn new() -> (Ringer, Bell) {
        let (sender, receiver) = new_bounded(1);
        let (sender, receiver) = join(sender.connect(), receiver.connect()).await;
        (Ringer(sender.into_foreign()), Bell(receiver))
    }

    /// Waits for a ring; false if the ringer has gone and will not ring again. Look at what it announces after each
    /// return, and once before the first call.
    pub async fn heard(&self) -> bool {
        let rung = self.0.recv().await.is_some();
        fence(Ordering::SeqCst);
        rung
    }
}

/// Where a listener that has started leaves the ringer for the thread that is to have it.
#[derive(Default)]
pub(super) struct Post(Mutex<Option<Ringer>>);

impl Post {
    pub(super) fn leave(&self, ringer: Ringer) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(ringer);
    }

    /// None: the listener has not started; it will look at what was written before this call when it does.
    pub(super) fn fetch(&self) -> Option<Ringer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
