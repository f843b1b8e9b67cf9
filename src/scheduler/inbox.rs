//! Messages to a loop, sent without the GIL: wake-ups of Rust futures, calls from other threads,
//! and replies of threads that run no Python.
//!
//! Senders need no interpreter: an [`Inbox`] holds no Python object. The loop reads it at the start
//! of a turn and after each poll. A sender enqueues its message and then notifies the loop; the
//! loop marks itself asleep and then checks for messages: so it either sees the message or is
//! woken.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::{Runnable, Scheduler};
use crate::ffi::exception::PyOutcome;
use crate::reactor::{Slab, SlotKey, WakeSignal};
use crate::sys::fork::Generation;

/// How long to try for a lock in a forked child, where its holder may no longer exist.
const ORPHANED_LOCK_TIMEOUT: Duration = Duration::from_millis(100);

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

/// The messages of one loop. Threads that outlive the loop may keep it.
pub struct Inbox {
    wake_signal: Arc<WakeSignal>,
    /// `None` once the loop is closed.
    messages: Mutex<Option<Vec<Message>>>,
    has_any: AtomicBool,
    /// In a forked child the lock may be held by a thread that does not exist there.
    generation: Generation,
}

impl Inbox {
    /// An empty inbox.
    pub fn new(wake_signal: Arc<WakeSignal>) -> Self {
        Self {
            wake_signal,
            messages: Mutex::new(Some(Vec::new())),
            has_any: AtomicBool::new(false),
            generation: Generation::current(),
        }
    }

    /// Enqueues a message and wakes the loop if it sleeps. Callable from any thread, without the
    /// GIL.
    ///
    /// # Errors
    /// Returns the message if the loop is closed.
    pub fn post(&self, message: Message) -> Result<(), Message> {
        self.enqueue(message).map(|wake_signal| wake_signal.notify())
    }

    /// Enqueues a message and returns the wake signal, which the caller must notify afterwards.
    ///
    /// # Errors
    /// Returns the message if the loop is closed.
    pub fn enqueue(&self, message: Message) -> Result<Arc<WakeSignal>, Message> {
        match self.lock().as_deref_mut() {
            Some(Some(messages)) => messages.push(message),
            _ => return Err(message),
        }
        self.has_any.store(true, Ordering::SeqCst);
        Ok(self.wake_signal.clone())
    }

    /// Whether there are messages.
    #[inline(always)]
    pub(super) fn has_messages(&self) -> bool {
        self.has_any.load(Ordering::SeqCst)
    }

    fn take(&self) -> Vec<Message> {
        self.has_any.store(false, Ordering::SeqCst);
        self.lock().as_deref_mut().and_then(Option::as_mut).map(std::mem::take).unwrap_or_default()
    }

    /// Takes the replies only.
    fn take_replies(&self) -> Vec<Message> {
        let mut taken = Vec::new();
        if let Some(Some(messages)) = self.lock().as_deref_mut() {
            let (replies, others) = std::mem::take(messages)
                .into_iter()
                .partition(|message| matches!(message, Message::Reply(..)));
            taken = replies;
            *messages = others;
            self.has_any.store(!messages.is_empty(), Ordering::SeqCst);
        }
        taken
    }

    /// Refuses further messages. Returns the unread ones.
    fn close(&self) -> Vec<Message> {
        self.has_any.store(false, Ordering::SeqCst);
        self.lock().as_deref_mut().and_then(Option::take).unwrap_or_default()
    }

    fn lock(&self) -> Option<MutexGuard<'_, Option<Vec<Message>>>> {
        if self.generation.is_current() {
            Some(self.messages.lock())
        } else {
            // Threads hold the lock only briefly, except one that does not exist in this child.
            self.messages.try_lock_for(ORPHANED_LOCK_TIMEOUT)
        }
    }
}

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

/// The runnables that wait for a wake-up or a reply, by key.
#[derive(Default)]
pub struct Parked(Slab<ParkedSlot>);

impl Parked {
    /// Reserves a slot; `entry` creates its owner from the slot's key.
    pub fn reserve<R: ParkedEntry + 'static>(
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

    /// Parks `runnable` until a [`Message::Reply`].
    pub fn await_reply(&mut self, runnable: Runnable) -> SlotKey {
        self.0.insert(ParkedSlot { waiting: Some(runnable), entry: None })
    }

    /// Parks `runnable` until the next wake-up. Returns what the caller has to drop.
    #[must_use = "dropping a runnable may run Python: do it where that is safe"]
    pub fn park(&mut self, key: SlotKey, runnable: Runnable) -> Option<Runnable> {
        match self.0.get_mut(key) {
            Some(slot) => slot.waiting.replace(runnable),
            None => Some(runnable),
        }
    }

    /// Removes and returns the parked runnable.
    pub fn unpark(&mut self, key: SlotKey) -> Option<Runnable> {
        self.0.get_mut(key)?.waiting.take()
    }

    /// Releases the slot. `None` if the key is no longer valid.
    pub fn release(&mut self, key: SlotKey) -> Option<ParkedSlot> {
        self.0.remove(key)
    }

    /// Releases all slots, which invalidates all keys.
    fn take_all(&mut self) -> Vec<ParkedSlot> {
        self.0.take_all()
    }

    /// Reports the parked runnables to the garbage collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
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
    for message in this.inbox.take() {
        // Process all of them even if one raises.
        result = result.and(match message {
            Message::Wake(key) => match this.parked.with(py, |parked| parked.unpark(key)) {
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
    let inbox = &scheduler.get().inbox;
    if !inbox.has_messages() {
        return Ok(());
    }
    let mut result = Ok(());
    for message in inbox.take_replies() {
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
    let released = scheduler.get().parked.with(py, |parked| parked.release(key));
    match released.and_then(|released| released.waiting) {
        Some(waiting) => reply(scheduler, waiting),
        None => Ok(()), // it was cancelled
    }
}

/// Refuses further messages and cancels all owners of slots; part of closing the loop.
pub(super) fn close(py: Python<'_>, scheduler: &Scheduler) {
    drop(scheduler.inbox.close());
    let cancelled = scheduler.parked.with(py, Parked::take_all);
    for entry in cancelled.iter().filter_map(|released| released.entry.as_ref()) {
        entry.cancel(py);
    }
    drop(cancelled);
}
