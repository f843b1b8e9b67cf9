//! `Handle` and `TimerHandle`: a scheduled callback that can be cancelled.
//!
//! * `timer.rs`: `TimerHandle`;
//! * `threadsafe.rs`: handles of `call_soon_threadsafe()` (Python 3.14);
//! * `run.rs`: running a handle; `arguments.rs`: the arguments of a callback.
//!
//! The garbage collector does not track a handle while the running loop's queue owns it: such
//! handles are not garbage, and would be the largest part of a collection. They are tracked when
//! they are run, exposed to the program or cancelled, or when the loop stops.

#![forbid(unsafe_code)]

mod arguments;
mod run;
#[cfg(Py_3_14)]
mod threadsafe;
mod timer;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

pub use arguments::CallbackArguments;
use run::run;
pub use run::{HANDLE, report_exception};
pub use timer::{TimerHandle, When};

use crate::ffi::call;
use crate::ffi::entries::{self, entered};
use crate::ffi::objects::cell::AttachedCell;
use crate::ffi::objects::instance_pool::{self, InstancePool, Pooled};
use crate::ffi::objects::kept_memory::kept_memory;
use crate::ffi::objects::object;
use crate::ffi::objects::slots::original_dealloc;
use crate::ffi::section::{Owned, attach_unshared};
use crate::interop::imports;
use crate::scheduler::Scheduler;
use crate::scheduler::contexts::{ChosenContext, ContextSlot, ContextState};
use crate::scheduler::report::too_late_to_report;

/// Completes the classes. Called once, when the module is initialised.
pub fn install(py: Python<'_>) {
    instance_pool::install::<Handle>(py);
    instance_pool::install::<TimerHandle>(py);
    entries::install::<Handle>(py);
    entries::install::<TimerHandle>(py);
}

/// Fields that only debug mode sets.
#[derive(Default)]
struct DebugInfo {
    source_traceback: Option<Py<PyAny>>,
    repr: Option<Py<PyAny>>,
}

/// A scheduled callback, returned by `loop.call_soon()` and the like.
///
/// Args:
///     callback: the callable.
///     args: its positional arguments, a tuple.
///     loop: the event loop.
///     context: the `contextvars.Context` to run in; a copy of the current one by default.
///
/// See <https://docs.python.org/3/library/asyncio-eventloop.html#callback-handles>.
#[pyclass(frozen, subclass, weakref, module = "ferroloop", name = "Handle")]
pub struct Handle {
    callback: AttachedCell<Option<Py<PyAny>>>,
    arguments: AttachedCell<CallbackArguments>,
    context: AttachedCell<Option<Py<PyAny>>>,
    event_loop: AttachedCell<Option<Py<PyAny>>>,
    debug: AttachedCell<Option<Box<DebugInfo>>>,
    context_state: AttachedCell<ContextState>,
    cancelled: AttachedCell<bool>,
    /// Created by `call_soon_threadsafe()`: `cancel()` in another thread waits while it runs.
    #[cfg(Py_3_14)]
    threadsafe: AttachedCell<bool>,
}

/// Maximum number of pooled handles (6 MiB): as many as a thread may queue before it loses the GIL.
/// A thread that calls `call_soon_threadsafe()` without pause is not slowed down: switching to the
/// loop earlier was measured to cost more CPU time than the memory of a long queue does.
pub(super) const POOL_CAPACITY: usize = 64 * 1024;

impl Pooled for Handle {
    fn pool() -> &'static InstancePool {
        kept_memory!(POOL_CAPACITY)
    }

    original_dealloc!();

    fn new_empty(py: Python<'_>) -> PyResult<Bound<'_, Self>> {
        Bound::new(py, Self::unscheduled())
    }

    #[inline(always)]
    fn empty(slf: &Bound<'_, Self>) {
        let py = slf.py();
        let this = slf.get();
        this.cancelled.set(py, false);
        #[cfg(Py_3_14)]
        this.threadsafe.set(py, false);
        let context = this.context.take(py).map(|context| context.into_bound(py));
        let callback = this.callback.take(py).map(|callback| callback.into_bound(py));
        let arguments = this.arguments.take(py).into_bound(py);
        let event_loop = this.event_loop.take(py).map(|event_loop| event_loop.into_bound(py));
        if let Some(debug) = this.debug.take(py) {
            drop((
                debug.source_traceback.map(|traceback| traceback.into_bound(py)),
                debug.repr.map(|repr| repr.into_bound(py)),
            ));
        }
        drop((callback, arguments, context, event_loop));
    }
}

impl Handle {
    /// An empty handle.
    fn unscheduled() -> Self {
        Self {
            callback: AttachedCell::new(None),
            arguments: AttachedCell::new(CallbackArguments::Cleared),
            context: AttachedCell::new(None),
            event_loop: AttachedCell::new(None),
            debug: AttachedCell::new(None),
            context_state: AttachedCell::new(ContextState::Exposed),
            cancelled: AttachedCell::new(false),
            #[cfg(Py_3_14)]
            threadsafe: AttachedCell::new(false),
        }
    }

    /// A handle for `callback(*arguments)` in `context`. The garbage collector does not track it
    /// until [`Handle::track`] is called.
    ///
    /// In debug mode it keeps the caller's stack. Runs Python code only then.
    #[inline(always)]
    pub fn untracked<'py>(
        callback: Bound<'py, PyAny>,
        arguments: CallbackArguments,
        event_loop: Bound<'py, PyAny>,
        context: ChosenContext<'py>,
        debug: bool,
    ) -> PyResult<Bound<'py, Self>> {
        let handle = instance_pool::empty_object::<Self>(callback.py())?;
        handle.get().schedule(callback, arguments, event_loop, context, debug)?;
        Ok(handle)
    }

    /// As [`Handle::untracked`], but tracked: for handles that are kept outside the ready queue and
    /// the timers. The default `context` is a copy of the current one.
    pub fn create<'py>(
        callback: Bound<'py, PyAny>,
        arguments: CallbackArguments,
        event_loop: Bound<'py, PyAny>,
        context: Option<Bound<'py, PyAny>>,
        debug: bool,
    ) -> PyResult<Bound<'py, Self>> {
        let context = ChosenContext::given_or_copied(callback.py(), context)?;
        let handle = Self::untracked(callback, arguments, event_loop, context, debug)?;
        Self::track(&handle);
        Ok(handle)
    }

    /// Initialises an empty handle.
    #[inline(always)]
    fn schedule<'py>(
        &self,
        callback: Bound<'py, PyAny>,
        arguments: CallbackArguments,
        event_loop: Bound<'py, PyAny>,
        context: ChosenContext<'py>,
        debug: bool,
    ) -> PyResult<()> {
        let py = callback.py();
        if debug {
            drop(self.debug.replace(py, Some(DebugInfo::of_caller(py)?)));
        }
        self.context_slot().set(py, context);
        drop((
            self.callback.replace(py, Some(callback.unbind())),
            self.arguments.replace(py, arguments),
            self.event_loop.replace(py, Some(event_loop.unbind())),
        ));
        Ok(())
    }

    /// Makes the garbage collector track the handle.
    #[inline]
    pub fn track(slf: &Bound<'_, Self>) {
        object::track(slf);
    }

    #[inline(always)]
    fn context_slot(&self) -> ContextSlot<'_> {
        ContextSlot { object: &self.context, state: &self.context_state }
    }

    /// Whether `cancel()` was called.
    #[inline(always)]
    pub fn is_cancelled(&self, py: Python<'_>) -> bool {
        self.cancelled.get(py)
    }

    /// Sets the stack of the code that scheduled the callback.
    pub fn set_source_traceback(&self, stack: Bound<'_, PyAny>) {
        let py = stack.py();
        let mut debug = self.debug.take(py).unwrap_or_default();
        let replaced = debug.source_traceback.replace(stack.unbind());
        drop((self.debug.replace(py, Some(debug)), replaced));
    }

    /// The stack of the code that scheduled the callback, which only debug mode keeps.
    pub fn source_traceback<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.debug.inspect(py, |debug| {
            let traceback = debug.as_ref()?.source_traceback.as_ref()?;
            Some(traceback.bind(py).clone())
        })
    }

    fn loop_debug(&self, py: Python<'_>) -> PyResult<bool> {
        match self.event_loop.get_bound(py) {
            Some(event_loop) => {
                if let Ok(scheduler) = event_loop.cast::<Scheduler>() {
                    return Ok(scheduler.get().is_debug(py));
                }
                event_loop.call_method0(intern!(py, "get_debug"))?.is_truthy()
            }
            None => Ok(false),
        }
    }

    /// Cancels the callback and drops it with its arguments. In debug mode, first stores what
    /// `repr()` returns from now on.
    fn cancel_with(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if this.cancelled.get(py) {
            return Ok(());
        }
        this.cancelled.set(py, true);
        Self::track(slf);
        if this.loop_debug(py)? && !too_late_to_report(py) {
            let repr = slf.repr()?.into_any().unbind();
            let mut debug = this.debug.take(py).unwrap_or_default();
            debug.repr = Some(repr);
            drop(this.debug.replace(py, Some(debug)));
        }
        let callback = this.callback.take(py);
        let arguments = this.arguments.take(py);
        drop((callback, arguments));
        Ok(())
    }
}

impl Owned for Handle {
    fn owner<'a, 'py>(slf: &'a Bound<'py, Self>) -> Option<Borrowed<'a, 'py, PyAny>> {
        slf.get().event_loop.owner(slf.py())
    }
}

entered!(Handle);

impl DebugInfo {
    #[cold]
    fn of_caller(py: Python<'_>) -> PyResult<Box<Self>> {
        let stack = call::call0(imports::extract_stack(py)?)?;
        Ok(Box::new(Self { source_traceback: Some(stack.unbind()), repr: None }))
    }
}

#[pymethods]
impl Handle {
    #[new]
    #[pyo3(signature = (callback, args, r#loop, context=None))]
    fn new<'py>(
        callback: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        r#loop: Bound<'py, PyAny>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Self> {
        let py = callback.py();
        let debug = r#loop.call_method0(intern!(py, "get_debug"))?.is_truthy()?;
        let context = ChosenContext::given_or_copied(py, context)?;
        let handle = Self::unscheduled();
        handle.schedule(callback, CallbackArguments::from_tuple(args), r#loop, context, debug)?;
        Ok(handle)
    }

    /// Cancel the callback. Has no effect if it was already called or cancelled.
    fn cancel(slf: &Bound<'_, Self>) -> PyResult<()> {
        #[cfg(Py_3_14)]
        threadsafe::wait_for_end(slf)?;
        Self::cancel_with(slf)
    }

    /// Return True if the callback was cancelled.
    #[pyo3(name = "cancelled")]
    fn cancelled_py(slf: &Bound<'_, Self>) -> PyResult<bool> {
        #[cfg(Py_3_14)]
        threadsafe::wait_for_end(slf)?;
        Ok(slf.get().cancelled.get(slf.py()))
    }

    /// Return the `contextvars.Context` that the callback runs in.
    fn get_context<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.context_slot().expose(py)
    }

    fn _run(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        run(slf, |slot| slot.expose(py)).map_err(PyErr::from)
    }

    fn _repr_info<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Ok(call::call_method(
            imports::asyncio_handle(slf.py())?,
            intern!(slf.py(), "_repr_info"),
            [slf.as_any()],
        )?)
    }

    fn __repr__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Ok(call::call_method(
            imports::asyncio_handle(slf.py())?,
            intern!(slf.py(), "__repr__"),
            [slf.as_any()],
        )?)
    }

    /// `asyncio.Handle`, so that `isinstance(handle, asyncio.Handle)` holds.
    #[getter(__class__)]
    fn asyncio_class<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        #[cfg(Py_3_14)]
        if slf.get().threadsafe.get(slf.py()) {
            return imports::threadsafe_handle(slf.py()).cloned();
        }
        imports::asyncio_handle(slf.py()).cloned()
    }

    #[getter(_callback)]
    fn callback_py<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.callback.get_bound(py)
    }

    #[setter(_callback)]
    fn set_callback(&self, py: Python<'_>, value: Option<Bound<'_, PyAny>>) {
        self.callback.store(py, value);
    }

    #[getter(_args)]
    fn args<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        self.arguments.inspect(py, |arguments| arguments.bound(py)).to_tuple(py)
    }

    #[setter(_args)]
    fn set_args(&self, py: Python<'_>, value: Option<Bound<'_, PyTuple>>) {
        let arguments = value.map(CallbackArguments::from_tuple).unwrap_or_default();
        drop(self.arguments.replace(py, arguments));
    }

    #[getter(_context)]
    fn context_py<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.context_slot().expose(py)
    }

    #[getter(_loop)]
    fn event_loop<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.event_loop.get_bound(py)
    }

    #[getter(_cancelled)]
    fn get_cancelled(&self, py: Python<'_>) -> bool {
        self.cancelled.get(py)
    }

    #[setter(_cancelled)]
    fn set_cancelled(&self, py: Python<'_>, value: bool) {
        self.cancelled.set(py, value);
    }

    #[getter(_source_traceback)]
    fn source_traceback_py<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.source_traceback(py)
    }

    #[getter(_repr)]
    fn kept_repr<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.debug
            .inspect(py, |debug| debug.as_ref()?.repr.as_ref().map(|repr| repr.bind(py).clone()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.callback.visit(&visit)?;
        self.arguments.visit_with(&visit)?;
        self.context.visit(&visit)?;
        self.event_loop.visit(&visit)
    }

    fn __clear__(&self) {
        attach_unshared(|py| {
            let callback = self.callback.take(py);
            let arguments = self.arguments.take(py);
            let context = self.context.take(py);
            let event_loop = self.event_loop.take(py);
            drop((callback, arguments, context, event_loop));
        });
    }
}
