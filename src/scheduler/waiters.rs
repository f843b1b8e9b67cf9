//! Operations that wait for a socket which its owner may close under them.
//!
//! The kernel forgets a closed descriptor and tells nobody, so whoever waits for it would wait for
//! ever. The loop looks after them before it sleeps: some at a time, and not for long while it has
//! not looked after all of them.

#![forbid(unsafe_code)]

use std::time::Duration;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::Scheduler;
use crate::ffi::exception::PyOutcome;

/// How many are looked after before a sleep.
const AT_A_TIME: usize = 64;

/// Longest sleep while some have not been looked after.
const SHORT_SLEEP: Duration = Duration::from_millis(20);

/// What the loop can do with an operation that waits.
pub struct WaiterKind {
    /// Whether its socket is closed. Runs no Python code.
    pub is_lost: for<'py> fn(&Bound<'py, PyAny>) -> bool,
    /// Ends it. It is no longer among the waiters.
    pub end: for<'py> fn(&Bound<'py, PyAny>) -> PyOutcome<'py, ()>,
}

/// An operation that waits.
pub struct Waiter {
    object: Py<PyAny>,
    kind: &'static WaiterKind,
}

/// All that wait.
#[derive(Default)]
pub struct Waiters {
    places: Vec<Option<Waiter>>,
    free: Vec<usize>,
    /// The place to look at next.
    next: usize,
    /// So many places have not been looked at since the last callback ran.
    unseen: usize,
}

impl Waiters {
    /// Adds an operation; returns its place.
    pub fn add(&mut self, object: &Bound<'_, PyAny>, kind: &'static WaiterKind) -> usize {
        let waiter = Some(Waiter { object: object.clone().unbind(), kind });
        match self.free.pop() {
            Some(place) => {
                self.places[place] = waiter;
                place
            }
            None => {
                self.places.push(waiter);
                self.places.len() - 1
            }
        }
    }

    /// Removes `object` from its place, unless it was found lost before; the caller drops it.
    #[must_use = "drop it where no cell is lent"]
    pub fn remove(&mut self, place: usize, object: &Bound<'_, PyAny>) -> Option<Waiter> {
        let here = self.places.get(place)?.as_ref()?;
        if here.object.is(object) { self.vacate(place) } else { None }
    }

    fn vacate(&mut self, place: usize) -> Option<Waiter> {
        let waiter = self.places.get_mut(place)?.take()?;
        self.free.push(place);
        if self.free.len() == self.places.len() {
            self.places.clear();
            self.free.clear();
        }
        Some(waiter)
    }

    /// Callbacks have run: each of them may have closed any socket.
    #[inline(always)]
    pub fn note_callbacks(&mut self) {
        self.unseen = self.places.len();
    }

    /// Looks at the next few; removes and returns those that are lost.
    fn look(&mut self, py: Python<'_>) -> Vec<Waiter> {
        let mut lost = Vec::new();
        for _ in 0..self.unseen.min(AT_A_TIME) {
            self.unseen -= 1;
            self.next = if self.next < self.places.len() { self.next } else { 0 };
            let place = self.next;
            self.next += 1;
            let Some(Some(waiter)) = self.places.get(place) else { continue };
            if (waiter.kind.is_lost)(waiter.object.bind(py)) {
                lost.extend(self.vacate(place));
            }
        }
        lost
    }

    /// Forgets all; the caller drops them.
    #[must_use = "drop them where no cell is lent"]
    pub fn take_all(&mut self) -> Vec<Option<Waiter>> {
        self.free.clear();
        std::mem::take(&mut self.places)
    }

    /// Shows the operations to the cyclic collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.places.iter().flatten().try_for_each(|waiter| visit.call(&waiter.object))
    }
}

/// Ends operations whose sockets are closed. Answers how long the loop may sleep then.
pub fn look_after<'py>(
    scheduler: &Bound<'py, Scheduler>,
    timeout: Option<Duration>,
) -> PyOutcome<'py, Option<Duration>> {
    let py = scheduler.py();
    let waiters = &scheduler.get().waiters;
    let (lost, seen_all) = waiters.with(py, |waiters| (waiters.look(py), waiters.unseen == 0));
    let mut result = Ok(());
    for waiter in lost {
        // All of them, whatever one of them raises.
        result = result.and((waiter.kind.end)(waiter.object.bind(py)));
    }
    result?;
    if seen_all {
        return Ok(timeout);
    }
    Ok(Some(timeout.map_or(SHORT_SLEEP, |timeout| timeout.min(SHORT_SLEEP))))
}
