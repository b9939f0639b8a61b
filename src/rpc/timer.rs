//! hyper's timer on the core's own wheel. hyper wants its sleeps `Send + Sync`, although on a core nothing ever moves:
//! [`Pinned`] asserts that.
#![allow(unsafe_code, reason = "Send and Sync for values that assert their thread at every use")]

use super::backend::Backend;
use crate::types::Mono;
use std::future::Future;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// hyper's clock and sleeps, from a backend's.
pub(crate) struct Timer<B> {
    backend: Pinned<B>,
    /// The same moment on both clocks: hyper reckons in `Instant`s, which cannot be made from a number.
    origin: (Instant, Mono),
}

/// A value that lives and dies on one thread.
struct Pinned<T> {
    value: ManuallyDrop<T>,
    /// [`here`] on its thread.
    thread: usize,
}

struct Sleep<S>(Pin<Box<Pinned<S>>>);

// SAFETY: every access to the value, its end included, first asserts that it happens on the thread that made it; so it
// is never touched by two threads, whichever of them own the wrapper.
unsafe impl<T> Send for Pinned<T> {}
// SAFETY: as above; a shared reference gives nothing but `get`, which asserts.
unsafe impl<T> Sync for Pinned<T> {}

impl<B: Backend> Timer<B> {
    pub(crate) fn new(backend: B) -> Timer<B> {
        let origin = (Instant::now(), backend.mono());
        Timer { backend: Pinned::new(backend), origin }
    }

    fn instant(&self, at: Mono) -> Instant {
        self.origin.0 + Duration::from_nanos(at.since(self.origin.1))
    }
}

impl<B: Backend> hyper::rt::Timer for Timer<B> {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep_until(self.instant(self.backend.get().mono()) + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        let ns = deadline.saturating_duration_since(self.origin.0).as_nanos();
        let at = self.origin.1 + u64::try_from(ns).unwrap_or(u64::MAX);
        Box::pin(Sleep(Box::pin(Pinned::new(self.backend.get().sleep_until(at)))))
    }

    /// For keep-alives, which ask at every frame: the last tick is near enough.
    fn now(&self) -> Instant {
        self.instant(self.backend.get().last_tick())
    }
}

impl<T> Pinned<T> {
    fn new(value: T) -> Pinned<T> {
        Pinned { value: ManuallyDrop::new(value), thread: here() }
    }

    fn get(&self) -> &T {
        self.assert_thread();
        &self.value
    }

    fn get_pin_mut(self: Pin<&mut Self>) -> Pin<&mut T> {
        self.assert_thread();
        // SAFETY: the value is structurally pinned: it is reached only through this function once pinned, and dropped
        // in place.
        unsafe { self.map_unchecked_mut(|pinned| &mut *pinned.value) }
    }

    fn assert_thread(&self) {
        assert_eq!(here(), self.thread, "a core's value left its core");
    }
}

/// What tells this thread from all others that live: asked for at every frame, where a `ThreadId` costs a shared counter.
fn here() -> usize {
    thread_local!(static HERE: u8 = const { 0 });
    HERE.with(|here| std::ptr::from_ref(here).addr())
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        self.assert_thread();
        // SAFETY: dropped once, here, and not used after.
        unsafe { ManuallyDrop::drop(&mut self.value) }
    }
}

impl<S: Future<Output = ()>> Future for Sleep<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().get_pin_mut().poll(cx)
    }
}

impl<S: Future<Output = ()>> hyper::rt::Sleep for Sleep<S> {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;
    use std::thread;

    #[test]
    fn value_is_used_and_dropped_on_its_thread() {
        let alive = Rc::new(());
        let pinned = Pinned::new(Rc::clone(&alive));
        assert_eq!(Rc::strong_count(pinned.get()), 2);
        drop(pinned);
        assert_eq!(Rc::strong_count(&alive), 1);
    }

    #[test]
    fn use_on_another_thread_is_caught() {
        let pinned = Pinned::new(1u32);
        let seen = thread::scope(|scope| {
            scope.spawn(|| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| *pinned.get()))).join()
        });
        assert!(seen.expect("the panic is caught inside").is_err());
    }
}
