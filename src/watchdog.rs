//! A thread that detects a loop that does not turn, while it happens.
//!
//! It reads the loops' metrics without the GIL, and takes the GIL only to report: then the loop's
//! thread is stopped and its stack can be read. The report itself is written by Python
//! (`ferroloop.watchdog`). The thread is a `threading.Thread` with a native target, as those of the
//! pool are; its owner must stop it before the interpreter shuts down.

#![forbid(unsafe_code)]

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;

use crate::ffi::entries::without_section;
use crate::ffi::exception::{Raised, write_unraisable};
use crate::ffi::interpreter;
use crate::ffi::objects::process_state::Locked;
use crate::ffi::section::attach_unshared;
use crate::ffi::thread_exit;
use crate::metrics::{Finding, Metrics, Sampler, Spent, StallDetector};
use crate::reactor::clock;
use crate::scheduler::report::readings;
use crate::scheduler::{LOOPS, Scheduler, current_thread};
use crate::sys::fork::Generation;
use crate::sys::thread_usage;

/// Number of checks within a threshold.
const CHECKS_PER_THRESHOLD: u32 = 4;
/// Longest time between two checks.
const MAXIMUM_PAUSE: Duration = Duration::from_millis(50);
const MINIMUM_PAUSE: Duration = Duration::from_millis(1);

/// The watchdogs that also watch loops started later.
static WATCHDOGS: Locked<Vec<Weak<Shared>>> = Locked::new(Vec::new());

/// Called in the loop's thread whenever a loop begins to run.
pub fn loop_runs(py: Python<'_>, metrics: &Arc<Metrics>) {
    WATCHDOGS.with(py, |watchdogs| {
        watchdogs.retain(|watchdog| watchdog.strong_count() > 0);
        for watchdog in watchdogs.iter().filter_map(Weak::upgrade) {
            watchdog.watch(metrics, thread_usage::current());
        }
    });
}

/// State shared by the thread and its owner.
struct Shared {
    threshold: Duration,
    state: Mutex<State>,
    changed: Condvar,
    /// In a forked child the thread does not exist, and the lock may be held forever.
    generation: Generation,
}

struct State {
    stopping: bool,
    watched: Vec<Watched>,
}

struct Watched {
    metrics: Arc<Metrics>,
    detector: StallDetector,
    sampler: Sampler,
}

/// What the thread must do.
enum Action {
    Stop,
    Report(Arc<Metrics>, Finding, Option<Spent>),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a loop; `thread` is the kernel's number of its thread, 0 if unknown.
    fn watch(&self, metrics: &Arc<Metrics>, thread: i32) {
        if !self.generation.is_current() {
            return;
        }
        let mut state = self.lock();
        let same = |watched: &&mut Watched| Arc::ptr_eq(&watched.metrics, metrics);
        if let Some(watched) = state.watched.iter_mut().find(same) {
            watched.sampler.set_thread(thread);
            return;
        }
        let detector = StallDetector::new(self.threshold.as_nanos() as u64);
        let mut sampler = Sampler::new(interpreter::runtime_state());
        sampler.set_thread(thread);
        state.watched.push(Watched { metrics: metrics.clone(), detector, sampler });
    }

    /// Blocks until there is something to report or `stop()` was called. Called without the GIL.
    fn wait_for_action(&self) -> Action {
        let pause = (self.threshold / CHECKS_PER_THRESHOLD).clamp(MINIMUM_PAUSE, MAXIMUM_PAUSE);
        let mut state = self.lock();
        loop {
            if state.stopping {
                return Action::Stop;
            }
            // Forget loops whose objects were deallocated.
            state.watched.retain(|watched| Arc::strong_count(&watched.metrics) > 1);
            let now = clock::nanoseconds();
            for watched in &mut state.watched {
                let progress = watched.metrics.progress();
                let finding = watched.detector.check(progress, now);
                let spent = match finding {
                    Finding::Nothing => None,
                    _ => watched.sampler.spent(),
                };
                watched.sampler.observe(progress);
                if finding != Finding::Nothing {
                    return Action::Report(watched.metrics.clone(), finding, spent);
                }
            }
            let waited = self.changed.wait_timeout(state, pause);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Checks again, to see whether the stall that the detector has just reported has ended, and
    /// how it was spent until now.
    fn check_again(&self, metrics: &Arc<Metrics>) -> (Finding, Option<Spent>) {
        let mut state = self.lock();
        let same = |watched: &&mut Watched| Arc::ptr_eq(&watched.metrics, metrics);
        match state.watched.iter_mut().find(same) {
            Some(watched) => {
                let finding = watched.detector.check(metrics.progress(), clock::nanoseconds());
                (finding, watched.sampler.spent())
            }
            None => (Finding::Nothing, None),
        }
    }
}

/// Watches loops; the target of a `threading.Thread`.
///
/// Args:
///     threshold: seconds that a turn may last.
///     report: called in the thread as `report(loop, began, seconds, sampled, ended, readings)`;
///         `began` is on the clock of `time.monotonic()`. For a stall that is going on, `sampled`
///         is true and `ended` is false, and the loop's thread is stopped; for its end, `ended` is
///         true and `sampled` is false; for a stall that ended before the stack could be read, both
///         are false. For `readings` see `ferroloop.blocking.Readings`.
///     loop: the only loop to watch; by default all running loops.
#[pyclass(frozen, module = "ferroloop._ferroloop", name = "Watchdog")]
pub struct Watchdog {
    shared: Arc<Shared>,
    report: Locked<Option<Py<PyAny>>>,
}

without_section!(Watchdog);

#[pymethods]
impl Watchdog {
    #[new]
    #[pyo3(signature = (threshold, report, r#loop=None))]
    fn new(
        py: Python<'_>,
        threshold: f64,
        report: Bound<'_, PyAny>,
        r#loop: Option<Bound<'_, Scheduler>>,
    ) -> PyResult<Self> {
        let threshold = Duration::try_from_secs_f64(threshold).ok().filter(|it| !it.is_zero());
        let Some(threshold) = threshold else {
            return Err(PyValueError::new_err("threshold must be a positive number of seconds"));
        };
        let shared = Arc::new(Shared {
            threshold,
            state: Mutex::new(State { stopping: false, watched: Vec::new() }),
            changed: Condvar::new(),
            generation: Generation::current(),
        });
        match r#loop {
            Some(scheduler) => watch_running(&shared, &scheduler)?,
            None => {
                for found in LOOPS.snapshot(py) {
                    watch_running(&shared, found.cast::<Scheduler>()?)?;
                }
                let entry = Arc::downgrade(&shared);
                WATCHDOGS.with(py, |watchdogs| watchdogs.push(entry));
            }
        }
        Ok(Self { shared, report: Locked::new(Some(report.unbind())) })
    }

    /// Watch until `stop()` is called.
    fn __call__(&self, py: Python<'_>) {
        thread_exit::protect();
        while let Action::Report(metrics, finding, spent) =
            py.detach(|| self.shared.wait_for_action())
        {
            if let Err(error) = self.report_finding(py, &metrics, finding, spent) {
                let raised = Raised::of(py, error);
                write_unraisable(raised, py.None().bind(py));
            }
            // `report` may have forked: the child must not go on watching.
            if !self.shared.generation.is_current() {
                return;
            }
        }
    }

    /// End the thread. It may still report what it has found.
    fn stop(&self) {
        if self.shared.generation.is_current() {
            self.shared.lock().stopping = true;
            self.shared.changed.notify_all();
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.report.traverse(|report| visit.call(report))
    }

    fn __clear__(&self) {
        attach_unshared(|py| drop(self.report.replace(py, None)));
    }
}

impl Watchdog {
    fn report_finding(
        &self,
        py: Python<'_>,
        metrics: &Arc<Metrics>,
        finding: Finding,
        spent: Option<Spent>,
    ) -> PyResult<()> {
        let report = self.report.with(py, |report| report.as_ref().map(|it| it.clone_ref(py)));
        let Some(report) = report.map(|report| report.into_bound(py)) else { return Ok(()) };
        let (since, until, sampled, ended, spent) = match finding {
            Finding::Nothing => return Ok(()),
            Finding::Ended { since, until } => (since, until, false, true, spent),
            // The turn may have ended while this thread waited for the GIL.
            Finding::Stalled { since } => match self.shared.check_again(metrics) {
                (Finding::Ended { since, until }, spent) => (since, until, false, false, spent),
                (_, spent) => (since, clock::nanoseconds(), true, false, spent),
            },
        };
        let Some(event_loop) = loop_of(py, metrics) else { return Ok(()) };
        let seconds = clock::seconds(until.saturating_sub(since));
        if ended {
            tracing::warn!(target: "ferroloop::watchdog", seconds, "the loop turns again");
        } else {
            tracing::warn!(target: "ferroloop::watchdog", seconds, "the loop does not turn");
        }
        let readings = spent.map(|spent| readings(&spent));
        let began = clock::seconds(since);
        report.call1((event_loop, began, seconds, sampled, ended, readings)).map(drop)
    }
}

/// Watches a loop that may run already, in whichever thread.
fn watch_running(shared: &Shared, scheduler: &Bound<'_, Scheduler>) -> PyResult<()> {
    let py = scheduler.py();
    let thread = match scheduler.get().thread(py) {
        0 => 0,
        this if this == current_thread(py)? => thread_usage::current(),
        other => {
            let blocking = py.import("ferroloop.blocking")?;
            blocking.call_method1(intern!(py, "native_thread_id"), (other,))?.extract()?
        }
    };
    shared.watch(scheduler.get().metrics(), thread);
    Ok(())
}

/// The loop with these metrics, if it is not closed.
fn loop_of<'py>(py: Python<'py>, metrics: &Arc<Metrics>) -> Option<Bound<'py, PyAny>> {
    LOOPS.snapshot(py).into_iter().find(|found| {
        found.cast::<Scheduler>().is_ok_and(|found| Arc::ptr_eq(found.get().metrics(), metrics))
    })
}
