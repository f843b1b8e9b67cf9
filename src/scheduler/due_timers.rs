//! Adds and cancels timers, moves those that are due to the ready queue, and removes cancelled ones.

use pyo3::prelude::*;

use super::turn::now;
use super::{Scheduler, Timer};
use crate::ffi::exception::{OrRaise, PyOutcome};
use crate::reactor::clock;

impl Scheduler {
    /// Adds a timer that is due at `deadline`, on the loop's clock.
    #[inline]
    pub fn add_timer(&self, py: Python<'_>, deadline: f64, timer: Timer) {
        self.core.timers.with(py, |timers| timers.push(deadline, timer));
    }

    /// Notes the time that the monotonic clock shows, in seconds: timers with a deadline before it
    /// are due, without another reading of the clock.
    #[inline]
    pub fn note_time(&self, py: Python<'_>, now: f64) {
        self.core.timers.with(py, |timers| timers.note_passed(now + clock::RESOLUTION));
    }

    /// Whether there are timers and all of them are known to be due.
    #[inline]
    pub(super) fn are_timers_known_due(&self, py: Python<'_>) -> bool {
        self.core.timers.with(py, |timers| timers.are_known_due()) && !self.has_foreign_clock(py)
    }

    /// Removes the timer of `object` if that is cheap, as it is for the last one in the heap;
    /// otherwise notes that it is cancelled. The caller drops the timer.
    #[inline]
    #[must_use = "dropping a timer may run Python: do it where that is safe"]
    pub fn cancel_timer<T>(&self, py: Python<'_>, object: &Py<T>) -> Option<Timer> {
        self.core.timers.with(py, |timers| {
            let taken = timers.take_last_if(|last| last.object.is(object));
            if taken.is_none() {
                timers.note_cancelled();
            }
            taken
        })
    }

    /// Notes that a timer is cancelled.
    pub fn note_cancelled_timer(&self, py: Python<'_>) {
        self.core.timers.with(py, |timers| timers.note_cancelled());
    }

    /// Number of timers, and how many of them are cancelled.
    pub fn timer_counts(&self, py: Python<'_>) -> (usize, usize) {
        self.core.timers.with(py, |timers| (timers.len(), timers.cancelled()))
    }
}

/// Arms the timers that asyncio's own code has put into `loop._scheduled`.
#[inline(always)]
pub(super) fn arm_foreign_timers<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let patches = &scheduler.get().mode.patches;
    if let Some(scheduled) = patches.scheduled(py) {
        if let Some(hooks) = patches.hooks.get(py) {
            return (hooks.arm_timers)(scheduler, &scheduled).or_raise(py);
        }
    }
    Ok(())
}

/// Moves due timers to the ready queue. `time` is the time of the poll just made in nanoseconds, if
/// there was one.
#[inline(always)]
pub(super) fn queue_due_timers<'py>(
    scheduler: &Bound<'py, Scheduler>,
    time: Option<u64>,
) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let this = scheduler.get();
    let is_empty = this.core.timers.with(py, |timers| timers.is_empty());
    if !is_empty && (time.is_some() || !this.are_timers_known_due(py)) {
        return queue_timers(scheduler, time);
    }
    if time.is_none() && this.shared.metrics.wants_sample() {
        sample_clock(this);
    }
    if !is_empty {
        queue_timers_until(py, this, f64::INFINITY);
    }
    Ok(())
}

/// Reads the clock for the metrics alone.
#[cold]
fn sample_clock(this: &Scheduler) {
    this.shared.metrics.sample(clock::coarse_tick, clock::nanoseconds);
}

fn queue_timers<'py>(scheduler: &Bound<'py, Scheduler>, time: Option<u64>) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let this = scheduler.get();
    let metrics = &this.shared.metrics;
    let time = time.unwrap_or_else(|| {
        let time = clock::nanoseconds();
        metrics.note_turn(time);
        time
    });
    let now = if this.has_foreign_clock(py) {
        now(scheduler).or_raise(py)?
    } else {
        clock::seconds(time)
    };
    queue_timers_until(py, this, now + clock::RESOLUTION);
    Ok(())
}

/// Moves the timers whose deadline is before `end_time`.
#[inline]
fn queue_timers_until(py: Python<'_>, this: &Scheduler, end_time: f64) {
    let timers = &this.core.timers;
    if timers.with(py, |timers| timers.are_many_due(end_time)) {
        queue_in_bulk(py, this, end_time);
    }
    let is_cancelled = |timer: &Timer| timer.is_cancelled(py);
    while let Some(timer) = timers.with(py, |timers| timers.pop_due(end_time, is_cancelled)) {
        queue_timer(py, this, timer);
    }
}

fn queue_in_bulk(py: Python<'_>, this: &Scheduler, end_time: f64) {
    let is_cancelled = |timer: &Timer| timer.is_cancelled(py);
    let due = this.core.timers.with(py, |timers| timers.take_due_in_bulk(end_time, is_cancelled));
    due.into_iter().for_each(|timer| queue_timer(py, this, timer));
}

#[inline(always)]
fn queue_timer(py: Python<'_>, this: &Scheduler, timer: Timer) {
    (timer.kind.left_timers)(timer.object.bind(py));
    this.core.ready.push(py, timer.into_runnable());
}

/// Keeps memory bounded, since most timers are cancelled before they fire.
#[inline(always)]
pub(super) fn discard_cancelled_timers(py: Python<'_>, this: &Scheduler) {
    if this.core.timers.with(py, |timers| timers.cancelled()) != 0 {
        discard_noted_timers(py, this);
    }
}

fn discard_noted_timers(py: Python<'_>, this: &Scheduler) {
    let cancelled = |timer: &Timer| timer.is_cancelled(py);
    loop {
        let head = this.core.timers.with(py, |timers| timers.pop_cancelled_head(cancelled));
        let Some(timer) = head else { break };
        (timer.kind.left_timers)(timer.object.bind(py));
    }
    let purged = this
        .core
        .timers
        .with(py, |timers| if timers.wants_purge() { timers.purge(cancelled) } else { Vec::new() });
    for timer in purged {
        (timer.kind.left_timers)(timer.object.bind(py));
    }
}
