//! The waker of a Rust future on a loop.
//!
//! It holds no Python object and needs no GIL: a wake-up is a message to the loop, unless the
//! future is being polled right now, when one atomic swap tells the poll.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Wake;

use pyo3::prelude::*;

use crate::api::futures::arena::{FutureSlot, Release, sweep};
use crate::scheduler::inbox::{Inbox, Message, ParkedEntry, SlotKey};

const PARKED: u8 = 0;
const POLLED: u8 = 1;
const WOKEN: u8 = 2;

/// A future's place on a loop: where it lives, and how it is woken.
pub struct FutureWaker {
    inbox: Arc<Inbox>,
    key: SlotKey,
    /// PARKED: waits; a wake-up sends a message. POLLED: a wake-up is seen when the poll is over.
    /// WOKEN: it will be polled; further wake-ups add nothing.
    state: AtomicU8,
    slot: Arc<FutureSlot>,
}

impl FutureWaker {
    /// The place `key`, which nobody polls yet.
    pub fn new(inbox: Arc<Inbox>, key: SlotKey, slot: Arc<FutureSlot>) -> Self {
        Self { inbox, key, state: AtomicU8::new(WOKEN), slot }
    }

    /// The place's name on the loop.
    pub fn key(&self) -> SlotKey {
        self.key
    }

    /// To be called right before a poll: wakes from here on ask for another one.
    #[inline]
    pub fn begin_poll(&self) {
        self.state.store(POLLED, Ordering::SeqCst);
    }

    /// After a poll that is pending: whether it waits. If not, it was woken meanwhile and is to be
    /// polled again.
    #[inline]
    pub fn end_poll(&self) -> bool {
        self.state.compare_exchange(POLLED, PARKED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// No poll will follow: wakes do nothing any more.
    #[inline]
    pub fn retire(&self) {
        self.state.store(WOKEN, Ordering::SeqCst);
    }

    /// Drops the future, here or in its thread.
    pub fn release(&self) {
        self.retire();
        if let Release::DeferredToItsThread = self.slot.release() {
            // If the loop is closed the thread drops it the next time it makes or drops a
            // future, or when it ends.
            let call = Message::Call(Box::new(|_scheduler| {
                sweep();
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
