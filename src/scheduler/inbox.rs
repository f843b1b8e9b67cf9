//! What reaches a loop without the GIL: wake-ups of Rust futures, calls from other threads, and
//! replies of threads that know no Python.
//!
//! Senders need no interpreter: an [`Inbox`] holds no Python object. The loop looks into it at the
//! start of a turn and after each poll. A sender leaves its message, then rings; the loop marks
//! itself asleep, then looks for messages: so it either sees the message or is rung.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::{Runnable, Scheduler};
use crate::ffi::exception::PyOutcome;
use crate::reactor::WakeSignal;
use crate::sys::fork::Generation;

const ORPHANED_LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// Something to be done on the loop's thread.
pub type LoopCall = Box<dyn for<'py> FnOnce(&Bound<'py, Scheduler>) -> PyOutcome<'py, ()> + Send>;

/// What is to be done with what waits for it, on the loop's thread and maybe inside of a callback:
/// it may finish a future, but not call the program's code.
pub type Reply =
    Box<dyn for<'py> FnOnce(&Bound<'py, Scheduler>, Runnable) -> PyOutcome<'py, ()> + Send>;

/// One message.
pub enum Message {
    /// Whoever is parked under the key may go on.
    Wake(SlotKey),
    /// A function to call between two callbacks.
    Call(LoopCall),
    /// For what waits under the key, which leaves its slot.
    Reply(SlotKey, Reply),
}

/// The messages of one loop; may be kept by threads that outlive it.
pub struct Inbox {
    wake_signal: Arc<WakeSignal>,
    /// None once the loop is closed.
    messages: Mutex<Option<Vec<Message>>>,
    any: AtomicBool,
    /// In a fork's child the lock may be held by a thread that does not exist there.
    generation: Generation,
}

impl Inbox {
    /// Empty.
    pub fn new(wake_signal: Arc<WakeSignal>) -> Self {
        Self {
            wake_signal,
            messages: Mutex::new(Some(Vec::new())),
            any: AtomicBool::new(false),
            generation: Generation::current(),
        }
    }

    /// Leaves a message and wakes the loop if it sleeps. Safe in any thread, needs no GIL.
    ///
    /// # Errors
    /// Hands the message back if the loop is closed.
    pub fn post(&self, message: Message) -> Result<(), Message> {
        self.enqueue(message).map(|wake_signal| wake_signal.notify())
    }

    /// Leaves a message and returns the wake signal, to be rung afterwards.
    ///
    /// # Errors
    /// Hands the message back if the loop is closed.
    pub fn enqueue(&self, message: Message) -> Result<Arc<WakeSignal>, Message> {
        match self.lock().as_deref_mut() {
            Some(Some(messages)) => messages.push(message),
            _ => return Err(message),
        }
        self.any.store(true, Ordering::SeqCst);
        Ok(self.wake_signal.clone())
    }

    /// Whether there are messages.
    #[inline(always)]
    pub(super) fn has_messages(&self) -> bool {
        self.any.load(Ordering::SeqCst)
    }

    fn take(&self) -> Vec<Message> {
        self.any.store(false, Ordering::SeqCst);
        self.lock().as_deref_mut().and_then(Option::as_mut).map(std::mem::take).unwrap_or_default()
    }

    /// The replies alone.
    fn take_replies(&self) -> Vec<Message> {
        let mut taken = Vec::new();
        if let Some(Some(messages)) = self.lock().as_deref_mut() {
            let (replies, others) = std::mem::take(messages)
                .into_iter()
                .partition(|message| matches!(message, Message::Reply(..)));
            taken = replies;
            *messages = others;
            self.any.store(!messages.is_empty(), Ordering::SeqCst);
        }
        taken
    }

    /// No more messages. Returns those that nobody has read.
    fn close(&self) -> Vec<Message> {
        self.any.store(false, Ordering::SeqCst);
        self.lock().as_deref_mut().and_then(Option::take).unwrap_or_default()
    }

    fn lock(&self) -> Option<MutexGuard<'_, Option<Vec<Message>>>> {
        if self.generation.is_current() {
            Some(self.messages.lock())
        } else {
            // Nobody holds it for long, except a thread that the fork left behind.
            self.messages.try_lock_for(ORPHANED_LOCK_TIMEOUT)
        }
    }
}

/// Names a slot in [`Parked`]; a slot given back and taken again has another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotKey {
    index: u32,
    generation: u32,
}

/// What a slot is reserved for.
pub trait ParkedEntry: Send + Sync {
    /// The loop is closed: lets go of everything. May run any code.
    fn cancel(&self, py: Python<'_>);
}

/// What a slot held, to be dropped where that is safe.
#[must_use = "dropping a runnable may run Python: do it where that is safe"]
pub struct ReleasedSlot {
    waiting: Option<Runnable>,
    entry: Option<Arc<dyn ParkedEntry>>,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    taken: bool,
    entry: Option<Arc<dyn ParkedEntry>>,
    waiting: Option<Runnable>,
}

/// Who waits for a wake-up, by key.
#[derive(Default)]
pub struct Parked {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Parked {
    /// Reserves a slot; `entry` makes what lives there, of its key.
    pub fn reserve<R: ParkedEntry + 'static>(
        &mut self,
        entry: impl FnOnce(SlotKey) -> Arc<R>,
    ) -> Arc<R> {
        let (key, slot) = self.free_slot();
        let entry = entry(key);
        slot.entry = Some(entry.clone());
        entry
    }

    /// Has `runnable` wait for a [`Message::Reply`].
    pub fn await_reply(&mut self, runnable: Runnable) -> SlotKey {
        let (key, slot) = self.free_slot();
        slot.waiting = Some(runnable);
        key
    }

    fn free_slot(&mut self) -> (SlotKey, &mut Slot) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 futures fit in memory")
        });
        let slot = &mut self.slots[index as usize];
        slot.taken = true;
        (SlotKey { index, generation: slot.generation }, slot)
    }

    fn slot(&mut self, key: SlotKey) -> Option<&mut Slot> {
        self.slots
            .get_mut(key.index as usize)
            .filter(|slot| slot.generation == key.generation && slot.taken)
    }

    /// Has `runnable` run at the next wake-up. Returns what has to be dropped.
    #[must_use = "dropping a runnable may run Python: do it where that is safe"]
    pub fn park(&mut self, key: SlotKey, runnable: Runnable) -> Option<Runnable> {
        match self.slot(key) {
            Some(slot) => slot.waiting.replace(runnable),
            None => Some(runnable),
        }
    }

    /// Takes what waits.
    pub fn unpark(&mut self, key: SlotKey) -> Option<Runnable> {
        self.slot(key)?.waiting.take()
    }

    /// Gives the slot back. None if the key is void already.
    pub fn release(&mut self, key: SlotKey) -> Option<ReleasedSlot> {
        let slot = self.slot(key)?;
        slot.generation = slot.generation.wrapping_add(1);
        slot.taken = false;
        let released = ReleasedSlot { waiting: slot.waiting.take(), entry: slot.entry.take() };
        self.free.push(key.index);
        Some(released)
    }

    /// Takes everything; all keys are void.
    fn take_all(&mut self) -> Vec<ReleasedSlot> {
        let keys: Vec<_> = (0u32..)
            .zip(&self.slots)
            .map(|(index, slot)| SlotKey { index, generation: slot.generation })
            .collect();
        keys.into_iter().filter_map(|key| self.release(key)).collect()
    }

    /// Shows what waits to the cyclic collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.slots
            .iter()
            .filter_map(|slot| slot.waiting.as_ref())
            .try_for_each(|waiting| waiting.traverse(visit))
    }
}

/// Runs what messages ask for. To be called between two callbacks, with no current task.
#[cold]
pub(super) fn read<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let this = scheduler.get();
    let mut result = Ok(());
    for message in this.inbox.take() {
        // All of them, whatever one of them raises.
        result = result.and(match message {
            Message::Wake(key) => match this.parked.with(py, |parked| parked.unpark(key)) {
                Some(runnable) => (runnable.kind.run)(scheduler, runnable),
                None => Ok(()), // it went on already, or is over
            },
            Message::Call(call) => call(scheduler),
            Message::Reply(key, reply) => deliver(scheduler, key, reply),
        });
    }
    result
}

/// Delivers replies, and leaves everything else for the next turn: this may be inside of a
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
        None => Ok(()), // cancelled meanwhile
    }
}

/// Refuses further messages and evicts everybody; part of closing the loop.
pub(super) fn close(py: Python<'_>, scheduler: &Scheduler) {
    drop(scheduler.inbox.close());
    let cancelled = scheduler.parked.with(py, Parked::take_all);
    for entry in cancelled.iter().filter_map(|released| released.entry.as_ref()) {
        entry.cancel(py);
    }
    drop(cancelled);
}
