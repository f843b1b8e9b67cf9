//! One turn of the loop, in asyncio's order: poll, queue due timers, then run exactly the callbacks
//! that are ready at that point. What they schedule waits for the next turn.

use pyo3::intern;
use pyo3::prelude::*;

use super::due_timers::{arm_foreign_timers, discard_cancelled_timers, queue_due_timers};
use super::patches::{self, Patches, flag};
use super::report::{is_slow, report_raised, slow_callback};
use super::socket_waiters::SocketWaiters;
use super::wait::wait;
use super::{Runnable, RunnableKind, Scheduler, inbox};
use crate::ffi::exception::{OrRaise, PyOutcome, Raised, check_signals};
use crate::ffi::section;
use crate::reactor::clock;
use crate::sys::thread_usage;

/// How old the reading of the thread's usage at the beginning of a timed callback may be, in
/// seconds: the reading costs some microseconds, and a callback that is reported takes much longer
/// than this.
const USAGE_INTERVAL: f64 = 0.001;

/// Turns the loop until the end of the turn in which `stop()` was called.
pub fn run<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    loop {
        if scheduler.get().mode.patches.flags(py) & flag::RUN_ONCE == 0 {
            turn(scheduler)?;
        } else {
            turn_by_python(scheduler)?;
        }
        if scheduler.get().is_stopping(py) {
            return Ok(());
        }
        section::let_others_in(scheduler);
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
    this.shared.metrics.turns.add(1);
    arm_foreign_timers(scheduler)?;
    discard_cancelled_timers(py, this);
    // Only a turn nested in a callback finds anything here.
    run_after_callback(scheduler)?;
    end_busy_turn(scheduler)?;
    read_inbox(scheduler)?;
    let time = wait(scheduler)?;
    queue_due_timers(scheduler, time)?;
    let result = run_ready(scheduler);
    this.core.contexts.end_turn(py);
    // If more is ready, the next step sets the current task again: leave it set until then.
    if result.is_err() || this.is_stopping(py) || this.core.ready.len(py) == 0 {
        leave_task(scheduler);
    }
    result?;
    let checked = check_signals(py);
    if checked.is_err() {
        leave_task(scheduler);
    }
    checked
}

/// Runs the entries that are in the queue now. Inline, since there are turns with a single entry.
#[inline(always)]
fn run_ready<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let this = scheduler.get();
    if !this.mode.patches.is_untouched(scheduler) || !Patches::has_code(py) {
        patches::check(scheduler).or_raise(py)?;
        this.update_instrumented(py);
    }
    let ready = this.core.ready.len(py);
    this.shared.metrics.ready_max.raise_to(ready as u64);
    if ready != 0 {
        this.core.socket_waiters.with(py, SocketWaiters::note_callbacks);
    }
    let (mut left, mut task_steps) = (ready, 0);
    this.core.deferred.begin_turn(py, ready);
    let result = loop {
        if left == 0 {
            break Ok(());
        }
        this.core.ready.prefetch(py);
        let Some(runnable) = this.core.ready.pop(py) else { break Ok(()) };
        left -= 1;
        let result = if this.mode.instrumented.get(py) {
            task_steps += u64::from(runnable.kind.sets_current_task);
            run_instrumented(scheduler, runnable)
        } else {
            if runnable.kind.sets_current_task {
                task_steps += 1;
            } else {
                leave_task(scheduler);
            }
            this.core.deferred.begin_callback(py);
            // Destructure and rebuild to avoid the spill described at `ReadyQueue`.
            let Runnable { kind, object, argument, context } = runnable;
            let runnable = Runnable { kind, object, argument, context };
            let result = run_one(scheduler, kind, runnable);
            this.core.deferred.end_callback(py);
            let after_callback = run_after_callback(scheduler);
            let due = this.core.deferred.is_due(py);
            let after_turn = if due { run_after_turn(scheduler) } else { Ok(()) };
            result.and(after_callback).and(after_turn)
        };
        if result.is_err() {
            break result;
        }
    };
    let result = end_busy_turn(scheduler).and(result);
    let metrics = &this.shared.metrics;
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
pub(super) fn run_after_callback<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    if !scheduler.get().core.deferred.has_after_callback(py) {
        return Ok(());
    }
    run_all(scheduler, scheduler.get().core.deferred.take_after_callback(py))
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
pub(super) fn end_busy_turn<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    let pending = scheduler.get().core.deferred.end_turn(scheduler.py());
    if pending { run_after_turn(scheduler) } else { Ok(()) }
}

#[cold]
fn run_after_turn<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    run_all(scheduler, scheduler.get().core.deferred.take_after_turn(scheduler.py()))
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
    if this.is_debug(py) {
        run_in_debug_mode(scheduler, runnable)
    } else if this.mode.timed.get(py) {
        let copy = runnable.clone_ref(py);
        let started = begin_timed(scheduler);
        execute(scheduler, runnable)?;
        let seconds = clock::monotonic() - started;
        let reported = is_slow(scheduler, seconds).and_then(|slow| {
            if slow {
                slow_callback(scheduler, &(copy.kind.describe)(py, &copy)?, started, seconds)
            } else {
                Ok(())
            }
        });
        reported.or_raise(py)
    } else {
        execute(scheduler, runnable)
    }
}

/// Reads the clock for a callback, and at intervals what the thread has used so far.
fn begin_timed(scheduler: &Bound<'_, Scheduler>) -> f64 {
    let started = clock::monotonic();
    let mode = &scheduler.get().mode;
    let py = scheduler.py();
    if started - mode.usage.get(py).0 > USAGE_INTERVAL {
        mode.usage.set(py, (started, thread_usage::usage(thread_usage::current())));
    }
    started
}

/// Runs one callback, through `asyncio.Handle._run` if a tool has replaced that.
fn execute<'py>(scheduler: &Bound<'py, Scheduler>, runnable: Runnable) -> PyOutcome<'py, ()> {
    match scheduler.get().mode.patches.handle_run(scheduler.py()) {
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
    let started = begin_timed(scheduler);
    let result = execute(scheduler, runnable);
    let seconds = clock::monotonic() - started;
    scheduler.setattr(current, py.None()).or_raise(py)?;
    result?;
    if is_slow(scheduler, seconds).or_raise(py)? {
        slow_callback(scheduler, &described, started, seconds).or_raise(py)?;
    }
    Ok(())
}

/// Processes the messages of other threads and of the wakers of Rust futures.
#[inline(always)]
pub(super) fn read_inbox<'py>(scheduler: &Bound<'py, Scheduler>) -> PyOutcome<'py, ()> {
    scheduler.get().take_from_other_threads(scheduler.py());
    if !scheduler.get().shared.inbox.has_messages() {
        return Ok(());
    }
    leave_task(scheduler);
    inbox::read(scheduler)
}

#[inline(always)]
fn leave_task(scheduler: &Bound<'_, Scheduler>) {
    let py = scheduler.py();
    let cell = &scheduler.get().turn_hooks.leave_task;
    if let Some(leave) = cell.get(py) {
        cell.set(py, None);
        leave(scheduler);
    }
}

/// The loop's time in seconds: the monotonic clock, or `loop.time()` if Python code has replaced
/// it.
pub fn now(scheduler: &Bound<'_, Scheduler>) -> PyResult<f64> {
    let py = scheduler.py();
    if scheduler.get().has_foreign_clock(py) {
        return scheduler.call_method0(intern!(py, "time"))?.extract();
    }
    Ok(clock::monotonic())
}
