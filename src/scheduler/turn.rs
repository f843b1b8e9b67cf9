//! One turn of the loop, in asyncio's order: poll, queue due timers, then run exactly the callbacks
//! that are ready at that point. What they schedule waits for the next turn.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;

use super::inbox;
use super::patches::{self, Patches, flag};
use super::report::{is_slow, report_raised, slow_callback};
use super::sleep::sleep;
use super::waiters::{self, SocketWaiters};
use super::watch::Watches;
use super::{Runnable, RunnableKind, Scheduler, Timer};
use crate::ffi::call;
use crate::ffi::exception::{OrRaise, PyOutcome, Raised, check_signals};
use crate::interop::error::os_error;
use crate::interop::imports;
use crate::logging;
use crate::reactor::{Poller, clock};

/// Longest sleep in seconds, as asyncio's `MAXIMUM_SELECT_TIMEOUT`.
const MAXIMUM_SLEEP: f64 = 24.0 * 3600.0;

/// Turns the loop until the end of the turn in which `stop()` was called.
pub fn run<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    loop {
        if scheduler.get().patches.flags(py) & flag::RUN_ONCE == 0 {
            turn(scheduler)?;
        } else {
            turn_by_python(scheduler)?;
        }
        if scheduler.get().stopping.get(py) {
            return Ok(());
        }
    }
}

/// One turn through a replaced `loop._run_once`, which is expected to call ours or asyncio's.
#[cold]
fn turn_by_python<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    leave_task(scheduler);
    patches::check(scheduler).or_raise(py)?;
    let turned = scheduler.call_method0(intern!(py, "_run_once")).map(drop);
    turned.or_raise(py)?;
    check_signals(py)
}

/// Arms the timers that asyncio's own code has put into `loop._scheduled`.
#[inline(always)]
fn arm_foreign_timers<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let patches = &scheduler.get().patches;
    if let Some(scheduled) = patches.scheduled(py)
        && let Some(hooks) = patches.hooks.get(py)
    {
        return (hooks.arm_timers)(scheduler, &scheduled).or_raise(py);
    }
    Ok(())
}

/// Runs one turn and resets the current task afterwards.
pub fn once<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    struct Turn<'a, 'py>(&'a Bound<'py, Scheduler>);

    impl Drop for Turn<'_, '_> {
        fn drop(&mut self) {
            leave_task(self.0);
        }
    }

    let _turn = Turn(scheduler);
    turn(scheduler)
}

/// Runs one turn.
fn turn<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let this = scheduler.get();
    this.metrics.turns.add(1);
    arm_foreign_timers(scheduler)?;
    discard_cancelled_timers(py, this);
    // Only a turn nested in a callback finds anything here.
    run_after_callback(scheduler)?;
    end_busy_turn(scheduler)?;
    read_inbox(scheduler)?;
    let idle = this.ready.len(py) == 0 && !this.stopping.get(py);
    // With callbacks ready and no descriptor watched, a poll could find nothing.
    let may_wait = idle
        || this.watches.with(py, |watches| watches.is_worth_polling())
        || this.has_signal_handlers.get(py)
        || this.patches.foreign_select.get(py);
    let time = if may_wait { wait(scheduler, idle)? } else { None };
    queue_due_timers(scheduler, time)?;
    let result = run_ready(scheduler);
    this.contexts.end_turn(py);
    // If more is ready, the next step sets the current task again: leave it set until then.
    if result.is_err() || this.stopping.get(py) || this.ready.len(py) == 0 {
        leave_task(scheduler);
    }
    result?;
    check_signals(py).inspect_err(|_| leave_task(scheduler))
}

/// Polls, and sleeps if `idle`. Returns the time afterwards in nanoseconds, if known.
fn wait<'py>(scheduler: &Bound<'py, Scheduler>, idle: bool) -> PyOutcome<'py, Option<u64>> {
    let py = scheduler.py();
    let this = scheduler.get();
    let time = if this.patches.foreign_select.get(py) {
        if this.patches.given_selector.get(py) {
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

/// Runs the entries that are in the queue now.
fn run_ready<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let this = scheduler.get();
    if !this.patches.is_untouched(scheduler) || !Patches::has_code(py) {
        patches::check(scheduler).or_raise(py)?;
        this.update_instrumented(py);
    }
    let ready = this.ready.len(py);
    this.metrics.ready_max.raise_to(ready as u64);
    if ready != 0 {
        this.waiters.with(py, SocketWaiters::note_callbacks);
    }
    let (mut left, mut task_steps) = (ready, 0);
    this.deferred.begin_turn(py, ready);
    let result = loop {
        if left == 0 {
            break Ok(());
        }
        this.ready.prefetch(py);
        let Some(runnable) = this.ready.pop(py) else { break Ok(()) };
        left -= 1;
        let result = if this.instrumented.get(py) {
            task_steps += u64::from(runnable.kind.sets_current_task);
            run_instrumented(scheduler, runnable)
        } else {
            if runnable.kind.sets_current_task {
                task_steps += 1;
            } else {
                leave_task(scheduler);
            }
            this.deferred.begin_callback(py);
            // Destructure and rebuild to avoid the spill described at `ReadyQueue`.
            let Runnable { kind, object, argument, context } = runnable;
            let runnable = Runnable { kind, object, argument, context };
            let result = run_one(scheduler, kind, runnable);
            this.deferred.end_callback(py);
            let after_callback = run_after_callback(scheduler);
            let due = this.deferred.is_due(py);
            let after_turn = if due { run_after_turn(scheduler) } else { Ok(()) };
            result.and(after_callback).and(after_turn)
        };
        if result.is_err() {
            break result;
        }
    };
    let result = end_busy_turn(scheduler).and(result);
    let metrics = &this.metrics;
    metrics.callbacks.add((ready - left) as u64);
    metrics.task_steps.add(task_steps);
    result
}

/// Runs one entry of the queue. As with asyncio's handles, only KeyboardInterrupt and SystemExit
/// leave the loop.
#[inline(always)]
fn run_one<'py>(
    scheduler: &Bound<'py, Scheduler>,
    kind: &'static RunnableKind,
    runnable: Runnable,
) -> PyOutcome<'py, ()> {
    match (kind.run)(scheduler, runnable) {
        Ok(()) => Ok(()),
        Err(raised) => report_uncaught(scheduler, raised),
    }
}

/// Reports an exception that an entry of the queue raised outside user code; the entry itself
/// reports exceptions of the user's callbacks.
#[cold]
fn report_uncaught<'py>(
    scheduler: &Bound<'py, Scheduler>,
    raised: Raised<'py>,
) -> PyOutcome<'py, ()> {
    if raised.stops_the_loop() {
        return Err(raised);
    }
    let py = scheduler.py();
    let message = intern!(py, "Exception in the event loop");
    let entries =
        [("message", Some(message.as_any())), ("exception", Some(raised.value().as_any()))];
    report_raised(scheduler, &raised, &entries).or_raise(py)
}

/// Runs what the callback that has just returned deferred to its end.
#[inline(always)]
fn run_after_callback<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    if !scheduler.get().deferred.has_after_callback(py) {
        return Ok(());
    }
    run_all(scheduler, scheduler.get().deferred.take_after_callback(py))
}

fn run_all<'py>(scheduler: &Bound<'py, Scheduler>, runnables: Vec<Runnable>) -> PyOutcome<'py, ()> {
    let mut result = Ok(());
    for runnable in runnables {
        // Run all of them even if one raises.
        result = result.and(run_one(scheduler, runnable.kind, runnable));
    }
    result
}

/// Stops deferring to the end of the turn, and runs what was deferred.
#[inline(always)]
fn end_busy_turn<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let pending = scheduler.get().deferred.end_turn(scheduler.py());
    if pending { run_after_turn(scheduler) } else { Ok(()) }
}

#[cold]
fn run_after_turn<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    run_all(scheduler, scheduler.get().deferred.take_after_turn(scheduler.py()))
}

/// Runs one callback in debug mode, timed, or through a replaced `asyncio.Handle._run`.
#[cold]
fn run_instrumented<'py>(
    scheduler: &Bound<'py, Scheduler>,
    runnable: Runnable,
) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let this = scheduler.get();
    if (runnable.kind.cancelled)(runnable.object.bind(py)) {
        return Ok(());
    }
    leave_task(scheduler);
    if this.debug.get(py) {
        run_in_debug_mode(scheduler, runnable)
    } else if this.timed.get(py) {
        let copy = runnable.clone_ref(py);
        let started = clock::monotonic();
        execute(scheduler, runnable)?;
        let seconds = clock::monotonic() - started;
        let reported = is_slow(scheduler, seconds).and_then(|slow| {
            if slow {
                slow_callback(scheduler, &(copy.kind.describe)(py, &copy)?, seconds)
            } else {
                Ok(())
            }
        });
        reported.or_raise(py)
    } else {
        execute(scheduler, runnable)
    }
}

/// Runs one callback, through `asyncio.Handle._run` if a tool has replaced that.
fn execute<'py>(scheduler: &Bound<'py, Scheduler>, runnable: Runnable) -> PyOutcome<'py, ()> {
    match scheduler.get().patches.handle_run(scheduler.py()) {
        Some((run, run_in_handle)) => run_in_handle(scheduler, runnable, &run),
        None => run_one(scheduler, runnable.kind, runnable),
    }
}

/// Runs one callback as debug mode does: timed, and set as `loop._current_handle`.
fn run_in_debug_mode<'py>(
    scheduler: &Bound<'py, Scheduler>,
    runnable: Runnable,
) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let described = (runnable.kind.describe)(py, &runnable).or_raise(py)?;
    let current = intern!(py, "_current_handle");
    scheduler.setattr(current, &described).or_raise(py)?;
    let started = clock::monotonic();
    let result = execute(scheduler, runnable);
    let seconds = clock::monotonic() - started;
    scheduler.setattr(current, py.None()).or_raise(py)?;
    result?;
    if is_slow(scheduler, seconds).or_raise(py)? {
        slow_callback(scheduler, &described, seconds).or_raise(py)?;
    }
    Ok(())
}

/// Processes the messages of other threads and of the wakers of Rust futures.
#[inline(always)]
fn read_inbox<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    if !scheduler.get().inbox.has_messages() {
        return Ok(());
    }
    leave_task(scheduler);
    inbox::read(scheduler)
}

#[inline(always)]
fn leave_task(scheduler: &Bound<'_, Scheduler>) {
    let py = scheduler.py();
    let cell = &scheduler.get().leave_task;
    if let Some(leave) = cell.get(py) {
        cell.set(py, None);
        leave(scheduler);
    }
}

/// The loop's time in seconds: the monotonic clock, or `loop.time()` if Python code has replaced
/// it.
pub fn now(scheduler: &Bound<'_, Scheduler>) -> PyResult<f64> {
    let py = scheduler.py();
    if scheduler.get().foreign_clock.get(py) {
        return scheduler.call_method0(intern!(py, "time"))?.extract();
    }
    Ok(clock::monotonic())
}

/// Time until the next timer; `None` without timers.
fn time_to_sleep<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, Option<Duration>> {
    let py = scheduler.py();
    let Some(deadline) = scheduler.get().timers.with(py, |timers| timers.next_deadline()) else {
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
    let fd = this.poller.inspect(py, |poller| poller.as_ref().map(|poller| poller.fd()));
    let fd = fd.ok_or_else(|| PyRuntimeError::new_err("Event loop is closed"))?;
    this.patches.given_selector.set(py, true);
    this.patches.foreign_select.set(py, true);
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
    this.wake_signal.set_asleep(true);
    if this.ready.len(py) != 0 || this.inbox.has_messages() {
        timeout = Some(Duration::ZERO);
    }
    let sleeps = timeout != Some(Duration::ZERO);
    if sleeps {
        this.metrics.sleep_begins(clock::nanoseconds());
    }
    let selected = scheduler.getattr(intern!(py, "_selector")).and_then(|selector| {
        selector
            .call_method1(intern!(py, "select"), (timeout.map(|timeout| timeout.as_secs_f64()),))
    });
    if sleeps {
        this.metrics.sleep_ends(clock::nanoseconds());
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
    let before = this.ready.len(py);
    let next = time_to_sleep(scheduler)?;
    let timeout = match (timeout, next) {
        (Some(timeout), Some(next)) => Some(timeout.min(next)),
        (timeout, next) => timeout.or(next),
    };
    let time = poll(scheduler, timeout)?;
    inbox::deliver_replies(scheduler)?;
    queue_due_timers(scheduler, Some(time))?;
    Ok(this.ready.len(py).saturating_sub(before))
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
        if let Some(before_sleep) = this.before_sleep.take(py) {
            before_sleep(scheduler)?;
        }
        timeout = waiters::end_closed(scheduler, timeout)?;
        // Signal handlers or logging handlers may have queued something.
        if this.ready.len(py) != 0 || this.stopping.get(py) {
            timeout = Some(Duration::ZERO);
        }
    }
    let own = this.watches.with(py, Watches::ensure_own_poller);
    own.map_err(|error| os_error(py, &error)).or_raise(py)?;
    Ok(timeout)
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
        drop(self.scheduler.poller.replace(self.py, self.poller.take()));
    }
}

/// Polls, and queues the runnables of ready descriptors. Returns the time afterwards, in
/// nanoseconds.
fn poll<'py>(scheduler: &Bound<'py, Scheduler>, timeout: Option<Duration>) -> PyOutcome<'py, u64> {
    let py = scheduler.py();
    let this = scheduler.get();
    let timeout = prepare_to_wait(scheduler, timeout)?;
    let mut borrowed = BorrowedPoller { py, scheduler: this, poller: this.poller.take(py) };
    let Some(poller) = &mut borrowed.poller else {
        let error = PyRuntimeError::new_err("Event loop is closed");
        return Err(Raised::of(py, error));
    };
    let metrics = &this.metrics;
    metrics.polls.add(1);
    let (polled, now) = if timeout == Some(Duration::ZERO) {
        let polled = poller.poll(timeout);
        let now = clock::nanoseconds();
        metrics.note_turn(now);
        (polled, now)
    } else {
        this.wake_signal.set_asleep(true);
        let began = clock::nanoseconds();
        metrics.sleep_begins(began);
        // Reading `loop.time()` may have run Python code, during which other threads may have
        // queued something.
        let slept = if this.ready.len(py) == 0 && !this.inbox.has_messages() {
            sleep(py, this, poller, timeout, began)
        } else {
            let polled = poller.poll(Some(Duration::ZERO));
            let now = clock::nanoseconds();
            metrics.sleep_ends(now);
            (polled, now)
        };
        this.wake_signal.set_asleep(false);
        slept
    };
    if polled.is_ok() {
        this.watches.with(py, |watches| {
            for (token, readiness) in poller.events() {
                watches.deliver(py, token, readiness, |runnable| this.ready.push(py, runnable));
            }
        });
    }
    let extra = poller.was_extra_ready();
    drop(borrowed);
    match polled {
        Ok(()) if extra => {
            if let Some(ready) = this.on_extra.get(py) {
                ready(scheduler)?;
            }
        }
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::Interrupted => check_signals(py)?,
        Err(error) => return Err(Raised::of(py, os_error(py, &error))),
    }
    Ok(now)
}

/// Moves due timers to the ready queue. `time` is the time of the poll just made in nanoseconds, if
/// there was one.
#[inline(always)]
fn queue_due_timers<'py>(
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
    let now = if this.foreign_clock.get(py) {
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
fn discard_cancelled_timers(py: Python<'_>, this: &Scheduler) {
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
