//! Moves timers that are due to the ready queue, and removes cancelled ones.

#![forbid(unsafe_code)]

use pyo3::prelude::*;

use super::turn::now;
use super::{Scheduler, Timer};
use crate::ffi::exception::{OrRaise, PyOutcome};
use crate::reactor::clock;

/// Arms the timers that asyncio's own code has put into `loop._scheduled`.
#[inline(always)]
pub(super) fn arm_foreign_timers<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let patches = &scheduler.get().patches;
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
    let this = scheduler.get();
    if this.timers.with(scheduler.py(), |timers| timers.is_empty()) {
        if time.is_none() && this.metrics.wants_sample() {
            sample_clock(this);
        }
        return Ok(());
    }
    queue_timers(scheduler, time)
}

/// Reads the clock for the metrics alone.
#[cold]
fn sample_clock(this: &Scheduler) {
    this.metrics.sample(clock::coarse_tick, clock::nanoseconds);
}

fn queue_timers<'py>(scheduler: &Bound<'py, Scheduler>, time: Option<u64>) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let this = scheduler.get();
    let metrics = &this.metrics;
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
    let end_time = now + clock::RESOLUTION;
    let is_cancelled = |timer: &Timer| timer.is_cancelled(py);
    let due = this.timers.with(py, |timers| timers.take_due_in_bulk(end_time, is_cancelled));
    due.into_iter().for_each(|timer| queue_timer(py, this, timer));
    while let Some(timer) = this.timers.with(py, |timers| timers.pop_due(end_time, is_cancelled)) {
        queue_timer(py, this, timer);
    }
    Ok(())
}

#[inline(always)]
fn queue_timer(py: Python<'_>, this: &Scheduler, timer: Timer) {
    (timer.kind.left_timers)(timer.object.bind(py));
    this.ready.push(py, timer.into_runnable());
}

/// Keeps memory bounded, since most timers are cancelled before they fire.
#[inline(always)]
pub(super) fn discard_cancelled_timers(py: Python<'_>, this: &Scheduler) {
    if this.timers.with(py, |timers| timers.cancelled()) != 0 {
        discard_noted_timers(py, this);
    }
}

fn discard_noted_timers(py: Python<'_>, this: &Scheduler) {
    let cancelled = |timer: &Timer| timer.is_cancelled(py);
    loop {
        let head = this.timers.with(py, |timers| timers.pop_cancelled_head(cancelled));
        let Some(timer) = head else { break };
        (timer.kind.left_timers)(timer.object.bind(py));
    }
    let purged = this
        .timers
        .with(py, |timers| if timers.wants_purge() { timers.purge(cancelled) } else { Vec::new() });
    for timer in purged {
        (timer.kind.left_timers)(timer.object.bind(py));
    }
}
