//! The waker of a Rust future on a loop.
//!
//! It holds no Python object and needs no GIL: a wake-up is a message to the loop
//! (`scheduler/inbox.rs`), or, while `coroutine.rs` polls the future, one atomic swap that it sees
//! after the poll.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Wake;

use pyo3::prelude::*;

use crate::api::futures::arena::{FutureSlot, Release, drop_released_futures};
use crate::reactor::SlotKey;
use crate::scheduler::inbox::{Inbox, Message, ParkedEntry};

const PARKED: u8 = 0;
const POLLED: u8 = 1;
const WOKEN: u8 = 2;

/// Wakes one future of a loop and releases its slot.
pub struct FutureWaker {
    inbox: Arc<Inbox>,
    key: SlotKey,
    /// PARKED: a wake-up sends a message. POLLED: the poll in progress sees a wake-up when it ends.
    /// WOKEN: the future will be polled, and further wake-ups have no effect.
    state: AtomicU8,
    slot: Arc<FutureSlot>,
}

impl FutureWaker {
    /// A waker for the future in `slot`, which has not been polled yet. The loop parks it as `key`.
    pub fn new(inbox: Arc<Inbox>, key: SlotKey, slot: Arc<FutureSlot>) -> Self {
        Self { inbox, key, state: AtomicU8::new(WOKEN), slot }
    }

    /// The loop's key of what waits for this waker.
    pub fn key(&self) -> SlotKey {
        self.key
    }

    /// Must be called right before a poll: wake-ups from here on request another poll.
    #[inline]
    pub fn begin_poll(&self) {
        self.state.store(POLLED, Ordering::SeqCst);
    }

    /// After a poll that returned pending: true if the future is now parked, false if it was woken
    /// during the poll and must be polled again.
    #[inline]
    pub fn end_poll(&self) -> bool {
        self.state.compare_exchange(POLLED, PARKED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// No poll will follow: wake-ups have no effect from now on.
    #[inline]
    pub fn retire(&self) {
        self.state.store(WOKEN, Ordering::SeqCst);
    }

    /// Drops the future, or asks its thread to drop it.
    pub fn release(&self) {
        self.retire();
        if let Release::Deferred = self.slot.release() {
            // If the loop is closed, the thread drops the future the next time it creates or drops
            // one, or when it ends.
            let call = Message::Call(Box::new(|_scheduler| {
                drop_released_futures();
                Ok(())
            }));
            drop(self.inbox.post(call));
        }
    }
}

impl Wake for FutureWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    #[inline]
    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(WOKEN, Ordering::SeqCst) == PARKED {
            // A closed loop has dropped the future.
            drop(self.inbox.post(Message::Wake(self.key)));
        }
    }
}

impl ParkedEntry for FutureWaker {
    fn cancel(&self, _py: Python<'_>) {
        self.release();
    }
}
