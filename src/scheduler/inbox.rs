//! What reaches a loop without the GIL: wake-ups of Rust futures, calls from other threads, and
//! answers of threads that know no Python.
//!
//! Senders need no interpreter: an [`Inbox`] holds no Python object. The loop looks into it at the
//! start of a turn and after each poll. A sender leaves its letter, then rings; the loop marks
//! itself asleep, then looks for letters: so it either sees the letter or is rung.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::{Alarm, Runnable, Scheduler};
use crate::ffi::exception::PyOutcome;
use crate::sys::fork::Generation;

const LONGER_THAN_ANYBODY_WRITES: Duration = Duration::from_millis(100);

/// Something to be done on the loop's thread.
pub type Call = Box<dyn for<'py> FnOnce(&Bound<'py, Scheduler>) -> PyOutcome<'py, ()> + Send>;

/// What is to be done with what waits for it, on the loop's thread and maybe inside of a callback:
/// it may finish a future, but not call the program's code.
pub type Answer =
    Box<dyn for<'py> FnOnce(&Bound<'py, Scheduler>, Runnable) -> PyOutcome<'py, ()> + Send>;

/// One message.
pub enum Letter {
    /// Whoever is parked under the key may go on.
    Wake(Key),
    /// A function to call between two callbacks.
    Call(Call),
    /// For what waits under the key, which leaves its place.
    Answer(Key, Answer),
}

/// The letters of one loop; may be kept by threads that outlive it.
pub struct Inbox {
    alarm: Arc<Alarm>,
    /// None once the loop is closed.
    letters: Mutex<Option<Vec<Letter>>>,
    any: AtomicBool,
    /// In a fork's child the lock may be held by a thread that does not exist there.
    generation: Generation,
}

impl Inbox {
    /// Empty.
    pub fn new(alarm: Arc<Alarm>) -> Self {
        Self {
            alarm,
            letters: Mutex::new(Some(Vec::new())),
            any: AtomicBool::new(false),
            generation: Generation::current(),
        }
    }

    /// Leaves a letter and wakes the loop if it sleeps. Safe in any thread, needs no GIL.
    ///
    /// # Errors
    /// Hands the letter back if the loop is closed.
    pub fn post(&self, letter: Letter) -> Result<(), Letter> {
        self.leave(letter).map(|alarm| alarm.ring())
    }

    /// Leaves a letter and returns the alarm, to be rung afterwards.
    ///
    /// # Errors
    /// Hands the letter back if the loop is closed.
    pub fn leave(&self, letter: Letter) -> Result<Arc<Alarm>, Letter> {
        match self.lock().as_deref_mut() {
            Some(Some(letters)) => letters.push(letter),
            _ => return Err(letter),
        }
        self.any.store(true, Ordering::SeqCst);
        Ok(self.alarm.clone())
    }

    /// Whether there are letters.
    #[inline(always)]
    pub(super) fn has_letters(&self) -> bool {
        self.any.load(Ordering::SeqCst)
    }

    fn take(&self) -> Vec<Letter> {
        self.any.store(false, Ordering::SeqCst);
        self.lock().as_deref_mut().and_then(Option::as_mut).map(std::mem::take).unwrap_or_default()
    }

    /// The answers alone.
    fn take_answers(&self) -> Vec<Letter> {
        let mut taken = Vec::new();
        if let Some(Some(letters)) = self.lock().as_deref_mut() {
            let (answers, others) = std::mem::take(letters)
                .into_iter()
                .partition(|letter| matches!(letter, Letter::Answer(..)));
            taken = answers;
            *letters = others;
            self.any.store(!letters.is_empty(), Ordering::SeqCst);
        }
        taken
    }

    /// No more letters. Returns those that nobody has read.
    fn close(&self) -> Vec<Letter> {
        self.any.store(false, Ordering::SeqCst);
        self.lock().as_deref_mut().and_then(Option::take).unwrap_or_default()
    }

    fn lock(&self) -> Option<MutexGuard<'_, Option<Vec<Letter>>>> {
        if self.generation.is_current() {
            Some(self.letters.lock())
        } else {
            // Nobody holds it for long, except a thread that the fork left behind.
            self.letters.try_lock_for(LONGER_THAN_ANYBODY_WRITES)
        }
    }
}

/// Names a place in [`Parked`]; a place given back and taken again has another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    index: u32,
    generation: u32,
}

/// What a place is reserved for.
pub trait Resident: Send + Sync {
    /// The loop is closed: lets go of everything. May run any code.
    fn evict(&self, py: Python<'_>);
}

/// What a place held, to be dropped where that is safe.
#[must_use = "dropping a runnable may run Python: do it where that is safe"]
pub struct Vacated {
    waiting: Option<Runnable>,
    resident: Option<Arc<dyn Resident>>,
}

#[derive(Default)]
struct Place {
    generation: u32,
    taken: bool,
    resident: Option<Arc<dyn Resident>>,
    waiting: Option<Runnable>,
}

/// Who waits for a wake-up, by key.
#[derive(Default)]
pub struct Parked {
    places: Vec<Place>,
    free: Vec<u32>,
}

impl Parked {
    /// Reserves a place; `resident` makes what lives there, of its key.
    pub fn reserve<R: Resident + 'static>(
        &mut self,
        resident: impl FnOnce(Key) -> Arc<R>,
    ) -> Arc<R> {
        let (key, place) = self.free_place();
        let resident = resident(key);
        place.resident = Some(resident.clone());
        resident
    }

    /// Has `runnable` wait for a [`Letter::Answer`].
    pub fn await_answer(&mut self, runnable: Runnable) -> Key {
        let (key, place) = self.free_place();
        place.waiting = Some(runnable);
        key
    }

    fn free_place(&mut self) -> (Key, &mut Place) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            u32::try_from(self.places.len() - 1).expect("fewer than 2^32 futures fit in memory")
        });
        let place = &mut self.places[index as usize];
        place.taken = true;
        (Key { index, generation: place.generation }, place)
    }

    fn place(&mut self, key: Key) -> Option<&mut Place> {
        self.places
            .get_mut(key.index as usize)
            .filter(|place| place.generation == key.generation && place.taken)
    }

    /// Has `runnable` run at the next wake-up. Returns what has to be dropped.
    #[must_use = "dropping a runnable may run Python: do it where that is safe"]
    pub fn park(&mut self, key: Key, runnable: Runnable) -> Option<Runnable> {
        match self.place(key) {
            Some(place) => place.waiting.replace(runnable),
            None => Some(runnable),
        }
    }

    /// Takes what waits.
    pub fn unpark(&mut self, key: Key) -> Option<Runnable> {
        self.place(key)?.waiting.take()
    }

    /// Gives the place back. None if the key is void already.
    pub fn release(&mut self, key: Key) -> Option<Vacated> {
        let place = self.place(key)?;
        place.generation = place.generation.wrapping_add(1);
        place.taken = false;
        let vacated = Vacated { waiting: place.waiting.take(), resident: place.resident.take() };
        self.free.push(key.index);
        Some(vacated)
    }

    /// Takes everything; all keys are void.
    fn take_all(&mut self) -> Vec<Vacated> {
        let keys: Vec<_> = (0u32..)
            .zip(&self.places)
            .map(|(index, place)| Key { index, generation: place.generation })
            .collect();
        keys.into_iter().filter_map(|key| self.release(key)).collect()
    }

    /// Shows what waits to the cyclic collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.places
            .iter()
            .filter_map(|place| place.waiting.as_ref())
            .try_for_each(|waiting| waiting.traverse(visit))
    }
}

/// Runs what letters ask for. To be called between two callbacks, with no current task.
#[cold]
pub(super) fn read<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let this = scheduler.get();
    let mut result = Ok(());
    for letter in this.inbox.take() {
        // All of them, whatever one of them raises.
        result = result.and(match letter {
            Letter::Wake(key) => match this.parked.with(py, |parked| parked.unpark(key)) {
                Some(runnable) => (runnable.kind.run)(scheduler, runnable),
                None => Ok(()), // it went on already, or is over
            },
            Letter::Call(call) => call(scheduler),
            Letter::Answer(key, answer) => deliver(scheduler, key, answer),
        });
    }
    result
}

/// Delivers answers, and leaves everything else for the next turn: this may be inside of a
/// callback.
pub(super) fn read_answers<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let inbox = &scheduler.get().inbox;
    if !inbox.has_letters() {
        return Ok(());
    }
    let mut result = Ok(());
    for letter in inbox.take_answers() {
        if let Letter::Answer(key, answer) = letter {
            result = result.and(deliver(scheduler, key, answer));
        }
    }
    result
}

fn deliver<'py>(scheduler: &Bound<'py, Scheduler>, key: Key, answer: Answer) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let vacated = scheduler.get().parked.with(py, |parked| parked.release(key));
    match vacated.and_then(|vacated| vacated.waiting) {
        Some(waiting) => answer(scheduler, waiting),
        None => Ok(()), // cancelled meanwhile
    }
}

/// Refuses further letters and evicts everybody; part of closing the loop.
pub(super) fn close(py: Python<'_>, scheduler: &Scheduler) {
    drop(scheduler.inbox.close());
    let evicted = scheduler.parked.with(py, Parked::take_all);
    for resident in evicted.iter().filter_map(|vacated| vacated.resident.as_ref()) {
        resident.evict(py);
    }
    drop(evicted);
}
