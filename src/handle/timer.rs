//! `TimerHandle`: a handle with a deadline.

use pyo3::PyClassInitializer;
use pyo3::basic::CompareOp;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyNotImplemented, PyTuple};

use super::run::run_owned;
use super::{CallbackArguments, Handle, POOL_CAPACITY};
use crate::ffi::call;
use crate::ffi::entries::entered;
use crate::ffi::exception::PyOutcome;
use crate::ffi::objects::cell::AttachedCell;
use crate::ffi::objects::instance_pool::{self, InstancePool, Pooled};
use crate::ffi::objects::kept_memory::kept_memory;
use crate::ffi::objects::object::HasBase;
use crate::ffi::objects::slots::original_dealloc;
use crate::ffi::section::Owned;
use crate::interop::imports;
use crate::scheduler::contexts::ChosenContext;
use crate::scheduler::{QueueEntry, Queued, RunnableKind, Scheduler, Timer};

/// How the ready queue and the timers run a timer handle.
pub static TIMER: RunnableKind = RunnableKind::of::<TimerHandle>();

impl Queued for TimerHandle {
    type Object = Self;

    #[inline(always)]
    fn run<'py>(
        scheduler: &Bound<'py, Scheduler>,
        entry: QueueEntry<'py, Self>,
    ) -> PyOutcome<'py, ()> {
        run_owned(scheduler, entry.object.as_super())
    }

    fn is_cancelled(timer: &Bound<'_, Self>) -> bool {
        Handle::is_cancelled(timer.base(), timer.py())
    }

    fn track(timer: &Bound<'_, Self>) {
        Handle::track(timer.as_super());
    }

    fn left_timers(timer: &Bound<'_, Self>) {
        timer.get().scheduled.set(timer.py(), false);
    }
}

/// A deadline, kept as the caller gave it: an int remains an int in `when()` and `repr()`.
pub enum When {
    /// Seconds computed by `call_later`.
    Seconds(f64),
    /// The argument of `call_at`.
    Given(Py<PyAny>),
}

impl Default for When {
    fn default() -> Self {
        Self::Seconds(0.0)
    }
}

/// A callback scheduled for a time, returned by `loop.call_later()` and `loop.call_at()`.
///
/// Args:
///     when: deadline in seconds on the clock of `loop.time()`.
///     callback, args, loop, context: as for `Handle`.
///
/// See <https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.TimerHandle>.
#[pyclass(frozen, extends = Handle, subclass, module = "ferroloop", name = "TimerHandle")]
pub struct TimerHandle {
    when: AttachedCell<When>,
    scheduled: AttachedCell<bool>,
}

impl Pooled for TimerHandle {
    fn pool() -> &'static InstancePool {
        kept_memory!(POOL_CAPACITY / 4)
    }

    original_dealloc!();

    fn new_empty(py: Python<'_>) -> PyResult<Bound<'_, Self>> {
        let timer = Self::unscheduled(When::default());
        Bound::new(py, PyClassInitializer::from(Handle::unscheduled()).add_subclass(timer))
    }

    #[inline(always)]
    fn empty(slf: &Bound<'_, Self>) {
        let py = slf.py();
        slf.get().scheduled.set(py, false);
        if let When::Given(when) = slf.get().when.take(py) {
            drop(when.into_bound(py));
        }
        Handle::empty(slf.as_super());
    }
}

impl TimerHandle {
    fn unscheduled(when: When) -> Self {
        Self { when: AttachedCell::new(when), scheduled: AttachedCell::new(false) }
    }

    /// A handle with the deadline `when`; otherwise as [`Handle::untracked`].
    #[inline(always)]
    pub fn untracked<'py>(
        when: When,
        callback: Bound<'py, PyAny>,
        arguments: CallbackArguments,
        event_loop: Bound<'py, PyAny>,
        context: ChosenContext<'py>,
        debug: bool,
    ) -> PyResult<Bound<'py, Self>> {
        let py = callback.py();
        let timer = instance_pool::empty_object::<Self>(py)?;
        drop(timer.get().when.replace(py, when));
        timer.base().schedule(callback, arguments, event_loop, context, debug)?;
        Ok(timer)
    }

    /// Adds it to the timers of `scheduler` with `deadline`, which must equal its `when` as a
    /// float.
    #[inline(always)]
    pub fn arm<'py>(slf: &Bound<'py, Self>, scheduler: &Bound<'py, Scheduler>, deadline: f64) {
        let py = slf.py();
        slf.get().scheduled.set(py, true);
        let timer = Timer { kind: &TIMER, object: slf.clone().into_any().unbind() };
        scheduler.get().add_timer(py, deadline, timer);
    }

    fn when<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        let when = self.when.inspect(py, |when| match when {
            When::Seconds(seconds) => Err(*seconds),
            When::Given(object) => Ok(object.bind(py).clone()),
        });
        when.unwrap_or_else(|seconds| PyFloat::new(py, seconds).into_any())
    }
}

impl Owned for TimerHandle {
    fn owner<'a, 'py>(slf: &'a Bound<'py, Self>) -> Option<Borrowed<'a, 'py, PyAny>> {
        Handle::owner(slf.as_super())
    }
}

entered!(TimerHandle);

#[pymethods]
impl TimerHandle {
    #[new]
    #[pyo3(signature = (when, callback, args, r#loop, context=None))]
    fn new<'py>(
        when: Bound<'py, PyAny>,
        callback: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        r#loop: Bound<'py, PyAny>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let debug = r#loop.call_method0(intern!(r#loop.py(), "get_debug"))?.is_truthy()?;
        let arguments = CallbackArguments::from_tuple(args);
        let handle = Handle::unscheduled();
        let context = ChosenContext::given_or_copied(when.py(), context)?;
        handle.schedule(callback, arguments, r#loop, context, debug)?;
        let timer = Self::unscheduled(When::Given(when.unbind()));
        Ok(PyClassInitializer::from(handle).add_subclass(timer))
    }

    /// Cancel the callback. Has no effect if it was already called or cancelled.
    fn cancel(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let handle = slf.as_super();
        if handle.get().is_cancelled(py) {
            return Ok(());
        }
        if let Some(event_loop) = handle.get().event_loop.get_bound(py) {
            match event_loop.cast::<Scheduler>() {
                Ok(scheduler) => return Self::cancel_native(slf, scheduler),
                Err(_) => {
                    event_loop.call_method1(intern!(py, "_timer_handle_cancelled"), (slf,))?;
                }
            }
        }
        Handle::cancel_with(handle)
    }

    /// Return the deadline in seconds, on the clock of `loop.time()`.
    #[pyo3(name = "when")]
    fn when_py<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.when(py)
    }

    #[getter(_when)]
    fn get_when<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.when(py)
    }

    #[getter(_scheduled)]
    fn get_scheduled(&self, py: Python<'_>) -> bool {
        self.scheduled.get(py)
    }

    #[setter(_scheduled)]
    fn set_scheduled(&self, py: Python<'_>, value: bool) {
        self.scheduled.set(py, value);
    }

    fn _repr_info<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Ok(call::call_method(
            imports::asyncio_timer_handle(slf.py())?,
            intern!(slf.py(), "_repr_info"),
            [slf.as_any()],
        )?)
    }

    /// `asyncio.TimerHandle`, so that `isinstance(handle, asyncio.TimerHandle)` holds.
    #[getter(__class__)]
    fn asyncio_class<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        imports::asyncio_timer_handle(slf.py()).cloned()
    }

    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        self.when(py).hash()
    }

    fn __richcmp__<'py>(
        slf: &Bound<'py, Self>,
        other: &Bound<'py, PyAny>,
        operator: CompareOp,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let class = imports::asyncio_timer_handle(py)?;
        if !other.is_instance(class)? {
            return Ok(PyNotImplemented::get(py).to_owned().into_any());
        }
        let mine = slf.get().when(py);
        let theirs = other.getattr(intern!(py, "_when"))?;
        let equal = || -> PyResult<bool> {
            for name in ["_when", "_callback", "_args", "_cancelled"] {
                if !slf.getattr(name)?.eq(other.getattr(name)?)? {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let result = match operator {
            CompareOp::Lt => mine.lt(&theirs)?,
            CompareOp::Le => mine.lt(&theirs)? || equal()?,
            CompareOp::Gt => mine.gt(&theirs)?,
            CompareOp::Ge => mine.gt(&theirs)? || equal()?,
            CompareOp::Eq => equal()?,
            CompareOp::Ne => !equal()?,
        };
        Ok(result.into_pyobject(py)?.to_owned().into_any())
    }
}

impl TimerHandle {
    /// Cancels, and removes the timer from the heap where that is cheap: a timeout that is
    /// cancelled soon after it was set, as most are, is the last one in the heap.
    fn cancel_native<'py>(
        slf: &Bound<'py, Self>,
        scheduler: &Bound<'py, Scheduler>,
    ) -> PyResult<()> {
        let py = slf.py();
        let mut removed = None;
        if slf.get().scheduled.get(py) {
            removed = scheduler.get().cancel_timer(py, slf.as_unbound());
        }
        if removed.is_some() {
            slf.get().scheduled.set(py, false);
        }
        let result = Handle::cancel_with(slf.as_super());
        drop(removed);
        result
    }
}
