//! The loop's core: the ready queue, the timers and the watched descriptors of one event loop, and
//! the turn that drives them.
//!
//! [`Scheduler`] is the native base class of `EventLoop`, and the only loop type that handles,
//! futures, tasks and transports know. Its state belongs to the thread that runs the loop; other
//! threads may push to the ready queue (they hold the GIL to do so) and wake the poller.
//!
//! - `turn.rs`: one iteration of the loop; `wait.rs`, `sleep.rs`: how it waits for events;
//!   `due_timers.rs`: timers that are due.
//! - `runnable.rs`: what can be queued; `ready.rs`: the ready queue; `deferred.rs`: work put off to
//!   the end of a callback or turn.
//! - `contexts.rs`: the contexts of callbacks and tasks.
//! - `watch.rs`: watched descriptors; `waiters.rs`: `sock_recv()` and the like that wait for a
//!   socket, which the program may close.
//! - `inbox.rs`, `message_queue.rs`: messages from other threads; `running.rs`: callbacks that other
//!   threads may wait for.
//! - `patches.rs`: replaced asyncio functions; `report.rs`: calls of the exception handler, slow
//!   callbacks.

#![forbid(unsafe_code)]

pub mod contexts;
mod deferred;
mod due_timers;
pub mod inbox;
mod message_queue;
pub mod patches;
pub mod ready;
pub mod report;
pub mod runnable;
#[cfg(Py_3_14)]
mod running;
mod sleep;
pub mod turn;
pub mod wait;
pub mod waiters;
pub mod watch;

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::ffi::exception::PyOutcome;
use crate::ffi::objects::cell::{AttachedCell, AttachedRefCell};
use crate::ffi::objects::object::CommonSubclass;
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
pub use runnable::{QueueEntry, Queued, Runnable, RunnableKind, Timer};
use sleep::Sleeping;
use waiters::SocketWaiters;
use watch::Watches;

/// The loops that have run and are not closed.
pub static LOOPS: WeakRegistry = WeakRegistry::new();

/// The class that most loops are exact instances of, for quick type checks.
pub static COMMON_LOOP_CLASS: CommonSubclass<Scheduler> = CommonSubclass::unknown();

/// Resets the current task that the last step has set; see `task::current`.
pub type LeaveTask = for<'py> fn(&Bound<'py, Scheduler>);

/// A function that the turn calls, see `signals`: before the loop's first sleep, or when the extra
/// descriptor is readable.
pub type TurnHook = for<'py> fn(&Bound<'py, Scheduler>) -> PyOutcome<'py, ()>;

/// Ready queue, timers and poller of one event loop.
///
/// Not for direct use: programs use `ferroloop.EventLoop`.
#[pyclass(frozen, subclass, weakref, module = "ferroloop._ferroloop")]
pub struct Scheduler {
    /// Its entry in [`LOOPS`].
    pub(crate) registry_entry: RegistryEntry,
    pub(crate) ready: ReadyQueue,
    /// The contexts that callbacks and tasks run in.
    pub(crate) contexts: Contexts,
    pub(crate) timers: AttachedRefCell<Timers<Timer>>,
    pub(crate) watches: AttachedRefCell<Watches>,
    pub(crate) waiters: AttachedRefCell<SocketWaiters>,
    /// Moved out while the loop polls, so that polling borrows nothing of the scheduler.
    poller: AttachedCell<Option<Box<Poller>>>,
    pub(crate) wake_signal: Arc<WakeSignal>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) parked: AttachedRefCell<Parked>,
    pub(crate) metrics: Arc<Metrics>,
    /// Set while a task remains the current task after its step.
    pub(crate) leave_task: AttachedCell<Option<LeaveTask>>,
    /// Set when the loop starts to run; taken and called before it first sleeps.
    before_sleep: AttachedCell<Option<TurnHook>>,
    /// Called when a poll has found the descriptor of [`Scheduler::poll_extra`] ready.
    on_extra: AttachedCell<Option<TurnHook>>,
    /// Whether the loop has signal handlers, so that it must poll for signal numbers even while
    /// callbacks are ready.
    has_signal_handlers: AttachedCell<bool>,
    closed: AttachedCell<bool>,
    stopping: AttachedCell<bool>,
    mode: Mode,
    pub(crate) patches: Patches,
    /// `threading.get_ident()` of the running thread; 0 when the loop does not run.
    thread: AttachedCell<u64>,
    sleeping: Sleeping,
    /// Callbacks of `call_soon_threadsafe()` that are running.
    #[cfg(Py_3_14)]
    pub(crate) running: running::Running,
    /// Work to do when the running callback returns, or the turn ends.
    pub(crate) deferred: Deferred,
}

/// What is rarely written, and decides how callbacks run.
#[derive(Default)]
struct Mode {
    debug: AttachedCell<bool>,
    /// Whether slow callbacks are also reported outside debug mode.
    timed: AttachedCell<bool>,
    /// Whether callbacks run through [`turn`]'s slow path: in debug mode, timed, or with a replaced
    /// `asyncio.Handle._run`.
    instrumented: AttachedCell<bool>,
    /// Whether `loop.time` was replaced in Python, so that the loop must call it (virtual clocks in
    /// tests).
    foreign_clock: AttachedCell<bool>,
}

impl Scheduler {
    /// A scheduler with its own poller.
    ///
    /// # Errors
    /// OSError if the poller cannot be created (out of descriptors), or what importing asyncio
    /// raises.
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
            waiters: AttachedRefCell::new(SocketWaiters::default()),
            poller: AttachedCell::new(Some(Box::new(poller))),
            inbox: Arc::new(Inbox::new(wake_signal.clone())),
            wake_signal,
            parked: AttachedRefCell::new(Parked::default()),
            metrics: Arc::default(),
            leave_task: AttachedCell::new(None),
            before_sleep: AttachedCell::new(None),
            on_extra: AttachedCell::new(None),
            has_signal_handlers: AttachedCell::new(false),
            closed: AttachedCell::new(false),
            stopping: AttachedCell::new(false),
            mode: Mode::default(),
            patches: Patches::new(py)?,
            thread: AttachedCell::new(0),
            sleeping: Sleeping::default(),
            #[cfg(Py_3_14)]
            running: running::Running::default(),
            deferred: Deferred::default(),
        })
    }

    /// Makes polls also wait for a descriptor that the kernel does not register, and call the
    /// function whenever it is readable. `None` ends that.
    pub fn poll_extra(&self, py: Python<'_>, extra: Option<(RawFd, TurnHook)>) {
        if let Some(mut poller) = self.poller.take(py) {
            poller.set_extra(extra.map(|(fd, _)| fd));
            drop(self.poller.replace(py, Some(poller)));
        }
        self.on_extra.set(py, extra.map(|(_, ready)| ready));
    }

    /// Whether polls wait for such a descriptor.
    pub fn polls_extra(&self, py: Python<'_>) -> bool {
        self.on_extra.get(py).is_some()
    }

    /// Appends to the ready queue. Another thread must call [`Scheduler::wake`] afterwards.
    #[inline(always)]
    pub fn push(&self, py: Python<'_>, runnable: Runnable) {
        self.ready.push(py, runnable);
    }

    /// Whether debug mode is on.
    #[inline(always)]
    pub fn is_debug(&self, py: Python<'_>) -> bool {
        self.mode.debug.get(py)
    }

    /// Whether `loop.time` was replaced in Python.
    #[inline(always)]
    pub fn has_foreign_clock(&self, py: Python<'_>) -> bool {
        self.mode.foreign_clock.get(py)
    }

    /// Whether `loop.close()` was called.
    #[inline(always)]
    pub fn is_closed(&self, py: Python<'_>) -> bool {
        self.closed.get(py)
    }

    /// Marks the loop as closed, or open.
    pub fn set_closed(&self, py: Python<'_>, closed: bool) {
        self.closed.set(py, closed);
    }

    /// Whether the run ends with the current turn.
    #[inline(always)]
    pub fn is_stopping(&self, py: Python<'_>) -> bool {
        self.stopping.get(py)
    }

    /// Has the run end with the current turn, or not.
    pub fn set_stopping(&self, py: Python<'_>, stopping: bool) {
        self.stopping.set(py, stopping);
    }

    /// `threading.get_ident()` of the running thread; 0 when the loop does not run.
    #[inline(always)]
    pub fn thread(&self, py: Python<'_>) -> u64 {
        self.thread.get(py)
    }

    /// Sets which thread runs the loop; 0 for none.
    pub fn set_thread(&self, py: Python<'_>, thread: u64) {
        self.thread.set(py, thread);
    }

    /// Has `hook` called once, before the loop next sleeps.
    pub fn call_before_sleep(&self, py: Python<'_>, hook: TurnHook) {
        self.before_sleep.set(py, Some(hook));
    }

    /// Has the loop poll for signal numbers even while callbacks are ready, or not.
    pub fn set_has_signal_handlers(&self, py: Python<'_>, has_signal_handlers: bool) {
        self.has_signal_handlers.set(py, has_signal_handlers);
    }

    /// How long to poll before each sleep; `None` if the loop decides.
    pub fn busy_poll(&self, py: Python<'_>) -> Option<Duration> {
        self.sleeping.busy_poll.get(py)
    }

    /// Sets how long to poll before each sleep; `None` has the loop decide.
    pub fn set_busy_poll(&self, py: Python<'_>, duration: Option<Duration>) {
        self.sleeping.busy_poll.set(py, duration);
    }

    /// Switches debug mode on or off.
    pub fn set_debug(&self, py: Python<'_>, enabled: bool) {
        self.mode.debug.set(py, enabled);
        self.update_instrumented(py);
    }

    /// Switches the reporting of slow callbacks outside debug mode on or off.
    pub fn set_timed(&self, py: Python<'_>, enabled: bool) {
        self.mode.timed.set(py, enabled);
        self.update_instrumented(py);
    }

    fn update_instrumented(&self, py: Python<'_>) {
        let instrumented = self.mode.debug.get(py)
            || self.mode.timed.get(py)
            || self.patches.is_handle_run_replaced(py);
        self.mode.instrumented.set(py, instrumented);
    }

    /// Checks what `call_soon()` checks: that the loop is open and, in debug mode, that the calling
    /// thread runs it.
    ///
    /// # Errors
    /// RuntimeError with asyncio's texts.
    #[inline(always)]
    pub fn check_usable(&self, py: Python<'_>) -> PyResult<()> {
        self.check_open(py)?;
        if self.mode.debug.get(py) { self.check_thread(py) } else { Ok(()) }
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

    /// Makes the garbage collector track what is queued again. Handles are untracked only while the
    /// loop runs: it is alive then, so they are not garbage.
    pub fn track_scheduled(&self, py: Python<'_>) {
        self.ready.for_each(py, |runnable| (runnable.kind.track)(runnable.object.bind(py)));
        self.timers.with(py, |timers| {
            timers.iter().for_each(|timer| (timer.kind.track)(timer.object.bind(py)));
        });
    }

    /// Drops everything scheduled and the poller. The loop must not be running.
    pub fn dispose(&self, py: Python<'_>) {
        inbox::close(py, self);
        // Moved out before dropping: dropping callbacks runs Python code, which may look at the
        // loop.
        let ready = self.ready.take(py);
        let timers = self.timers.with(py, Timers::take_all);
        let watched = self.watches.with(py, Watches::close);
        let waiters = self.waiters.with(py, SocketWaiters::take_all);
        let poller = self.poller.take(py);
        self.wake_signal.disconnect();
        drop((ready, timers, watched, waiters, poller));
        self.contexts.clear(py);
    }

    /// Reports all scheduled objects to the garbage collector.
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
            let waiters = self.waiters.with(py, SocketWaiters::take_all);
            drop((ready, timers, watched, waiters));
            self.contexts.clear(py);
        });
    }
}
