//! Work that a callback defers to its end or, in a turn of many callbacks, to the end of the turn.
//!
//! A server with many busy connections sends its answers together. Waking a peer that sleeps on the
//! same machine costs the sender time: answers sent one at a time wake it repeatedly, several in a
//! row find it awake.

use pyo3::prelude::*;

use super::Runnable;
use crate::ffi::objects::cell::AttachedCell;
use crate::reactor::clock;

/// A turn with at least this many callbacks is busy. Other turns defer nothing to their end: with
/// few connections, peer and server would alternate where they could work at the same time.
const BUSY_TURN_CALLBACKS: usize = 24;

/// How long work may be deferred to the end of a turn, in nanoseconds. Afterwards it runs when the
/// current callback returns, so that no peer waits for the whole of a long turn.
const MAXIMUM_DELAY: u64 = 500_000;

/// Average time between two deferred entries, in nanoseconds, below which peers hardly fall asleep
/// in between, so that deferring costs more than it saves.
const MINIMUM_SPACING: u64 = 4_000;

/// Busy turns for which deferring is then suspended.
const SUSPENDED_TURNS: u32 = 63;

/// The deferred work of one loop; see the head of this module.
#[derive(Default)]
pub struct Deferred {
    /// Counts callbacks, which identifies the running one.
    callback: AttachedCell<u32>,
    in_callback: AttachedCell<bool>,
    after_callback: AttachedCell<Vec<Runnable>>,
    has_after_callback: AttachedCell<bool>,
    /// The running turn is busy, and defers to its end.
    is_busy: AttachedCell<bool>,
    after_turn: AttachedCell<Vec<Runnable>>,
    /// When to run the work deferred to the end of the turn, in nanoseconds; 0 if there is none.
    deadline: AttachedCell<u64>,
    /// Number of busy turns that will defer nothing to their end.
    suspended_turns: AttachedCell<u32>,
}

impl Deferred {
    /// Notes that a callback begins, which may defer work.
    #[inline(always)]
    pub fn begin_callback(&self, py: Python<'_>) {
        self.callback.set(py, self.callback.get(py).wrapping_add(1));
        self.in_callback.set(py, true);
    }

    /// Notes that the callback has returned. What it deferred must be
    /// [taken](Self::take_after_callback).
    #[inline(always)]
    pub fn end_callback(&self, py: Python<'_>) {
        self.in_callback.set(py, false);
    }

    /// The number of the running callback; `None` while no callback runs that may defer.
    #[inline(always)]
    pub fn callback(&self, py: Python<'_>) -> Option<u32> {
        self.in_callback.get(py).then(|| self.callback.get(py))
    }

    /// Defers `runnable` until the callback returns, before any other callback, or to the end of a
    /// busy turn. Only while [`Deferred::callback`] returns a number.
    pub fn push(&self, py: Python<'_>, runnable: Runnable) {
        debug_assert!(self.in_callback.get(py), "only a callback can defer something");
        let queue = if self.is_busy.get(py) {
            if self.deadline.get(py) == 0 {
                self.deadline.set(py, clock::nanoseconds() + MAXIMUM_DELAY);
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

    /// Whether the callback that has just returned deferred something to its end.
    #[inline(always)]
    pub fn has_after_callback(&self, py: Python<'_>) -> bool {
        self.has_after_callback.get(py)
    }

    /// What was deferred to the end of the callback, in order.
    pub fn take_after_callback(&self, py: Python<'_>) -> Vec<Runnable> {
        self.has_after_callback.set(py, false);
        self.after_callback.take(py)
    }

    /// Notes that a turn of this many callbacks begins.
    #[inline(always)]
    pub fn begin_turn(&self, py: Python<'_>, callbacks: usize) {
        let mut is_busy = callbacks >= BUSY_TURN_CALLBACKS;
        let suspended_turns = self.suspended_turns.get(py);
        if is_busy && suspended_turns != 0 {
            self.suspended_turns.set(py, suspended_turns - 1);
            is_busy = false;
        }
        self.is_busy.set(py, is_busy);
    }

    /// Stops deferring to the end of the turn: it ends, or Python code turns the loop inside it.
    /// Returns whether there is something to [take](Self::take_after_turn).
    #[inline(always)]
    pub fn end_turn(&self, py: Python<'_>) -> bool {
        self.is_busy.set(py, false);
        self.deadline.get(py) != 0
    }

    /// Whether work is deferred to the end of the turn rather than of the callback.
    #[inline(always)]
    pub fn is_busy_turn(&self, py: Python<'_>) -> bool {
        self.is_busy.get(py)
    }

    /// Whether the deadline for work deferred to the end of the turn has passed.
    #[inline(always)]
    pub fn is_due(&self, py: Python<'_>) -> bool {
        let deadline = self.deadline.get(py);
        deadline != 0 && clock::nanoseconds() >= deadline
    }

    /// What was deferred to the end of the turn, in order.
    pub fn take_after_turn(&self, py: Python<'_>) -> Vec<Runnable> {
        let runnables = self.after_turn.take(py);
        let since = self.deadline.replace(py, 0).saturating_sub(MAXIMUM_DELAY);
        let time = clock::nanoseconds().saturating_sub(since);
        if runnables.len() > 1 && time < MINIMUM_SPACING * (runnables.len() as u64 - 1) {
            self.suspended_turns.set(py, SUSPENDED_TURNS);
            self.is_busy.set(py, false);
        }
        runnables
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::exception::PyOutcome;
    use crate::ffi::section::attach_unshared;
    use crate::scheduler::runnable::{QueueEntry, Queued};
    use crate::scheduler::{RunnableKind, Scheduler};

    struct Flush;

    impl Queued for Flush {
        type Object = PyAny;

        fn run<'py>(
            _scheduler: &Bound<'py, Scheduler>,
            _entry: QueueEntry<'py, PyAny>,
        ) -> PyOutcome<'py, ()> {
            unreachable!("only deferred here")
        }
    }

    static FLUSH: RunnableKind = RunnableKind::of::<Flush>();

    fn defer(py: Python<'_>, deferred: &Deferred) {
        deferred.begin_callback(py);
        assert!(deferred.callback(py).is_some());
        deferred.push(py, Runnable::new(&FLUSH, py.None().into_bound(py)));
        deferred.end_callback(py);
        assert!(deferred.callback(py).is_none());
    }

    #[test]
    fn work_waits_for_the_end_of_the_callback_or_of_a_busy_turn() {
        Python::initialize();
        attach_unshared(|py| {
            let deferred = Deferred::default();
            deferred.begin_turn(py, BUSY_TURN_CALLBACKS - 1);
            defer(py, &deferred);
            assert!(deferred.has_after_callback(py));
            assert_eq!(deferred.take_after_callback(py).len(), 1);
            assert!(!deferred.has_after_callback(py) && !deferred.end_turn(py));

            deferred.begin_turn(py, BUSY_TURN_CALLBACKS);
            defer(py, &deferred);
            assert!(!deferred.has_after_callback(py) && deferred.is_busy_turn(py));
            std::thread::sleep(std::time::Duration::from_nanos(MAXIMUM_DELAY));
            assert!(deferred.is_due(py));
            defer(py, &deferred);
            assert_eq!(deferred.take_after_turn(py).len(), 2);
            assert!(!deferred.is_due(py) && !deferred.end_turn(py));
        });
    }

    #[test]
    fn turns_that_defer_in_quick_succession_suspend_it() {
        Python::initialize();
        attach_unshared(|py| {
            let deferred = Deferred::default();
            // Many entries at once: on average less than the spacing apart, however slow this is.
            deferred.begin_turn(py, BUSY_TURN_CALLBACKS);
            deferred.begin_callback(py);
            let count = 500_000;
            for _ in 0..count {
                deferred.push(py, Runnable::new(&FLUSH, py.None().into_bound(py)));
            }
            deferred.end_callback(py);
            assert!(deferred.end_turn(py));
            assert_eq!(deferred.take_after_turn(py).len(), count);
            for _ in 0..SUSPENDED_TURNS {
                deferred.begin_turn(py, BUSY_TURN_CALLBACKS - 1);
                assert!(!deferred.is_busy_turn(py), "a turn that is not busy does not count");
                deferred.begin_turn(py, BUSY_TURN_CALLBACKS);
                assert!(!deferred.is_busy_turn(py));
            }
            deferred.begin_turn(py, BUSY_TURN_CALLBACKS);
            assert!(deferred.is_busy_turn(py));
        });
    }

    #[test]
    fn callbacks_are_told_apart() {
        Python::initialize();
        attach_unshared(|py| {
            let deferred = Deferred::default();
            let number = || {
                deferred.begin_callback(py);
                let number = deferred.callback(py);
                deferred.end_callback(py);
                number.expect("a callback runs")
            };
            assert_ne!(number(), number());
        });
    }
}
