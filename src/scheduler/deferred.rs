//! Work that a callback defers to its end or, in a turn of many callbacks, to the end of the turn.
//!
//! A server with many busy connections sends its answers in one go. A peer on the same machine
//! that sleeps costs its sender a wake-up: answers one at a time wake it again and again, several
//! in a row find it awake.

#![forbid(unsafe_code)]

use pyo3::prelude::*;

use super::Runnable;
use crate::ffi::objects::cell::AttachedCell;
use crate::reactor::clock;

/// A turn with fewer callbacks than this defers nothing to its end: with few connections, peer and
/// server would take turns where they could work at the same time.
const CROWD: usize = 24;

/// Nanoseconds after which what is deferred to the end of a turn runs when the current callback
/// returns, so that no peer waits for the whole of a long turn.
const LONGEST: u64 = 500_000;

/// Nanoseconds from one to the next, below which peers hardly get to sleep in between: then
/// deferring costs more than it saves.
const LIGHT: u64 = 4_000;

/// Crowded turns that defer nothing after such a finding.
const TURNS_WITHOUT: u32 = 63;

/// See the module's description.
#[derive(Default)]
pub struct Deferred {
    /// Counts callbacks, so that one can tell whether it is still the same.
    callback: AttachedCell<u32>,
    in_callback: AttachedCell<bool>,
    after_callback: AttachedCell<Vec<Runnable>>,
    has_after_callback: AttachedCell<bool>,
    /// The turn that runs now has many callbacks.
    crowded: AttachedCell<bool>,
    after_turn: AttachedCell<Vec<Runnable>>,
    /// When to run what is deferred to the end of the turn; 0 when nothing is.
    deadline: AttachedCell<u64>,
    /// So many crowded turns will defer nothing.
    without: AttachedCell<u32>,
}

impl Deferred {
    /// A callback begins that may defer work.
    #[inline(always)]
    pub fn begin_callback(&self, py: Python<'_>) {
        self.callback.set(py, self.callback.get(py).wrapping_add(1));
        self.in_callback.set(py, true);
    }

    /// The callback has returned. What it deferred is to be [taken](Self::take_after_callback).
    #[inline(always)]
    pub fn end_callback(&self, py: Python<'_>) {
        self.in_callback.set(py, false);
    }

    /// The number of the callback that runs now; `None` while no callback runs that may defer.
    #[inline(always)]
    pub fn callback(&self, py: Python<'_>) -> Option<u32> {
        self.in_callback.get(py).then(|| self.callback.get(py))
    }

    /// Has `runnable` run when the callback returns, before any other, or at the end of the turn
    /// if that is crowded. Only while [`Deferred::callback`] answers a number.
    pub fn push(&self, py: Python<'_>, runnable: Runnable) {
        debug_assert!(self.in_callback.get(py), "only a callback can defer something");
        let queue = if self.crowded.get(py) {
            if self.deadline.get(py) == 0 {
                self.deadline.set(py, clock::nanoseconds() + LONGEST);
            }
            &self.after_turn
        } else {
            self.has_after_callback.set(py, true);
            &self.after_callback
        };
        let mut runnables = queue.take(py);
        runnables.push(runnable);
        drop(queue.replace(py, runnables));
    }

    /// Whether the callback that returned has deferred something.
    #[inline(always)]
    pub fn has_after_callback(&self, py: Python<'_>) -> bool {
        self.has_after_callback.get(py)
    }

    /// What was deferred to the end of the callback, in order.
    pub fn take_after_callback(&self, py: Python<'_>) -> Vec<Runnable> {
        self.has_after_callback.set(py, false);
        self.after_callback.take(py)
    }

    /// A turn of this many callbacks begins.
    #[inline(always)]
    pub fn begin_turn(&self, py: Python<'_>, callbacks: usize) {
        let mut crowded = callbacks >= CROWD;
        let without = self.without.get(py);
        if crowded && without != 0 {
            self.without.set(py, without - 1);
            crowded = false;
        }
        self.crowded.set(py, crowded);
    }

    /// The turn ends, or Python code turns the loop from inside of it: nothing may be deferred to
    /// its end now. Answers whether there is something to [take](Self::take_after_turn).
    #[inline(always)]
    pub fn end_turn(&self, py: Python<'_>) -> bool {
        self.crowded.set(py, false);
        self.deadline.get(py) != 0
    }

    /// Whether work is deferred to the end of the turn and not just of the callback.
    #[inline(always)]
    pub fn is_crowded(&self, py: Python<'_>) -> bool {
        self.crowded.get(py)
    }

    /// Whether something has waited for the end of the turn for long.
    #[inline(always)]
    pub fn is_due(&self, py: Python<'_>) -> bool {
        let deadline = self.deadline.get(py);
        deadline != 0 && clock::nanoseconds() >= deadline
    }

    /// What was deferred to the end of the turn, in order.
    pub fn take_after_turn(&self, py: Python<'_>) -> Vec<Runnable> {
        let runnables = self.after_turn.take(py);
        let since = self.deadline.replace(py, 0).saturating_sub(LONGEST);
        let time = clock::nanoseconds().saturating_sub(since);
        if runnables.len() > 1 && time < LIGHT * (runnables.len() as u64 - 1) {
            self.without.set(py, TURNS_WITHOUT);
            self.crowded.set(py, false);
        }
        runnables
    }
}
