//! The waker of a Rust future on a loop.
//!
//! It holds no Python object and needs no GIL: a wake-up is a message to the loop
//! (`scheduler/inbox.rs`), or, while `coroutine.rs` polls the future, one atomic swap that it sees
//! after the poll.

use std::sync::Arc;
use std::task::Wake;

use pyo3::prelude::*;

use crate::api::futures::arena::{FutureSlot, Release, drop_released_futures};
use crate::api::futures::poll_state::PollState;
use crate::reactor::SlotKey;
use crate::scheduler::inbox::{Inbox, Message, ParkedEntry};

/// Wakes one future of a loop and releases its slot.
pub struct FutureWaker {
    inbox: Arc<Inbox>,
    key: SlotKey,
    state: PollState,
    slot: Arc<FutureSlot>,
}

impl FutureWaker {
    /// A waker for the future in `slot`, which has not been polled yet. The loop parks it as `key`.
    pub fn new(inbox: Arc<Inbox>, key: SlotKey, slot: Arc<FutureSlot>) -> Self {
        Self { inbox, key, state: PollState::default(), slot }
    }

    /// The loop's key of what waits for this waker.
    pub fn key(&self) -> SlotKey {
        self.key
    }

    /// Which wake-ups count.
    #[inline]
    pub fn state(&self) -> &PollState {
        &self.state
    }

    /// Drops the future, or asks its thread to drop it.
    pub fn release(&self) {
        self.state.retire();
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
        if self.state.wake() {
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
