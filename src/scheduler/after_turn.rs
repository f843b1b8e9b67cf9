//! Work that waits for the end of the turn, in turns that run many callbacks.
//!
//! A server with many busy connections sends its answers in one go. A peer on the same machine
//! that sleeps costs its sender a wake-up: answers one at a time wake it again and again, several
//! in a row find it awake.

#![forbid(unsafe_code)]

use pyo3::prelude::*;

use super::Runnable;
use crate::ffi::cell::AttachedCell;
use crate::reactor::clock;

/// A turn with fewer callbacks than this keeps nothing: with few connections, peer and server
/// would take turns where they could work at the same time.
const CROWD: usize = 24;

/// Nanoseconds after which what is kept runs when the current callback returns, so that nobody
/// waits for the whole of a long turn.
const LONGEST: u64 = 500_000;

/// Nanoseconds from one to the next, below which peers hardly get to sleep in between: then
/// putting off costs more than it saves.
const LIGHT: u64 = 4_000;

/// Crowded turns that keep nothing after such a finding.
const TURNS_WITHOUT: u32 = 63;

/// See the module's description.
#[derive(Default)]
pub struct AfterTurn {
    /// The turn that runs now has many callbacks.
    crowded: AttachedCell<bool>,
    kept: AttachedCell<Vec<Runnable>>,
    /// When to run what is kept; 0 when nothing is.
    deadline: AttachedCell<u64>,
    /// So many crowded turns will keep nothing.
    without: AttachedCell<u32>,
}

impl AfterTurn {
    /// A turn of this many callbacks begins.
    #[inline(always)]
    pub fn begin(&self, py: Python<'_>, callbacks: usize) {
        let mut crowded = callbacks >= CROWD;
        let without = self.without.get(py);
        if crowded && without != 0 {
            self.without.set(py, without - 1);
            crowded = false;
        }
        self.crowded.set(py, crowded);
    }

    /// The turn ends, or Python code turns the loop from inside of it: nothing may be kept now.
    /// Answers whether there is something to [`take`](Self::take).
    #[inline(always)]
    pub fn end(&self, py: Python<'_>) -> bool {
        self.crowded.set(py, false);
        self.deadline.get(py) != 0
    }

    /// Whether to put things off.
    #[inline(always)]
    pub fn is_crowded(&self, py: Python<'_>) -> bool {
        self.crowded.get(py)
    }

    /// Keeps `runnable`.
    pub fn push(&self, py: Python<'_>, runnable: Runnable) {
        let mut kept = self.kept.take(py);
        if kept.is_empty() {
            self.deadline.set(py, clock::nanoseconds() + LONGEST);
        }
        kept.push(runnable);
        drop(self.kept.replace(py, kept));
    }

    /// Whether something has been kept for long.
    #[inline(always)]
    pub fn is_due(&self, py: Python<'_>) -> bool {
        let deadline = self.deadline.get(py);
        deadline != 0 && clock::nanoseconds() >= deadline
    }

    /// What is to be run now, in order.
    pub fn take(&self, py: Python<'_>) -> Vec<Runnable> {
        let kept = self.kept.take(py);
        let since = self.deadline.replace(py, 0).saturating_sub(LONGEST);
        let time = clock::nanoseconds().saturating_sub(since);
        if kept.len() > 1 && time < LIGHT * (kept.len() as u64 - 1) {
            self.without.set(py, TURNS_WITHOUT);
            self.crowded.set(py, false);
        }
        kept
    }
}
