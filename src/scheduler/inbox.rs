//! Messages to a loop, sent without the GIL: wake-ups of Rust futures, calls from other threads,
//! and replies of threads that run no Python.
//!
//! Senders need no interpreter: an [`Inbox`] holds no Python object (`message_queue.rs`). The loop
//! reads it at the start of a turn and after each poll.

use std::sync::Arc;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::message_queue::MessageQueue;
use super::{Runnable, Scheduler};
use crate::ffi::exception::PyOutcome;
use crate::ffi::panic;
use crate::reactor::{Slab, SlotKey};

/// A function to call on the loop's thread.
pub type LoopCall = Box<dyn for<'py> FnOnce(&Bound<'py, Scheduler>) -> PyOutcome<'py, ()> + Send>;

/// A function to call with the runnable that waits for the reply, on the loop's thread and perhaps
/// inside a callback: it may finish a future, but must not call the program's code.
pub type Reply =
    Box<dyn for<'py> FnOnce(&Bound<'py, Scheduler>, Runnable) -> PyOutcome<'py, ()> + Send>;

/// One message.
pub enum Message {
    /// Wakes the runnable that is parked under the key.
    Wake(SlotKey),
    /// Calls a function between two callbacks.
    Call(LoopCall),
    /// Replies to the runnable that waits under the key, and releases its slot.
    Reply(SlotKey, Reply),
}

/// The messages of one loop.
pub type Inbox = MessageQueue<Message>;

/// The owner of a reserved slot.
pub trait ParkedEntry: Send + Sync {
    /// The loop is closed: drop everything. May run any code.
    fn cancel(&self, py: Python<'_>);
}

/// What a slot held, which the caller drops where running Python code is safe.
#[derive(Default)]
#[must_use = "dropping a runnable may run Python: do it where that is safe"]
pub struct ParkedSlot {
    waiting: Option<Runnable>,
    entry: Option<Arc<dyn ParkedEntry>>,
}

impl Scheduler {
    /// Reserves a slot for a runnable; `entry` creates the slot's owner from its key.
    pub fn reserve_slot<R: ParkedEntry + 'static>(
        &self,
        py: Python<'_>,
        entry: impl FnOnce(SlotKey) -> Arc<R>,
    ) -> Arc<R> {
        self.core.parked.with(py, |parked| parked.reserve(entry))
    }

    /// Parks `runnable` until a [`Message::Reply`].
    pub fn await_reply(&self, py: Python<'_>, runnable: Runnable) -> SlotKey {
        self.core.parked.with(py, |parked| parked.await_reply(runnable))
    }

    /// Parks `runnable` until the next [`Message::Wake`]. Returns what the caller has to drop.
    #[inline]
    #[must_use = "dropping a runnable may run Python: do it where that is safe"]
    pub fn park(&self, py: Python<'_>, key: SlotKey, runnable: Runnable) -> Option<Runnable> {
        self.core.parked.with(py, |parked| parked.park(key, runnable))
    }

    /// Releases a slot. `None` if the key is no longer valid.
    pub fn release_slot(&self, py: Python<'_>, key: SlotKey) -> Option<ParkedSlot> {
        self.core.parked.with(py, |parked| parked.release(key))
    }
}

/// The runnables that wait for a wake-up or a reply, by key.
#[derive(Default)]
pub(super) struct Parked(Slab<ParkedSlot>);

impl Parked {
    fn reserve<R: ParkedEntry + 'static>(
        &mut self,
        entry: impl FnOnce(SlotKey) -> Arc<R>,
    ) -> Arc<R> {
        let key = self.0.insert(ParkedSlot::default());
        let entry = entry(key);
        if let Some(slot) = self.0.get_mut(key) {
            slot.entry = Some(entry.clone());
        }
        entry
    }

    fn await_reply(&mut self, runnable: Runnable) -> SlotKey {
        self.0.insert(ParkedSlot { waiting: Some(runnable), entry: None })
    }

    fn park(&mut self, key: SlotKey, runnable: Runnable) -> Option<Runnable> {
        match self.0.get_mut(key) {
            Some(slot) => slot.waiting.replace(runnable),
            None => Some(runnable),
        }
    }

    /// Removes and returns the parked runnable.
    fn unpark(&mut self, key: SlotKey) -> Option<Runnable> {
        self.0.get_mut(key)?.waiting.take()
    }

    fn release(&mut self, key: SlotKey) -> Option<ParkedSlot> {
        self.0.remove(key)
    }

    /// Releases all slots, which invalidates all keys.
    fn take_all(&mut self) -> Vec<ParkedSlot> {
        self.0.take_all()
    }

    /// Reports the parked runnables to the garbage collector.
    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0
            .iter()
            .filter_map(|slot| slot.waiting.as_ref())
            .try_for_each(|waiting| waiting.traverse(visit))
    }
}

/// Processes all messages. Called between two callbacks, with no current task.
#[cold]
pub(super) fn read<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let this = scheduler.get();
    let mut result = Ok(());
    for message in this.shared.inbox.take() {
        // Process all of them even if one raises.
        result = result.and(match message {
            Message::Wake(key) => match this.core.parked.with(py, |parked| parked.unpark(key)) {
                Some(runnable) => (runnable.kind.run)(scheduler, runnable),
                None => Ok(()), // it was resumed already, or has finished
            },
            Message::Call(call) => call(scheduler),
            Message::Reply(key, reply) => deliver(scheduler, key, reply),
        });
    }
    result
}

/// Delivers replies and leaves all other messages for the next turn: the caller may be inside a
/// callback.
pub(super) fn deliver_replies<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let inbox = &scheduler.get().shared.inbox;
    if !inbox.has_messages() {
        return Ok(());
    }
    let mut result = Ok(());
    for message in inbox.take_matching(|message| matches!(message, Message::Reply(..))) {
        if let Message::Reply(key, reply) = message {
            result = result.and(deliver(scheduler, key, reply));
        }
    }
    result
}

fn deliver<'py>(
    scheduler: &Bound<'py, Scheduler>,
    key: SlotKey,
    reply: Reply,
) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let released = scheduler.get().core.parked.with(py, |parked| parked.release(key));
    match released.and_then(|released| released.waiting) {
        Some(waiting) => reply(scheduler, waiting),
        None => Ok(()), // it was cancelled
    }
}

/// Refuses further messages and cancels all owners of slots; part of closing the loop.
pub(super) fn close(py: Python<'_>, scheduler: &Scheduler) {
    for message in scheduler.shared.inbox.close() {
        // A message may own the program's values, such as a future that was never started.
        panic::drop_catching(message);
    }
    let cancelled = scheduler.core.parked.with(py, Parked::take_all);
    for entry in cancelled.iter().filter_map(|released| released.entry.as_ref()) {
        entry.cancel(py);
    }
    drop(cancelled);
}
