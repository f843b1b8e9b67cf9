//! The loop's core: the ready queue, the timers and the watched descriptors of one event loop, and
//! the turn that drives them.
//!
//! [`Scheduler`] is the native base class of `EventLoop`, and the only loop type that handles,
//! futures, tasks and transports know. Its state belongs to the thread that runs the loop; other
//! threads may push to the ready queue (they hold the GIL to do so) and wake the poller.
//!
//! - `turn.rs`: one iteration of the loop; `wait.rs`, `sleep.rs`: how it waits for events;
//!   `due_timers.rs`: timers that are due.
//! - `state.rs`: whether the loop is open and runs, and its settings.
//! - `runnable.rs`: what can be queued; `ready.rs`: the ready queue; `deferred.rs`: work put off to
//!   the end of a callback or turn.
//! - `contexts.rs`: the contexts of callbacks and tasks.
//! - `watch.rs`, `watching.rs`: watched descriptors; `socket_waiters.rs`: `sock_recv()` and the like
//!   that wait for a socket, which the program may close.
//! - `inbox.rs`, `message_queue.rs`: messages from other threads; `other_threads.rs`: their callbacks;
//!   `running.rs`: callbacks that other threads may wait for.
//! - `patches.rs`: replaced asyncio functions; `report.rs`: calls of the exception handler, slow
//!   callbacks.

#![forbid(unsafe_code)]

pub mod contexts;
mod deferred;
mod due_timers;
pub mod inbox;
mod message_queue;
mod other_threads;
pub mod patches;
pub mod ready;
pub mod report;
pub mod runnable;
#[cfg(Py_3_14)]
mod running;
mod sleep;
pub mod socket_waiters;
mod state;
pub mod turn;
pub mod wait;
pub mod watch;
mod watching;

use std::sync::Arc;
#[cfg(Py_GIL_DISABLED)]
use std::sync::atomic::AtomicUsize;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::ffi::exception::PyOutcome;
use crate::ffi::objects::cell::{AttachedCell, AttachedRefCell};
use crate::ffi::objects::object::CommonSubclass;
use crate::ffi::objects::process_state::Published;
use crate::ffi::objects::weak_registry::{RegistryEntry, WeakRegistry};
use crate::ffi::section::attach_unshared;
use crate::interop::error::os_error;
use crate::metrics::Metrics;
use crate::reactor::{Poller, Timers, WakeSignal};
use crate::sys::thread_usage::Usage;
use contexts::Contexts;
use deferred::Deferred;
use inbox::{Inbox, Parked};
#[cfg(Py_GIL_DISABLED)]
use other_threads::QueueOfOtherThreads;
use patches::Patches;
use ready::ReadyQueue;
pub use runnable::{QueueEntry, Queued, Runnable, RunnableKind, Timer};
#[cfg(Py_3_14)]
use running::Running;
use sleep::Sleeping;
use socket_waiters::SocketWaiters;
pub use state::current_thread;
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
    core: Core,
    shared: Shared,
    mode: Mode,
    lifecycle: Lifecycle,
    turn_hooks: TurnHooks,
}

/// What the thread that turns the loop works with. Other threads, which hold the GIL, only append
/// to `ready`.
struct Core {
    ready: ReadyQueue,
    /// The contexts that callbacks and tasks run in.
    contexts: Contexts,
    timers: AttachedRefCell<Timers<Timer>>,
    watches: AttachedRefCell<Watches>,
    socket_waiters: AttachedRefCell<SocketWaiters>,
    parked: AttachedRefCell<Parked>,
    /// Work to do when the running callback returns, or the turn ends.
    deferred: Deferred,
    /// Moved out while the loop polls, so that polling borrows nothing of the scheduler.
    poller: AttachedCell<Option<Box<Poller>>>,
    sleeping: Sleeping,
}

/// What other threads use, most of it without the GIL.
struct Shared {
    wake_signal: Arc<WakeSignal>,
    inbox: Arc<Inbox>,
    #[cfg(Py_GIL_DISABLED)]
    other_threads: QueueOfOtherThreads,
    metrics: Arc<Metrics>,
    /// Callbacks of `call_soon_threadsafe()` that are running.
    #[cfg(Py_3_14)]
    running: Running,
}

/// What decides how callbacks run: read in each turn, rarely written.
struct Mode {
    debug: Published<bool>,
    /// Whether slow callbacks are also reported outside debug mode.
    timed: AttachedCell<bool>,
    /// What the thread had used at a time shortly before the callback that is timed now.
    usage: AttachedCell<(f64, Option<Usage>)>,
    /// Whether callbacks run through [`turn`]'s slow path: in debug mode, timed, or with a replaced
    /// `asyncio.Handle._run`.
    instrumented: AttachedCell<bool>,
    /// Whether `loop.time` was replaced in Python, so that the loop must call it (virtual clocks in
    /// tests).
    foreign_clock: AttachedCell<bool>,
    patches: Patches,
}

/// Whether the loop is open and runs.
struct Lifecycle {
    /// Its entry in [`LOOPS`].
    registry_entry: RegistryEntry,
    closed: Published<bool>,
    stopping: Published<bool>,
    /// `threading.get_ident()` of the running thread; 0 when the loop does not run.
    thread: Published<u64>,
    /// The same thread, by a number that costs less to compare.
    #[cfg(Py_GIL_DISABLED)]
    thread_pointer: AtomicUsize,
}

/// What upper layers have the turn do.
#[derive(Default)]
struct TurnHooks {
    /// Set while a task remains the current task after its step.
    leave_task: AttachedCell<Option<LeaveTask>>,
    /// Set when the loop starts to run; taken and called before it first sleeps.
    before_sleep: AttachedCell<Option<TurnHook>>,
    /// Called when a poll has found the descriptor of [`Scheduler::poll_extra`] ready.
    on_extra: AttachedCell<Option<TurnHook>>,
    /// Whether the loop has signal handlers, so that it must poll for signal numbers even while
    /// callbacks are ready.
    has_signal_handlers: AttachedCell<bool>,
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
            core: Core {
                ready: ReadyQueue::default(),
                contexts: Contexts::default(),
                timers: AttachedRefCell::new(Timers::new()),
                watches: AttachedRefCell::new(watches),
                socket_waiters: AttachedRefCell::new(SocketWaiters::default()),
                parked: AttachedRefCell::new(Parked::default()),
                deferred: Deferred::default(),
                poller: AttachedCell::new(Some(Box::new(poller))),
                sleeping: Sleeping::default(),
            },
            shared: Shared {
                inbox: Arc::new(Inbox::new(wake_signal.clone())),
                #[cfg(Py_GIL_DISABLED)]
                other_threads: QueueOfOtherThreads::new(wake_signal.clone()),
                wake_signal,
                metrics: Arc::default(),
                #[cfg(Py_3_14)]
                running: Running::default(),
            },
            mode: Mode {
                debug: Published::new(false),
                timed: AttachedCell::new(false),
                usage: AttachedCell::new((0.0, None)),
                instrumented: AttachedCell::new(false),
                foreign_clock: AttachedCell::new(false),
                patches: Patches::new(py)?,
            },
            lifecycle: Lifecycle {
                registry_entry: RegistryEntry::new(&LOOPS),
                closed: Published::new(false),
                stopping: Published::new(false),
                thread: Published::new(0),
                #[cfg(Py_GIL_DISABLED)]
                thread_pointer: AtomicUsize::new(0),
            },
            turn_hooks: TurnHooks::default(),
        })
    }

    /// Appends to the ready queue, in the loop's thread; with a GIL in any thread, which must call
    /// [`Scheduler::wake`] afterwards if it is another one.
    #[inline(always)]
    pub fn push(&self, py: Python<'_>, runnable: Runnable) {
        self.take_from_other_threads(py);
        self.core.ready.push(py, runnable);
    }

    /// Number of entries in the ready queue.
    pub fn ready_count(&self, py: Python<'_>) -> usize {
        self.core.ready.len(py)
    }

    /// Removes and returns the oldest entry of the ready queue.
    pub fn pop_ready(&self, py: Python<'_>) -> Option<Runnable> {
        self.take_from_other_threads(py);
        self.core.ready.pop(py)
    }

    /// Empties the ready queue; the caller drops the entries.
    #[must_use = "dropping a runnable may run Python: do it where that is safe"]
    pub fn take_ready(&self, py: Python<'_>) -> Vec<Runnable> {
        self.take_from_other_threads(py);
        self.core.ready.take(py)
    }

    /// The contexts that callbacks and tasks run in.
    #[inline]
    pub fn contexts(&self) -> &Contexts {
        &self.core.contexts
    }

    /// Work put off to the end of a callback or turn.
    #[inline]
    pub fn deferred(&self) -> &Deferred {
        &self.core.deferred
    }

    /// Wakes the loop if it sleeps: one system call per sleep, none while it is awake.
    #[inline]
    pub fn wake(&self) {
        self.shared.wake_signal.notify();
    }

    /// What wakes the loop without the GIL.
    #[inline]
    pub fn wake_signal(&self) -> &Arc<WakeSignal> {
        &self.shared.wake_signal
    }

    /// Where threads without the GIL leave messages.
    #[inline]
    pub fn inbox(&self) -> &Arc<Inbox> {
        &self.shared.inbox
    }

    /// The counters of the loop.
    #[inline]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// Callbacks of `call_soon_threadsafe()` that are running.
    #[cfg(Py_3_14)]
    #[inline]
    pub fn running(&self) -> &Running {
        &self.shared.running
    }

    /// What tools have replaced in asyncio.
    #[inline]
    pub fn patches(&self) -> &Patches {
        &self.mode.patches
    }

    /// Makes the garbage collector track what is queued again. Handles are untracked only while the
    /// loop runs: it is alive then, so they are not garbage.
    pub fn track_scheduled(&self, py: Python<'_>) {
        self.take_from_other_threads(py);
        self.core.ready.for_each(py, |runnable| (runnable.kind.track)(runnable.object.bind(py)));
        self.core.timers.with(py, |timers| {
            timers.iter().for_each(|timer| (timer.kind.track)(timer.object.bind(py)));
        });
    }

    /// Drops everything scheduled and the poller. The loop must not be running.
    pub fn dispose(&self, py: Python<'_>) {
        inbox::close(py, self);
        let of_other_threads = self.refuse_other_threads();
        // Moved out before dropping: dropping callbacks runs Python code, which may look at the
        // loop.
        let ready = self.core.ready.take(py);
        let timers = self.core.timers.with(py, Timers::take_all);
        let watched = self.core.watches.with(py, Watches::close);
        let waiters = self.core.socket_waiters.with(py, SocketWaiters::take_all);
        let poller = self.core.poller.take(py);
        self.shared.wake_signal.disconnect();
        drop((ready, of_other_threads, timers, watched, waiters, poller));
        self.core.contexts.clear(py);
    }

    /// Reports all scheduled objects to the garbage collector.
    fn traverse_scheduled(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.core.ready.traverse(visit)?;
        self.traverse_other_threads(visit)?;
        self.core.contexts.traverse(visit)?;
        self.core.parked.traverse(|parked| parked.traverse(visit))?;
        self.mode.patches.visit(visit)?;
        self.core
            .timers
            .traverse(|timers| timers.iter().try_for_each(|timer| visit.call(&timer.object)))?;
        self.core.socket_waiters.traverse(|waiters| waiters.traverse(visit))?;
        self.core.watches.traverse(|watches| watches.traverse(visit))
    }
}

#[pymethods]
impl Scheduler {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.traverse_scheduled(&visit)
    }

    fn __clear__(&self) {
        attach_unshared(|py| {
            inbox::close(py, self);
            let of_other_threads = self.refuse_other_threads();
            let ready = self.core.ready.take(py);
            let timers = self.core.timers.with(py, Timers::take_all);
            let watched = self.core.watches.with(py, Watches::clear);
            let waiters = self.core.socket_waiters.with(py, SocketWaiters::take_all);
            drop((ready, of_other_threads, timers, watched, waiters));
            self.core.contexts.clear(py);
        });
    }
}
