//! How a turn waits for descriptors: by polling, or through a selector that the program has replaced
//! or given.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;

use super::due_timers::{arm_foreign_timers, discard_cancelled_timers, queue_due_timers};
use super::sleep::sleep;
use super::turn::{end_busy_turn, now, read_inbox, run_after_callback};
use super::watch::Watches;
use super::{Scheduler, inbox, socket_waiters};
use crate::ffi::call;
use crate::ffi::exception::{OrRaise, PyOutcome, Raised, check_signals};
use crate::interop::error::os_error;
use crate::interop::imports;
use crate::logging;
use crate::reactor::{Poller, clock};

/// Longest sleep in seconds, as asyncio's `MAXIMUM_SELECT_TIMEOUT`.
const MAXIMUM_SLEEP: f64 = 24.0 * 3600.0;

/// Waits for something to do if no callback is ready and no timer is due. Otherwise polls, unless
/// that could find nothing or the last poll was a moment ago. Returns the time afterwards in
/// nanoseconds, if known.
#[inline(always)]
pub(super) fn wait<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, Option<u64>> {
    let py = scheduler.py();
    let this = scheduler.get();
    let idle = this.core.ready.len(py) == 0 && !this.is_stopping(py);
    if this.mode.patches.foreign_select.get(py) {
        return poll_or_sleep(scheduler, idle);
    }
    let mut time = None;
    if idle && !this.are_timers_known_due(py) {
        time = time_if_timer_is_due(py, this);
        if time.is_none() {
            return poll_or_sleep(scheduler, true);
        }
    }
    let is_due = {
        let watches = this.core.watches.with(py, |watches| {
            (watches.is_worth_polling() || this.turn_hooks.has_signal_handlers.get(py))
                .then(|| watches.changes())
        });
        watches.is_some_and(|changes| {
            let now = || *time.get_or_insert_with(clock::nanoseconds);
            this.core.sleeping.throttle.get(py).is_due(activity(this, changes), now)
        })
    };
    if is_due {
        return poll_or_sleep(scheduler, false);
    }
    if let Some(time) = time {
        this.shared.metrics.note_turn(time);
    }
    Ok(time)
}

/// Changes when the program sends or watches something.
#[inline]
fn activity(this: &Scheduler, changes: u64) -> u64 {
    this.shared.metrics.bytes_sent.get().wrapping_add(changes)
}

/// The time in nanoseconds, if a timer is due.
#[inline]
fn time_if_timer_is_due(py: Python<'_>, this: &Scheduler) -> Option<u64> {
    if this.has_foreign_clock(py) {
        return None;
    }
    let deadline = this.core.timers.with(py, |timers| timers.next_deadline())?;
    let time = clock::nanoseconds();
    (deadline < clock::seconds(time) + clock::RESOLUTION).then_some(time)
}

/// Polls, and sleeps if `idle`. Returns the time afterwards in nanoseconds, if known.
fn poll_or_sleep<'py>(
    scheduler: &Bound<'py, Scheduler>,
    idle: bool,
) -> PyOutcome<'py, Option<u64>> {
    let py = scheduler.py();
    let this = scheduler.get();
    let time = if this.mode.patches.foreign_select.get(py) {
        if this.mode.patches.given_selector.get(py) {
            wait_by_given_selector(scheduler, idle)?;
        } else {
            select_by_python(scheduler, idle)?;
        }
        None
    } else {
        let timeout = if idle { time_to_sleep(scheduler)? } else { Some(Duration::ZERO) };
        if timeout != Some(Duration::ZERO) && is_profiled(py)? {
            select_by_python(scheduler, idle)?;
            None
        } else {
            Some(poll(scheduler, timeout)?)
        }
    };
    read_inbox(scheduler)?;
    Ok(time)
}

/// Time until the next timer; `None` without timers.
fn time_to_sleep<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, Option<Duration>> {
    let py = scheduler.py();
    let Some(deadline) = scheduler.get().core.timers.with(py, |timers| timers.next_deadline())
    else {
        return Ok(None);
    };
    let wait = deadline - now(scheduler).or_raise(py)?;
    // A NaN deadline counts as due.
    let seconds = if wait > 0.0 { wait.min(MAXIMUM_SLEEP) } else { 0.0 };
    Ok(Some(Duration::from_secs_f64(seconds)))
}

/// Whether a profiler is set for this thread. From the calls that the loop makes in its own context
/// it learns that a task was suspended, as it does with asyncio when that sleeps.
#[inline(always)]
fn is_profiled(py: Python<'_>) -> PyOutcome<'_, bool> {
    let profiler = call::call0(imports::get_profile(py).or_raise(py)?)?;
    Ok(!profiler.is_none())
}

/// Polls through a replaced `loop._selector.select`, which is expected to call ours.
#[cold]
fn select_by_python<'py>(scheduler: &Bound<'py, Scheduler>, idle: bool) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let timeout = if idle { time_to_sleep(scheduler)? } else { Some(Duration::ZERO) };
    let timeout = timeout.map(|timeout| timeout.as_secs_f64());
    let selected = scheduler
        .getattr(intern!(py, "_selector"))
        .and_then(|selector| selector.call_method1(intern!(py, "select"), (timeout,)));
    selected.map(drop).or_raise(py)
}

/// Makes turns wait through `loop._selector`, with which the caller must register the returned
/// descriptor, the poller's.
///
/// # Errors
/// RuntimeError if the loop is closed.
pub fn use_given_selector(scheduler: &Bound<'_, Scheduler>) -> PyResult<RawFd> {
    let py = scheduler.py();
    let this = scheduler.get();
    let fd = this.core.poller.inspect(py, |poller| poller.as_ref().map(|poller| poller.fd()));
    let fd = fd.ok_or_else(|| PyRuntimeError::new_err("Event loop is closed"))?;
    this.mode.patches.given_selector.set(py, true);
    this.mode.patches.foreign_select.set(py, true);
    Ok(fd)
}

/// Waits through a selector that the program gave the loop, which waits for our poller and perhaps
/// for other descriptors; then polls.
#[cold]
fn wait_by_given_selector<'py>(
    scheduler: &Bound<'py, Scheduler>,
    idle: bool,
) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let this = scheduler.get();
    let mut timeout = if idle { time_to_sleep(scheduler)? } else { Some(Duration::ZERO) };
    timeout = prepare_to_wait(scheduler, timeout)?;
    // Not reset: code that turns the loop itself calls the selector without going through this
    // function.
    this.shared.wake_signal.set_asleep(true);
    if this.has_work(py) {
        timeout = Some(Duration::ZERO);
    }
    let sleeps = timeout != Some(Duration::ZERO);
    if sleeps {
        this.shared.metrics.sleep_begins(clock::nanoseconds());
    }
    let selected = scheduler.getattr(intern!(py, "_selector")).and_then(|selector| {
        selector
            .call_method1(intern!(py, "select"), (timeout.map(|timeout| timeout.as_secs_f64()),))
    });
    if sleeps {
        this.shared.metrics.sleep_ends(clock::nanoseconds());
    }
    let processed = selected
        .and_then(|events| scheduler.call_method1(intern!(py, "_process_events"), (events,)));
    processed.map(drop).or_raise(py)
}

/// What `loop._selector.select(timeout)` does: polls until the next timer at the latest, queues
/// what is due, and returns how many callbacks became ready.
///
/// Code that turns the loop itself, perhaps inside a callback, has no other way to run the timers
/// and what that callback has deferred.
pub fn select<'py>(
    scheduler: &Bound<'py, Scheduler>,
    timeout: Option<Duration>,
) -> PyOutcome<'py, usize> {
    let py = scheduler.py();
    let this = scheduler.get();
    arm_foreign_timers(scheduler)?;
    discard_cancelled_timers(py, this);
    run_after_callback(scheduler)?;
    end_busy_turn(scheduler)?;
    let before = this.core.ready.len(py);
    let next = time_to_sleep(scheduler)?;
    let timeout = match (timeout, next) {
        (Some(timeout), Some(next)) => Some(timeout.min(next)),
        (timeout, next) => timeout.or(next),
    };
    let time = poll(scheduler, timeout)?;
    inbox::deliver_replies(scheduler)?;
    queue_due_timers(scheduler, Some(time))?;
    Ok(this.core.ready.len(py).saturating_sub(before))
}

/// Does what is due before each poll; returns the time that the poll may take.
#[inline(always)]
fn prepare_to_wait<'py>(
    scheduler: &Bound<'py, Scheduler>,
    mut timeout: Option<Duration>,
) -> PyOutcome<'py, Option<Duration>> {
    let py = scheduler.py();
    let this = scheduler.get();
    logging::flush(py);
    if timeout != Some(Duration::ZERO) {
        if let Some(before_sleep) = this.turn_hooks.before_sleep.take(py) {
            before_sleep(scheduler)?;
        }
        timeout = socket_waiters::end_closed(scheduler, timeout)?;
        // Signal handlers or logging handlers may have queued something.
        if this.core.ready.len(py) != 0 || this.is_stopping(py) {
            timeout = Some(Duration::ZERO);
        }
    }
    let own = this.core.watches.with(py, Watches::ensure_own_poller);
    own.map_err(|error| os_error(py, &error)).or_raise(py)?;
    Ok(timeout)
}

#[inline]
fn note_poll(py: Python<'_>, this: &Scheduler, found: bool, now: u64) {
    let activity = activity(this, this.core.watches.with(py, |watches| watches.changes()));
    let mut throttle = this.core.sleeping.throttle.get(py);
    throttle.note_poll(found, activity, now);
    this.core.sleeping.throttle.set(py, throttle);
}

/// The poller, moved out of its cell while the loop polls. Put back even if a panic unwinds, since
/// the loop would be unusable without it.
struct BorrowedPoller<'a, 'py> {
    py: Python<'py>,
    scheduler: &'a Scheduler,
    poller: Option<Box<Poller>>,
}

impl Drop for BorrowedPoller<'_, '_> {
    fn drop(&mut self) {
        drop(self.scheduler.core.poller.replace(self.py, self.poller.take()));
    }
}

/// Polls, and queues the runnables of ready descriptors. Returns the time afterwards, in
/// nanoseconds.
fn poll<'py>(scheduler: &Bound<'py, Scheduler>, timeout: Option<Duration>) -> PyOutcome<'py, u64> {
    let py = scheduler.py();
    let this = scheduler.get();
    let timeout = prepare_to_wait(scheduler, timeout)?;
    let mut borrowed = BorrowedPoller { py, scheduler: this, poller: this.core.poller.take(py) };
    let Some(poller) = &mut borrowed.poller else {
        let error = PyRuntimeError::new_err("Event loop is closed");
        return Err(Raised::of(py, error));
    };
    let metrics = &this.shared.metrics;
    metrics.polls.add(1);
    let (polled, now) = if timeout == Some(Duration::ZERO) {
        // Does not block, so it keeps the GIL.
        let polled = poller.poll(timeout);
        let now = clock::nanoseconds();
        metrics.note_turn(now);
        (polled, now)
    } else {
        let began = clock::nanoseconds();
        metrics.sleep_begins(began);
        this.shared.wake_signal.sleep_unless(
            || this.has_work(py),
            |may_sleep| {
                if may_sleep {
                    return sleep(py, this, poller, timeout, began);
                }
                // Reading `loop.time()` has run Python code, during which other threads have queued
                // something.
                let polled = poller.poll(Some(Duration::ZERO));
                let now = clock::nanoseconds();
                metrics.sleep_ends(now);
                (polled, now)
            },
        )
    };
    this.take_from_other_threads(py);
    if polled.is_ok() {
        this.core.watches.with(py, |watches| {
            for (token, readiness) in poller.events() {
                watches
                    .deliver(py, token, readiness, |runnable| this.core.ready.push(py, runnable));
            }
        });
    }
    let extra = poller.was_extra_ready();
    note_poll(py, this, extra || poller.event_count() != 0 || poller.was_woken(), now);
    drop(borrowed);
    match polled {
        Ok(()) if extra => {
            if let Some(ready) = this.turn_hooks.on_extra.get(py) {
                ready(scheduler)?;
            }
        }
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::Interrupted => check_signals(py)?,
        Err(error) => return Err(Raised::of(py, os_error(py, &error))),
    }
    Ok(now)
}
