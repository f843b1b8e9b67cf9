//! `Future`: a result that is not available yet.
//!
//! * `mod.rs`: the state and its transitions;
//! * `methods.rs`: the Python methods;
//! * `fast_paths.rs`: fast paths of some of them;
//! * `callbacks.rs`: done callbacks; `phase.rs`: what other threads see without waiting;
//! * `awaiter.rs`: `await`;
//! * `finalizer.rs`: reports an exception that was never retrieved.

#![forbid(unsafe_code)]

mod awaiter;
mod callbacks;
mod fast_paths;
mod finalizer;
mod methods;
mod phase;

use pyo3::exceptions::PyBaseException;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::{PyClass, PyClassInitializer};

pub use awaiter::{AwaiterAttributes, FutureIterator, is_its_own_awaiter, separate_awaiter};
pub use callbacks::{Callback, Callbacks, NativeCallback, is_done_callback};
pub use fast_paths::{ModuleName, class_of_exact};
pub use methods::{
    cannot_delete, install, raise_for_keywords, reported_class, repr_with, set_class,
};
use phase::PublishedPhase;

use crate::ffi::call;
use crate::ffi::entries;
use crate::ffi::objects::cell::{AttachedCell, Traverse};
use crate::ffi::objects::freelist::{FreeList, Recycled};
use crate::ffi::objects::kept_memory::kept_memory;
use crate::ffi::objects::object;
use crate::ffi::section::Owned;
use crate::interop::imports;
use crate::scheduler::{COMMON_LOOP_CLASS, Scheduler};

/// The outcome of a future.
///
/// The layout makes zeroed memory `Pending`: see [`Future`].
#[repr(C, u64)]
pub enum Outcome {
    /// Not done.
    Pending = 0,
    /// Cancelled.
    Cancelled,
    /// Done with a value.
    Result(Py<PyAny>),
    /// Done with an exception.
    Exception(Py<PyBaseException>),
}

impl Traverse for Outcome {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Pending | Self::Cancelled => Ok(()),
            Self::Result(value) => visit.call(value),
            Self::Exception(exception) => visit.call(exception),
        }
    }
}

/// Fields that few futures need, in a box of their own so that most futures stay small.
#[derive(Default)]
pub struct RareFields {
    /// The stack of the creator, in debug mode.
    pub source_traceback: Option<Py<PyAny>>,
    /// The argument of `cancel()`.
    pub cancel_message: Option<Py<PyAny>>,
    /// The CancelledError that ended a task. The first call of `result()` or `exception()` raises
    /// it.
    pub cancelled_exception: Option<Py<PyBaseException>>,
    /// The traceback of the exception when it was set; raising it later must not lengthen it.
    pub exception_traceback: Option<Py<PyAny>>,
}

impl Traverse for Option<Box<RareFields>> {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(rare_fields) = self else { return Ok(()) };
        visit.call(&rare_fields.source_traceback)?;
        visit.call(&rare_fields.cancel_message)?;
        visit.call(&rare_fields.cancelled_exception)?;
        visit.call(&rare_fields.exception_traceback)
    }
}

/// The kind of event loop that a future belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum LoopKind {
    /// `__init__` has not run.
    None = 0,
    /// A loop of this crate: callbacks are pushed to its ready queue.
    Native,
    /// Any other loop: callbacks are scheduled by `loop.call_soon(..., context=...)`.
    Foreign,
}

/// A result that will be available later; `await` waits for it.
///
/// Not thread-safe. Callbacks are scheduled by the loop's `call_soon()`.
///
/// Args:
///     loop: the event loop, by default the current one.
///
/// See <https://docs.python.org/3/library/asyncio-future.html>.
// On 3.11 and 3.12 the interpreter creates the `__dict__` of a new object before PyO3 has moved the
// Rust value in, and a garbage collection started by that visits zeroed memory: the fields that
// `__traverse__` reads must be valid, and empty, if they are zeroed.
#[pyclass(frozen, subclass, weakref, dict, module = "ferroloop", name = "Future")]
pub struct Future {
    event_loop: AttachedCell<Option<Py<PyAny>>>,
    outcome: AttachedCell<Outcome>,
    phase: PublishedPhase,
    callbacks: AttachedCell<Callbacks>,
    rare_fields: AttachedCell<Option<Box<RareFields>>>,
    loop_kind: AttachedCell<LoopKind>,
    log_traceback: AttachedCell<bool>,
    blocking: AttachedCell<bool>,
}

/// Deallocated futures that are kept: as many as tasks, each of which may await one. With the
/// collector's header a future is about 110 bytes, so they are less than 120 KiB.
const FREE_FUTURES: usize = 1024;

impl Recycled for Future {
    fn free_list() -> &'static FreeList {
        kept_memory!(FREE_FUTURES)
    }
}

impl Owned for Future {
    fn owner<'a, 'py>(slf: &'a Bound<'py, Self>) -> Option<Borrowed<'a, 'py, PyAny>> {
        slf.get().owning_loop(slf.py())
    }
}

impl entries::Entered for Future {
    // `asyncio.all_tasks()` of another thread calls it for each task.
    const WITHOUT_SECTION: &'static [&'static std::ffi::CStr] = &[c"get_loop"];

    entries::own_entries!();
}

impl Future {
    /// The loop in whose section its cells are used; `None` before `__init__`.
    #[inline(always)]
    pub fn owning_loop<'a, 'py>(&'a self, py: Python<'py>) -> Option<Borrowed<'a, 'py, PyAny>> {
        self.event_loop.owner(py)
    }

    /// A future without a loop, as `__new__` leaves it.
    pub fn uninitialised() -> Self {
        Self {
            event_loop: AttachedCell::new(None),
            outcome: AttachedCell::new(Outcome::Pending),
            phase: PublishedPhase::default(),
            callbacks: AttachedCell::new(Callbacks::None),
            rare_fields: AttachedCell::new(None),
            loop_kind: AttachedCell::new(LoopKind::None),
            log_traceback: AttachedCell::new(false),
            blocking: AttachedCell::new(false),
        }
    }

    /// A pending future of a loop of this crate. In debug mode it keeps the caller's stack.
    #[inline(always)]
    pub fn for_loop(scheduler: &Bound<'_, Scheduler>) -> PyResult<Self> {
        let py = scheduler.py();
        let rare_fields =
            if scheduler.get().is_debug(py) { Some(RareFields::of_caller(py)?) } else { None };
        Ok(Self {
            event_loop: AttachedCell::new(Some(scheduler.clone().into_any().unbind())),
            rare_fields: AttachedCell::new(rare_fields),
            loop_kind: AttachedCell::new(LoopKind::Native),
            ..Self::uninitialised()
        })
    }

    /// Does the work of `__init__`: binds the future to `event_loop` or the current loop.
    ///
    /// # Errors
    /// RuntimeError from 3.15 on, and without a GIL, if it is bound already; exceptions of
    /// `get_event_loop()`.
    pub fn initialise<'py>(
        slf: &Bound<'py, Self>,
        event_loop: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if cfg!(any(Py_3_15, Py_GIL_DISABLED)) && this.event_loop.is_some(py) {
            let name = slf.get_type().fully_qualified_name()?;
            let text = format!("{name} object is already initialized");
            return Err(pyo3::exceptions::PyRuntimeError::new_err(text));
        }
        let event_loop = match event_loop.filter(|event_loop| !event_loop.is_none()) {
            Some(event_loop) => event_loop,
            None => imports::get_event_loop(py)?.call0()?,
        };
        let (kind, debug) = match event_loop.cast::<Scheduler>() {
            Ok(scheduler) => (LoopKind::Native, scheduler.get().is_debug(py)),
            Err(_) => {
                let debug = event_loop.call_method0(intern!(py, "get_debug"))?.is_truthy()?;
                (LoopKind::Foreign, debug)
            }
        };
        this.loop_kind.set(py, kind);
        this.event_loop.store_owner(py, event_loop);
        // A second `__init__` resets the future, as in asyncio before 3.15.
        this.phase.publish(&Outcome::Pending);
        drop(this.outcome.replace(py, Outcome::Pending));
        drop(this.callbacks.replace(py, Callbacks::None));
        this.log_traceback.set(py, false);
        this.blocking.set(py, false);
        let rare_fields = if debug { Some(RareFields::of_caller(py)?) } else { None };
        drop(this.rare_fields.replace(py, rare_fields));
        Ok(())
    }

    /// The event loop.
    ///
    /// # Errors
    /// RuntimeError before `__init__`.
    pub fn event_loop<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.event_loop.get_bound(py).ok_or_else(phase::not_initialised)
    }

    /// The loop's scheduler, if it is a loop of this crate.
    #[inline(always)]
    pub fn scheduler<'py>(&self, py: Python<'py>) -> Option<Bound<'py, Scheduler>> {
        if self.loop_kind.get(py) != LoopKind::Native {
            return None;
        }
        self.event_loop.inspect(py, |event_loop| {
            event_loop
                .as_ref()
                .and_then(|event_loop| COMMON_LOOP_CLASS.cast(event_loop.bind(py)).cloned())
        })
    }

    /// Whether it belongs to a loop of this crate that is running.
    #[inline(always)]
    pub fn is_on_running_loop(&self, py: Python<'_>) -> bool {
        self.loop_kind.get(py) == LoopKind::Native
            && self.event_loop.inspect(py, |event_loop| {
                let event_loop = event_loop.as_ref().map(|event_loop| event_loop.bind(py));
                event_loop
                    .and_then(|event_loop| COMMON_LOOP_CLASS.cast(event_loop))
                    .is_some_and(|scheduler| scheduler.get().is_running(py))
            })
    }

    /// Whether it belongs to `event_loop`.
    #[inline(always)]
    pub fn belongs_to(&self, py: Python<'_>, event_loop: &Bound<'_, PyAny>) -> bool {
        self.event_loop.holds(py, event_loop)
    }

    /// Whether it has an outcome.
    #[inline(always)]
    pub fn is_done(&self, py: Python<'_>) -> bool {
        self.outcome.inspect(py, |outcome| !matches!(outcome, Outcome::Pending))
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self, py: Python<'_>) -> bool {
        self.outcome.inspect(py, |outcome| matches!(outcome, Outcome::Cancelled))
    }

    /// Finishes a pending future with a value and schedules its callbacks.
    #[inline(always)]
    pub fn finish_with_result(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        slf.get().finish(py, Outcome::Result(value.unbind()));
        Self::schedule_callbacks(slf)
    }

    /// Finishes a pending future with an exception and schedules its callbacks.
    pub fn finish_with_exception(
        slf: &Bound<'_, Self>,
        exception: Bound<'_, PyBaseException>,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        // No look-up of an attribute: the future must be pending still when it is finished.
        let traceback = PyErr::from_value(exception.clone().into_any()).traceback(py);
        this.finish(py, Outcome::Exception(exception.unbind()));
        if let Some(traceback) = traceback {
            this.update_rare_fields(py, |rare_fields| {
                rare_fields.exception_traceback.replace(traceback.into_any().unbind())
            });
        }
        let scheduled = Self::schedule_callbacks(slf);
        this.log_traceback.set(py, true);
        scheduled
    }

    /// `Future.cancel()`: cancels a pending future; returns false if it was done.
    pub fn cancel(slf: &Bound<'_, Self>, message: Option<Bound<'_, PyAny>>) -> PyResult<bool> {
        let py = slf.py();
        let this = slf.get();
        this.log_traceback.set(py, false);
        if this.is_done(py) {
            return Ok(false);
        }
        this.finish(py, Outcome::Cancelled);
        // Drops the former message, which may run Python code.
        this.set_cancel_message(py, message);
        Self::schedule_callbacks(slf)?;
        Ok(true)
    }

    /// Cancels a pending future without callbacks and rare fields; false, with nothing done, for
    /// any other.
    #[inline(always)]
    fn cancel_without_callbacks(&self, py: Python<'_>) -> bool {
        let matches = self.event_loop.is_some(py)
            && !self.is_done(py)
            && self.callbacks.inspect(py, |callbacks| matches!(callbacks, Callbacks::None))
            && self.rare_fields.inspect(py, Option::is_none);
        if matches {
            self.log_traceback.set(py, false);
            self.finish(py, Outcome::Cancelled);
        }
        matches
    }

    /// Whether it is done with a value.
    #[inline(always)]
    pub fn has_result(&self, py: Python<'_>) -> bool {
        self.outcome.inspect(py, |outcome| matches!(outcome, Outcome::Result(_)))
    }

    /// Marks the exception as retrieved, so that the finalizer does not report it.
    pub fn mark_retrieved(&self, py: Python<'_>) {
        self.log_traceback.set(py, false);
    }

    #[inline(always)]
    fn finish(&self, py: Python<'_>, outcome: Outcome) {
        self.phase.publish(&outcome);
        let before = self.outcome.replace(py, outcome);
        debug_assert!(matches!(before, Outcome::Pending), "a future was finished twice");
        drop(before);
    }

    /// The value, or the exception that `result()` raises, which is then marked as retrieved.
    ///
    /// # Errors
    /// InvalidStateError if the future is pending.
    #[inline(always)]
    pub fn retrieve_result<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<Result<Bound<'py, PyAny>, Bound<'py, PyBaseException>>> {
        enum Snapshot<'py> {
            Pending,
            Cancelled,
            Result(Bound<'py, PyAny>),
            Exception(Bound<'py, PyBaseException>),
        }
        let snapshot = self.outcome.inspect(py, |outcome| match outcome {
            Outcome::Pending => Snapshot::Pending,
            Outcome::Cancelled => Snapshot::Cancelled,
            Outcome::Result(value) => Snapshot::Result(value.bind(py).clone()),
            Outcome::Exception(exception) => Snapshot::Exception(exception.bind(py).clone()),
        });
        match snapshot {
            Snapshot::Result(value) => Ok(Ok(value)),
            Snapshot::Exception(exception) => {
                self.log_traceback.set(py, false);
                self.reset_traceback(&exception)?;
                Ok(Err(exception))
            }
            Snapshot::Cancelled => Ok(Err(self.make_cancelled_error(py)?)),
            Snapshot::Pending => Err(invalid_state(py, "Result is not set.")),
        }
    }

    /// Restores the traceback that the exception had when it was set.
    fn reset_traceback(&self, exception: &Bound<'_, PyBaseException>) -> PyResult<()> {
        let py = exception.py();
        let traceback = self.rare_fields.inspect(py, |rare_fields| {
            rare_fields.as_ref()?.exception_traceback.as_ref().map(|tb| tb.bind(py).clone())
        });
        let traceback = traceback.unwrap_or_else(|| py.None().into_bound(py));
        exception.setattr(intern!(py, "__traceback__"), traceback)
    }

    /// The CancelledError to raise: the first time the one that ended the task, then a new one.
    pub fn make_cancelled_error<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<Bound<'py, PyBaseException>> {
        let (kept, message) = self.rare_fields.inspect(py, |rare_fields| match rare_fields {
            Some(rare_fields) => (
                rare_fields.cancelled_exception.as_ref().map(|e| e.bind(py).clone()),
                rare_fields.cancel_message.as_ref().map(|m| m.bind(py).clone()),
            ),
            None => (None, None),
        });
        if let Some(kept) = kept {
            self.update_rare_fields(py, |rare_fields| rare_fields.cancelled_exception.take());
            return Ok(kept);
        }
        let class = imports::cancelled_error(py)?;
        let error = match message {
            Some(message) => class.call1((message,))?,
            None => class.call0()?,
        };
        Ok(error.cast_into()?)
    }

    /// The argument of `cancel()`.
    pub fn cancel_message<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.rare_fields.inspect(py, |rare_fields| {
            rare_fields.as_ref()?.cancel_message.as_ref().map(|message| message.bind(py).clone())
        })
    }

    /// Sets the argument of `cancel()`; None counts as no argument.
    pub fn set_cancel_message(&self, py: Python<'_>, message: Option<Bound<'_, PyAny>>) {
        let message = message.filter(|message| !message.is_none());
        if message.is_some() || self.rare_fields.inspect(py, Option::is_some) {
            self.update_rare_fields(py, |rare_fields| {
                std::mem::replace(&mut rare_fields.cancel_message, message.map(Bound::unbind))
            });
        }
    }

    /// Keeps the CancelledError that ended a task.
    pub fn keep_cancelled_exception(&self, exception: Bound<'_, PyBaseException>) {
        self.update_rare_fields(exception.py(), |rare_fields| {
            rare_fields.cancelled_exception.replace(exception.clone().unbind())
        });
    }

    /// The stack of the creator, in debug mode.
    pub fn source_traceback<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.rare_fields.inspect(py, |rare_fields| {
            rare_fields.as_ref()?.source_traceback.as_ref().map(|stack| stack.bind(py).clone())
        })
    }

    /// Updates the rare fields, which are moved out of the cell meanwhile, since dropping a
    /// replaced object may run Python code: `update` returns it, and it is dropped at the end.
    pub fn update_rare_fields<R>(&self, py: Python<'_>, update: impl FnOnce(&mut RareFields) -> R) {
        let mut rare_fields = self.rare_fields.take(py).unwrap_or_default();
        let replaced = update(&mut rare_fields);
        drop(self.rare_fields.replace(py, Some(rare_fields)));
        drop(replaced);
    }

    /// Sets `_asyncio_future_blocking`.
    #[inline(always)]
    pub fn set_blocking(&self, py: Python<'_>, blocking: bool) {
        self.blocking.set(py, blocking);
    }

    /// Whether `await` has just yielded this future.
    #[inline(always)]
    pub fn is_blocking(&self, py: Python<'_>) -> bool {
        self.blocking.get(py)
    }
}

impl RareFields {
    #[cold]
    fn of_caller(py: Python<'_>) -> PyResult<Box<Self>> {
        let stack = call::call0(imports::extract_whole_stack(py)?)?;
        Ok(Box::new(Self { source_traceback: Some(stack.unbind()), ..Self::default() }))
    }
}

/// Creates the Python object of a future (or, with a subclass initializer, of a task).
#[inline(always)]
pub fn new_object<'py, T: PyClass>(
    py: Python<'py>,
    value: impl Into<PyClassInitializer<T>>,
) -> PyResult<Bound<'py, T>> {
    let object = Bound::new(py, value)?;
    object::discard_eager_dict(&object);
    Ok(object)
}

/// InvalidStateError with a message.
#[cold]
pub fn invalid_state(py: Python<'_>, message: &str) -> PyErr {
    match imports::invalid_state_error(py).and_then(|class| class.call1((message,))) {
        Ok(error) => PyErr::from_value(error),
        Err(error) => error,
    }
}
