//! One turn of the loop, in asyncio's order: poll, due timers, then exactly the callbacks that
//! are ready at that point. What they schedule waits for the next turn.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;

use super::inbox;
use super::patches::{self, Patches, flag};
use super::report::{is_slow, outcome, report_raised, slow_callback};
use super::sleep::sleep;
use super::waiters::{self, Waiters};
use super::watch::Watches;
use super::{Runnable, RunnableKind, Scheduler, Timer};
use crate::ffi::call;
use crate::ffi::exception::{PyOutcome, Raised, check_signals};
use crate::interop::error::os_error;
use crate::interop::imports;
use crate::logging;
use crate::reactor::{Poller, clock};

/// Longest sleep in seconds, as asyncio's MAXIMUM_SELECT_TIMEOUT.
const LONGEST_SLEEP: f64 = 24.0 * 3600.0;

/// Turns the loop until `stop()` was called and the turn is over.
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

/// A turn as a replaced `loop._run_once` makes it, which calls ours or asyncio's in the end.
#[cold]
fn turn_by_python<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    leave_task(scheduler);
    patches::look(scheduler).map_err(|e| raised(py, e))?;
    let turned = scheduler.call_method0(intern!(py, "_run_once")).map(drop);
    turned.map_err(|e| raised(py, e))?;
    check_signals(py)
}

/// Takes over the timers that are not ours.
#[inline(always)]
fn arm_foreign_timers<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let patches = &scheduler.get().patches;
    if let Some(scheduled) = patches.scheduled(py)
        && let Some(hooks) = patches.hooks.get(py)
    {
        return (hooks.arm_timers)(scheduler, &scheduled).map_err(|e| raised(py, e));
    }
    Ok(())
}

/// One turn by itself, which leaves no current task behind.
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

/// One turn.
fn turn<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let this = scheduler.get();
    this.metrics.turns.add(1);
    arm_foreign_timers(scheduler)?;
    discard_cancelled_timers(py, this);
    // Only a turn inside of a callback finds something here.
    run_after_callback(scheduler)?;
    end_crowd(scheduler)?;
    read_inbox(scheduler)?;
    let idle = this.ready.len(py) == 0 && !this.stopping.get(py);
    // With callbacks ready and nothing to watch there is nothing a poll could find.
    let may_wait = idle
        || this.watches.with(py, |watches| watches.is_worth_polling())
        || this.hears_signals.get(py)
        || this.patches.foreign_select.get(py);
    let time = if may_wait { wait(scheduler, idle)? } else { None };
    queue_due_timers(scheduler, time)?;
    let result = run_ready(scheduler);
    this.contexts.settle(py);
    // A busy loop goes on with the next step: the current task may stay set until then.
    if result.is_err() || this.stopping.get(py) || this.ready.len(py) == 0 {
        leave_task(scheduler);
    }
    result?;
    check_signals(py).inspect_err(|_| leave_task(scheduler))
}

/// Waits for descriptors, or looks at them. Returns the time afterwards, if that is known.
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

/// Runs what is in the queue now.
fn run_ready<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let this = scheduler.get();
    if !this.patches.is_untouched(scheduler) || !Patches::has_code(py) {
        patches::look(scheduler).map_err(|e| raised(py, e))?;
        this.choose_path(py);
    }
    let ready = this.ready.len(py);
    this.metrics.ready_max.raise_to(ready as u64);
    if ready != 0 {
        this.waiters.with(py, Waiters::note_callbacks);
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
        let result = if this.careful.get(py) {
            task_steps += u64::from(runnable.kind.sets_current_task);
            run_carefully(scheduler, runnable)
        } else {
            if runnable.kind.sets_current_task {
                task_steps += 1;
            } else {
                leave_task(scheduler);
            }
            this.deferred.begin_callback(py);
            // Word by word, as the queue's description says.
            let Runnable { kind, object, argument, context } = runnable;
            let runnable = Runnable { kind, object, argument, context };
            let result = run_one(scheduler, kind, runnable);
            this.deferred.end_callback(py);
            let finished = run_after_callback(scheduler);
            let due = this.deferred.is_due(py);
            let kept = if due { run_after_turn(scheduler) } else { Ok(()) };
            result.and(finished).and(kept)
        };
        if result.is_err() {
            break result;
        }
    };
    let result = end_crowd(scheduler).and(result);
    let metrics = &this.metrics;
    metrics.callbacks.add((ready - left) as u64);
    metrics.task_steps.add(task_steps);
    result
}

/// Runs one entry of the queue. As from asyncio's handles, only KeyboardInterrupt and SystemExit
/// leave the loop.
#[inline(always)]
fn run_one<'py>(
    scheduler: &Bound<'py, Scheduler>,
    kind: &'static RunnableKind,
    runnable: Runnable,
) -> PyOutcome<'py, ()> {
    match (kind.run)(scheduler, runnable) {
        Ok(()) => Ok(()),
        Err(raised) => report_stray(scheduler, raised),
    }
}

/// Reports what an entry of the queue raised outside of any callback of the user, who would be told
/// of a callback's exception by the entry itself.
#[cold]
fn report_stray<'py>(scheduler: &Bound<'py, Scheduler>, raised: Raised<'py>) -> PyOutcome<'py, ()> {
    if raised.stops_the_loop() {
        return Err(raised);
    }
    let py = scheduler.py();
    let message = intern!(py, "Exception in the event loop");
    let entries =
        [("message", Some(message.as_any())), ("exception", Some(raised.value().as_any()))];
    outcome(py, report_raised(scheduler, &raised, &entries))
}

/// Runs what the callback just run has deferred to its end.
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
        // All of them, whatever one of them raises.
        result = result.and(run_one(scheduler, runnable.kind, runnable));
    }
    result
}

/// Defers nothing more to the end of the turn, and does what was deferred.
#[inline(always)]
fn end_crowd<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let pending = scheduler.get().deferred.end_turn(scheduler.py());
    if pending { run_after_turn(scheduler) } else { Ok(()) }
}

#[cold]
fn run_after_turn<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    run_all(scheduler, scheduler.get().deferred.take_after_turn(scheduler.py()))
}

/// Runs one callback in debug mode, timed, or through a replaced `asyncio.Handle._run`.
#[cold]
fn run_carefully<'py>(scheduler: &Bound<'py, Scheduler>, runnable: Runnable) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let this = scheduler.get();
    if (runnable.kind.cancelled)(runnable.object.bind(py)) {
        return Ok(());
    }
    leave_task(scheduler);
    if this.debug.get(py) {
        run_visibly(scheduler, runnable)
    } else if this.timed.get(py) {
        let kept = runnable.clone_ref(py);
        let started = clock::monotonic();
        execute(scheduler, runnable)?;
        let seconds = clock::monotonic() - started;
        let reported = is_slow(scheduler, seconds).and_then(|slow| {
            if slow {
                slow_callback(scheduler, &(kept.kind.describe)(py, &kept)?, seconds)
            } else {
                Ok(())
            }
        });
        reported.map_err(|e| raised(py, e))
    } else {
        execute(scheduler, runnable)
    }
}

/// Runs one callback, through `asyncio.Handle._run` if that is not asyncio's own.
fn execute<'py>(scheduler: &Bound<'py, Scheduler>, runnable: Runnable) -> PyOutcome<'py, ()> {
    match scheduler.get().patches.handle_run(scheduler.py()) {
        Some((run, run_in_handle)) => run_in_handle(scheduler, runnable, &run),
        None => run_one(scheduler, runnable.kind, runnable),
    }
}

/// Runs one callback as debug mode does: visible as `_current_handle`, and timed.
fn run_visibly<'py>(scheduler: &Bound<'py, Scheduler>, runnable: Runnable) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let described = (runnable.kind.describe)(py, &runnable).map_err(|e| raised(py, e))?;
    let current = intern!(py, "_current_handle");
    scheduler.setattr(current, &described).map_err(|e| raised(py, e))?;
    let started = clock::monotonic();
    let result = execute(scheduler, runnable);
    let seconds = clock::monotonic() - started;
    scheduler.setattr(current, py.None()).map_err(|e| raised(py, e))?;
    result?;
    if is_slow(scheduler, seconds).map_err(|e| raised(py, e))? {
        slow_callback(scheduler, &described, seconds).map_err(|e| raised(py, e))?;
    }
    Ok(())
}

/// Does what other threads, and the wakers of Rust futures, ask for.
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

/// The loop's time: the monotonic clock, or what Python code put in its place.
pub fn now(scheduler: &Bound<'_, Scheduler>) -> PyResult<f64> {
    let py = scheduler.py();
    if scheduler.get().foreign_clock.get(py) {
        return scheduler.call_method0(intern!(py, "time"))?.extract();
    }
    Ok(clock::monotonic())
}

/// Sleep until the next timer; `None` without timers.
fn time_to_sleep<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, Option<Duration>> {
    let py = scheduler.py();
    let Some(deadline) = scheduler.get().timers.with(py, |timers| timers.next_deadline()) else {
        return Ok(None);
    };
    let wait = deadline - now(scheduler).map_err(|e| raised(py, e))?;
    // A deadline that is not a number counts as due.
    let seconds = if wait > 0.0 { wait.min(LONGEST_SLEEP) } else { 0.0 };
    Ok(Some(Duration::from_secs_f64(seconds)))
}

/// Whether a profiler follows this thread. It sees a task leave by the calls that the loop makes in
/// its own context, as asyncio's does when it sleeps.
#[inline(always)]
fn is_profiled(py: Python<'_>) -> PyOutcome<'_, bool> {
    let profiler = call::call0(imports::get_profile(py).map_err(|e| raised(py, e))?)?;
    Ok(!profiler.is_none())
}

/// Has a replaced `loop._selector.select` poll, which calls ours in the end.
#[cold]
fn select_by_python<'py>(scheduler: &Bound<'py, Scheduler>, idle: bool) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let timeout = if idle { time_to_sleep(scheduler)? } else { Some(Duration::ZERO) };
    let timeout = timeout.map(|timeout| timeout.as_secs_f64());
    let selected = scheduler
        .getattr(intern!(py, "_selector"))
        .and_then(|selector| selector.call_method1(intern!(py, "select"), (timeout,)));
    selected.map(drop).map_err(|e| raised(py, e))
}

/// From now on `loop._selector` waits for the poller's descriptor, which is returned.
pub fn use_given_selector(scheduler: &Bound<'_, Scheduler>) -> PyResult<RawFd> {
    let py = scheduler.py();
    let this = scheduler.get();
    let fd = this.poller.inspect(py, |poller| poller.as_ref().map(|poller| poller.fd()));
    let fd = fd.ok_or_else(|| PyRuntimeError::new_err("Event loop is closed"))?;
    this.patches.given_selector.set(py, true);
    this.patches.foreign_select.set(py, true);
    Ok(fd)
}

/// Has a selector that the program gave the loop wait for our poller, among other descriptors maybe,
/// and polls then.
#[cold]
fn wait_by_given_selector<'py>(
    scheduler: &Bound<'py, Scheduler>,
    idle: bool,
) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let this = scheduler.get();
    let mut timeout = if idle { time_to_sleep(scheduler)? } else { Some(Duration::ZERO) };
    timeout = prepare_to_wait(scheduler, timeout)?;
    // It stays so: code that turns the loop itself calls the selector without a word to us.
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
    processed.map(drop).map_err(|e| raised(py, e))
}

/// What `loop._selector.select(timeout)` does: polls until the next timer at the latest, queues
/// what is due, and returns how many callbacks became ready.
///
/// Code that turns the loop itself, maybe inside of a callback, has no other way to the timers
/// and to what that callback has put off.
pub fn select<'py>(
    scheduler: &Bound<'py, Scheduler>,
    timeout: Option<Duration>,
) -> PyOutcome<'py, usize> {
    let py = scheduler.py();
    let this = scheduler.get();
    arm_foreign_timers(scheduler)?;
    discard_cancelled_timers(py, this);
    run_after_callback(scheduler)?;
    end_crowd(scheduler)?;
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

/// Does what has to be done before each poll; the time that this may still take.
#[inline(always)]
fn prepare_to_wait<'py>(
    scheduler: &Bound<'py, Scheduler>,
    mut timeout: Option<Duration>,
) -> PyOutcome<'py, Option<Duration>> {
    let py = scheduler.py();
    let this = scheduler.get();
    logging::settle(py);
    if timeout != Some(Duration::ZERO) {
        if let Some(before_sleep) = this.before_sleep.take(py) {
            before_sleep(scheduler)?;
        }
        timeout = waiters::look_after(scheduler, timeout)?;
        // Signal handlers or log handlers may have queued something.
        if this.ready.len(py) != 0 || this.stopping.get(py) {
            timeout = Some(Duration::ZERO);
        }
    }
    let own = this.watches.with(py, Watches::leave_parent);
    own.map_err(|error| raised(py, os_error(py, &error)))?;
    Ok(timeout)
}

/// The poller while the loop polls. It goes back even if something panics: a loop without one
/// could do nothing any more.
struct LentPoller<'a, 'py> {
    py: Python<'py>,
    scheduler: &'a Scheduler,
    poller: Option<Box<Poller>>,
}

impl Drop for LentPoller<'_, '_> {
    fn drop(&mut self) {
        drop(self.scheduler.poller.replace(self.py, self.poller.take()));
    }
}

/// Polls and queues what is due for ready descriptors. Returns the time afterwards, in
/// nanoseconds.
fn poll<'py>(scheduler: &Bound<'py, Scheduler>, timeout: Option<Duration>) -> PyOutcome<'py, u64> {
    let py = scheduler.py();
    let this = scheduler.get();
    let timeout = prepare_to_wait(scheduler, timeout)?;
    let mut lent = LentPoller { py, scheduler: this, poller: this.poller.take(py) };
    let Some(poller) = &mut lent.poller else {
        let error = PyRuntimeError::new_err("Event loop is closed");
        return Err(raised(py, error));
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
        // Asking the clock may have run Python code, and so let other threads queue something.
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
    drop(lent);
    match polled {
        Ok(()) if extra => {
            if let Some(ready) = this.on_extra.get(py) {
                ready(scheduler)?;
            }
        }
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::Interrupted => check_signals(py)?,
        Err(error) => return Err(raised(py, os_error(py, &error))),
    }
    Ok(now)
}

/// Moves timers that are due to the ready queue. `time` is that of the poll just made, if there
/// was one.
#[inline(always)]
fn queue_due_timers<'py>(
    scheduler: &Bound<'py, Scheduler>,
    time: Option<u64>,
) -> PyOutcome<'py, ()> {
    let this = scheduler.get();
    if this.timers.with(scheduler.py(), |timers| timers.is_empty()) {
        if time.is_none() && this.metrics.wants_look() {
            look_at_clock(this);
        }
        return Ok(());
    }
    queue_timers(scheduler, time)
}

/// A look at the clocks for the metrics alone.
#[cold]
fn look_at_clock(this: &Scheduler) {
    this.metrics.look(clock::coarse_tick, clock::nanoseconds);
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
        now(scheduler).map_err(|e| raised(py, e))?
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

/// Keeps memory bounded when timers are cancelled before they fire, as most are.
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

fn raised(py: Python<'_>, error: PyErr) -> Raised<'_> {
    Raised::from(error.into_value(py).into_bound(py))
}
