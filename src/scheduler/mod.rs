//! What everything schedules onto: the ready queue, the timers and the watched descriptors of one
//! event loop, and the turn that drives them.
//!
//! [`Scheduler`] is the native base class of `EventLoop`. Handles, futures, tasks and transports
//! know only this type. Its state belongs to the thread that runs the loop; other threads may
//! push to the ready queue (they hold the GIL to do so) and wake the poller.

#![forbid(unsafe_code)]

pub mod contexts;
mod deferred;
pub mod inbox;
pub mod patches;
pub mod ready;
pub mod report;
pub mod runnable;
#[cfg(Py_3_14)]
mod running;
mod sleep;
pub mod turn;
pub mod waiters;
pub mod watch;

use std::os::fd::RawFd;
use std::sync::Arc;

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::ffi::exception::PyOutcome;
use crate::ffi::objects::cell::{AttachedCell, AttachedRefCell};
use crate::ffi::objects::object::UsualClass;
use crate::ffi::objects::weak_registry::{RegistryEntry, WeakRegistry};
use crate::interop::error::os_error;
use crate::interop::imports;
use crate::metrics::Metrics;
use crate::reactor::{Poller, Timers, WakeSignal};
use contexts::Contexts;
use deferred::Deferred;
use inbox::{Inbox, Parked};
use patches::Patches;
use ready::ReadyQueue;
pub use runnable::{Runnable, RunnableKind, Timer};
use sleep::Sleeping;
use waiters::Waiters;
use watch::Watches;

/// The loops that ran and are not closed.
pub static LOOPS: WeakRegistry = WeakRegistry::new();

/// The class of nearly all loops.
pub static USUAL_LOOP: UsualClass<Scheduler> = UsualClass::unknown();

/// Ends the current task set by the last step; see `task::current`.
pub type LeaveTask = for<'py> fn(&Bound<'py, Scheduler>);

/// Prepares the thread for the loop's first sleep; see `signals`.
pub type BeforeSleep = for<'py> fn(&Bound<'py, Scheduler>) -> PyOutcome<'py, ()>;

/// Ready queue, timers and poller of one event loop.
///
/// Not for direct use: `ferroloop.EventLoop` is the class that programs see.
#[pyclass(frozen, subclass, weakref, module = "ferroloop._ferroloop")]
pub struct Scheduler {
    /// In [`LOOPS`].
    pub(crate) registry_entry: RegistryEntry,
    pub(crate) ready: ReadyQueue,
    /// What callbacks and tasks run in.
    pub(crate) contexts: Contexts,
    pub(crate) timers: AttachedRefCell<Timers<Timer>>,
    pub(crate) watches: AttachedRefCell<Watches>,
    pub(crate) waiters: AttachedRefCell<Waiters>,
    /// BufferLease out while the loop polls, so that polling needs no borrow of the scheduler.
    poller: AttachedCell<Option<Box<Poller>>>,
    pub(crate) wake_signal: Arc<WakeSignal>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) parked: AttachedRefCell<Parked>,
    pub(crate) metrics: Arc<Metrics>,
    /// Set while a task is still entered as current after its step.
    pub(crate) leave_task: AttachedCell<Option<LeaveTask>>,
    /// Set when the loop starts to run, taken before it first sleeps.
    pub(crate) before_sleep: AttachedCell<Option<BeforeSleep>>,
    /// What is called when a poll has found the descriptor of [`Scheduler::poll_extra`] ready.
    on_extra: AttachedCell<Option<BeforeSleep>>,
    /// Whether the loop has signal handlers, so that a busy one must poll for signals' numbers.
    pub(crate) hears_signals: AttachedCell<bool>,
    pub(crate) closed: AttachedCell<bool>,
    pub(crate) stopping: AttachedCell<bool>,
    /// Written by [`Scheduler::set_debug`].
    pub(crate) debug: AttachedCell<bool>,
    /// Whether slow callbacks are reported outside of debug mode, too.
    timed: AttachedCell<bool>,
    /// Whether callbacks take the slow path: in debug mode, timed or through a replaced `_run`.
    careful: AttachedCell<bool>,
    pub(crate) patches: Patches,
    /// `threading.get_ident()` of the running thread; 0 when the loop does not run.
    pub(crate) thread: AttachedCell<u64>,
    /// Whether `loop.time` was replaced in Python and so must be asked (virtual clocks in tests).
    pub(crate) foreign_clock: AttachedCell<bool>,
    pub(crate) sleeping: Sleeping,
    /// Callbacks of `call_soon_threadsafe()` that run now.
    #[cfg(Py_3_14)]
    pub(crate) running: running::Running,
    /// What is to be done when the callback that runs now returns, or the turn ends.
    pub(crate) deferred: Deferred,
}

impl Scheduler {
    /// A scheduler with its own poller.
    ///
    /// # Errors
    /// OSError if the poller cannot be made (out of descriptors).
    pub fn new(py: Python<'_>) -> PyResult<Self> {
        let poller = Poller::new().map_err(|error| os_error(py, &error))?;
        let wake_signal = Arc::new(WakeSignal::new(poller.waker()));
        let watches = Watches::new(poller.registrar());
        Ok(Self {
            registry_entry: RegistryEntry::new(&LOOPS),
            ready: ReadyQueue::default(),
            contexts: Contexts::default(),
            timers: AttachedRefCell::new(Timers::new()),
            watches: AttachedRefCell::new(watches),
            waiters: AttachedRefCell::new(Waiters::default()),
            poller: AttachedCell::new(Some(Box::new(poller))),
            inbox: Arc::new(Inbox::new(wake_signal.clone())),
            wake_signal,
            parked: AttachedRefCell::new(Parked::default()),
            metrics: Arc::default(),
            leave_task: AttachedCell::new(None),
            before_sleep: AttachedCell::new(None),
            on_extra: AttachedCell::new(None),
            hears_signals: AttachedCell::new(false),
            closed: AttachedCell::new(false),
            stopping: AttachedCell::new(false),
            debug: AttachedCell::new(false),
            timed: AttachedCell::new(false),
            careful: AttachedCell::new(false),
            patches: Patches::new(py)?,
            thread: AttachedCell::new(0),
            foreign_clock: AttachedCell::new(false),
            sleeping: Sleeping::default(),
            #[cfg(Py_3_14)]
            running: running::Running::default(),
            deferred: Deferred::default(),
        })
    }

    /// Has the poller look at a descriptor that the kernel does not watch for it, and the function
    /// called whenever it is readable; or no longer.
    pub fn poll_extra(&self, py: Python<'_>, extra: Option<(RawFd, BeforeSleep)>) {
        if let Some(mut poller) = self.poller.take(py) {
            poller.set_extra(extra.map(|(fd, _)| fd));
            drop(self.poller.replace(py, Some(poller)));
        }
        self.on_extra.set(py, extra.map(|(_, ready)| ready));
    }

    /// Whether the poller looks at such a descriptor.
    pub fn polls_extra(&self, py: Python<'_>) -> bool {
        self.on_extra.get(py).is_some()
    }

    /// Appends to the ready queue. From another thread follow it by [`Scheduler::wake`].
    #[inline(always)]
    pub fn push(&self, py: Python<'_>, runnable: Runnable) {
        self.ready.push(py, runnable);
    }

    /// Switches debug mode.
    pub fn set_debug(&self, py: Python<'_>, enabled: bool) {
        self.debug.set(py, enabled);
        self.choose_path(py);
    }

    /// Whether slow callbacks are reported outside of debug mode.
    pub fn is_timed(&self, py: Python<'_>) -> bool {
        self.timed.get(py)
    }

    /// Has slow callbacks reported outside of debug mode, or not.
    pub fn set_timed(&self, py: Python<'_>, enabled: bool) {
        self.timed.set(py, enabled);
        self.choose_path(py);
    }

    fn choose_path(&self, py: Python<'_>) {
        let careful =
            self.debug.get(py) || self.timed.get(py) || self.patches.is_handle_run_replaced(py);
        self.careful.set(py, careful);
    }

    /// What `call_soon()` checks: that the loop is open and, in debug mode, that this is its
    /// thread.
    ///
    /// # Errors
    /// RuntimeError with asyncio's texts.
    #[inline(always)]
    pub fn check_usable(&self, py: Python<'_>) -> PyResult<()> {
        self.check_open(py)?;
        if self.debug.get(py) { self.check_thread(py) } else { Ok(()) }
    }

    /// # Errors
    /// RuntimeError if the loop is closed.
    #[inline(always)]
    pub fn check_open(&self, py: Python<'_>) -> PyResult<()> {
        if self.closed.get(py) {
            return Err(PyRuntimeError::new_err("Event loop is closed"));
        }
        Ok(())
    }

    /// # Errors
    /// RuntimeError if the loop runs in another thread.
    pub fn check_thread(&self, py: Python<'_>) -> PyResult<()> {
        let thread = self.thread.get(py);
        if thread != 0 && thread != current_thread(py)? {
            return Err(PyRuntimeError::new_err(
                "Non-thread-safe operation invoked on an event loop other than the current one",
            ));
        }
        Ok(())
    }

    /// Wakes the loop if it sleeps: one system call per sleep, none while it is awake.
    #[inline]
    pub fn wake(&self) {
        self.wake_signal.notify();
    }

    /// Whether a thread runs the loop.
    #[inline(always)]
    pub fn is_running(&self, py: Python<'_>) -> bool {
        self.thread.get(py) != 0
    }

    /// Shows what is queued to the collector again. Handles are hidden only while the loop runs:
    /// then it is alive, and they are no garbage.
    pub fn unhide_scheduled(&self, py: Python<'_>) {
        self.ready.for_each(py, |runnable| (runnable.kind.show)(runnable.object.bind(py)));
        self.timers.with(py, |timers| {
            timers.iter().for_each(|timer| (timer.kind.show)(timer.object.bind(py)));
        });
    }

    /// Drops everything scheduled and the poller. The loop must not be running.
    pub fn dispose(&self, py: Python<'_>) {
        inbox::close(py, self);
        // BufferLease out first: dropping callbacks runs Python code, which may look at the loop.
        let ready = self.ready.take(py);
        let timers = self.timers.with(py, Timers::take_all);
        let watched = self.watches.with(py, Watches::close);
        let waiters = self.waiters.with(py, Waiters::take_all);
        let poller = self.poller.take(py);
        self.wake_signal.disconnect();
        drop((ready, timers, watched, waiters, poller));
        self.contexts.clear(py);
    }

    /// Shows all scheduled objects to the cyclic collector.
    fn traverse_scheduled(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.ready.traverse(visit)?;
        self.contexts.traverse(visit)?;
        self.parked.traverse(|parked| parked.traverse(visit))?;
        self.patches.visit(visit)?;
        self.timers
            .traverse(|timers| timers.iter().try_for_each(|timer| visit.call(&timer.object)))?;
        self.waiters.traverse(|waiters| waiters.traverse(visit))?;
        self.watches.traverse(|watches| watches.traverse(visit))
    }
}

/// `threading.get_ident()`.
pub fn current_thread(py: Python<'_>) -> PyResult<u64> {
    imports::get_ident(py)?.call0()?.extract()
}

#[pymethods]
impl Scheduler {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.traverse_scheduled(&visit)
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            inbox::close(py, self);
            let ready = self.ready.take(py);
            let timers = self.timers.with(py, Timers::take_all);
            let watched = self.watches.with(py, Watches::clear);
            let waiters = self.waiters.with(py, Waiters::take_all);
            drop((ready, timers, watched, waiters));
            self.contexts.clear(py);
        });
    }
}
