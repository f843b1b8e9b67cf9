//! `call_soon()`, `call_later()`, `call_at()`, `call_soon_threadsafe()` and `time()`.

use std::ffi::CStr;

use pyo3::Borrowed;
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt};

use super::EventLoop;
use super::foreign_handle::{self, FOREIGN_HANDLE};
use super::parameters::{required, unexpected};
use crate::ffi::call;
use crate::ffi::keyword::CONTEXT;
use crate::ffi::method::{Arguments, FastMethod};
use crate::ffi::objects::object::HasBase;
use crate::ffi::section;
use crate::handle::{CallbackArguments, HANDLE, Handle, TimerHandle, When};
use crate::interop::imports;
use crate::reactor::clock;
use crate::scheduler::contexts::ChosenContext;
use crate::scheduler::{Runnable, Scheduler, turn};

/// `call_soon(callback, *args, context=None)`.
pub struct CallSoon;

impl FastMethod for CallSoon {
    type Class = EventLoop;
    const COUNTED: bool = false;
    const NAME: &'static CStr = c"call_soon";
    const DOC: &'static CStr = c"call_soon($self, callback, /, *args, context=None)\n--\n\n\
        Arrange for callback(*args) to be called at the next turn of the loop.\n\n\
        Callbacks are called in the order in which they were scheduled, each once.\n\
        Return a Handle.\n";

    #[inline]
    fn call<'py>(
        slf: &Bound<'py, EventLoop>,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let callback = required(arguments, 0, "callback")?;
        slf.base().check_usable(slf.py())?;
        Ok(schedule(slf.as_super(), callback, arguments)?.into_any())
    }
}

/// `call_soon_threadsafe(callback, *args, context=None)`.
pub struct CallSoonThreadsafe;

impl FastMethod for CallSoonThreadsafe {
    type Class = EventLoop;
    const COUNTED: bool = false;
    const IN_SECTION: bool = cfg!(not(Py_GIL_DISABLED));
    const NAME: &'static CStr = c"call_soon_threadsafe";
    const DOC: &'static CStr =
        c"call_soon_threadsafe($self, callback, /, *args, context=None)\n--\n\n\
        Like call_soon(), but may be called from any thread and wakes a sleeping loop.\n";

    #[inline]
    fn call<'py>(
        slf: &Bound<'py, EventLoop>,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let callback = required(arguments, 0, "callback")?;
        slf.base().check_open(slf.py())?;
        #[cfg(Py_GIL_DISABLED)]
        if !slf.base().runs_here() {
            return schedule_in_other_thread(slf.as_super(), callback, arguments);
        }
        let handle = section::enter(slf, || {
            let handle = schedule(slf.as_super(), callback, arguments)?;
            #[cfg(Py_3_14)]
            handle.get().mark_threadsafe(slf.py());
            Ok::<_, PyErr>(handle)
        })?;
        slf.base().metrics().threadsafe_calls.add_by_any_thread(1);
        slf.base().wake();
        Ok(handle.into_any())
    }
}

/// `call_later(delay, callback, *args, context=None)`.
pub struct CallLater;

impl FastMethod for CallLater {
    type Class = EventLoop;
    const COUNTED: bool = false;
    const NAME: &'static CStr = c"call_later";
    const DOC: &'static CStr =
        c"call_later($self, delay, callback, /, *args, context=None)\n--\n\n\
        Arrange for callback(*args) to be called after delay seconds, an int or float.\n\n\
        Return a TimerHandle. Callbacks with equal deadlines are called in the order in\n\
        which they were scheduled.\n";

    #[inline]
    fn call<'py>(
        slf: &Bound<'py, EventLoop>,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let delay = required(arguments, 0, "delay")?;
        let callback = required(arguments, 1, "callback")?;
        if delay.is_none() {
            return Err(PyTypeError::new_err("delay must not be None"));
        }
        let (deadline, when) = match seconds(&delay) {
            Some(delay) if !slf.base().has_foreign_clock(py) => {
                let now = clock::monotonic();
                slf.base().note_time(py, now);
                (now + delay, When::Seconds(now + delay))
            }
            _ => {
                // asyncio accepts any number that can be added to a float.
                let now = slf.call_method0(intern!(py, "time"))?;
                let when = now.add(&*delay)?;
                (when.extract()?, When::Given(when.unbind()))
            }
        };
        schedule_at(slf.as_super(), deadline, when, callback, arguments)
    }
}

/// A delay as a float; `None` if it is not a number. The common types come first: the general way
/// makes a float object of an int.
#[inline]
fn seconds(delay: &Bound<'_, PyAny>) -> Option<f64> {
    if let Ok(delay) = delay.cast_exact::<PyFloat>() {
        return Some(delay.value());
    }
    if let Ok(delay) = delay.cast_exact::<PyInt>() {
        if let Ok(delay) = delay.extract::<i64>() {
            return Some(delay as f64);
        }
    }
    delay.extract().ok()
}

/// `call_at(when, callback, *args, context=None)`.
pub struct CallAt;

impl FastMethod for CallAt {
    type Class = EventLoop;
    const COUNTED: bool = false;
    const NAME: &'static CStr = c"call_at";
    const DOC: &'static CStr = c"call_at($self, when, callback, /, *args, context=None)\n--\n\n\
        Like call_later(), but for an absolute time on the clock of time().\n";

    #[inline]
    fn call<'py>(
        slf: &Bound<'py, EventLoop>,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let when = required(arguments, 0, "when")?;
        let callback = required(arguments, 1, "callback")?;
        if when.is_none() {
            return Err(PyTypeError::new_err("when cannot be None"));
        }
        let deadline = when.extract()?;
        let when = When::Given(when.to_owned().unbind());
        schedule_at(slf.as_super(), deadline, when, callback, arguments)
    }
}

/// Queues the callback given to `call_soon()`.
#[inline(always)]
fn schedule<'py>(
    scheduler: &Bound<'py, Scheduler>,
    callback: Borrowed<'_, 'py, PyAny>,
    arguments: &Arguments<'_, 'py>,
) -> PyResult<Bound<'py, Handle>> {
    let py = scheduler.py();
    let this = scheduler.get();
    let debug = this.is_debug(py);
    let _held = debug.then(|| arguments.hold());
    if debug {
        check_callback(&callback, arguments.method())?;
    }
    let handle = Handle::untracked(
        callback.to_owned(),
        CallbackArguments::from_call(arguments, 1)?,
        scheduler.clone().into_any(),
        context_of(this, arguments)?,
        debug,
    )?;
    if !this.is_running(py) {
        Handle::track(&handle);
    }
    this.push(py, Runnable::new(&HANDLE, handle.clone()));
    Ok(handle)
}

/// As [`schedule`], in a thread that does not run the loop. Touches no state of the loop that
/// another thread may be using, so it never waits for a busy loop.
#[cfg(Py_GIL_DISABLED)]
fn schedule_in_other_thread<'py>(
    scheduler: &Bound<'py, Scheduler>,
    callback: Borrowed<'_, 'py, PyAny>,
    arguments: &Arguments<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = scheduler.py();
    let this = scheduler.get();
    let debug = this.is_debug(py);
    let _held = debug.then(|| arguments.hold());
    if debug {
        check_callback(&callback, arguments.method())?;
    }
    let context = find_context(arguments)?.filter(|context| !context.is_none());
    let context = ChosenContext::given_or_copied(py, context)?;
    let arguments = CallbackArguments::from_call(arguments, 1)?;
    let event_loop = scheduler.clone().into_any();
    let handle = section::unshared(|| {
        let handle = Handle::untracked(callback.to_owned(), arguments, event_loop, context, debug)?;
        handle.get().mark_threadsafe(py);
        Ok::<_, PyErr>(handle)
    })?;
    Handle::track(&handle);
    this.metrics().threadsafe_calls.add_by_any_thread(1);
    match Scheduler::push_in_any_thread(scheduler, Runnable::new(&HANDLE, handle.clone())) {
        Ok(wake_signal) => wake_signal.notify(),
        Err(refused) => {
            // As a `Bound`: see `FastMethod::COUNTED`.
            drop(refused.object.into_bound(py));
            this.check_open(py)?;
        }
    }
    Ok(handle.into_any())
}

/// Arms a timer for the callback given to `call_at()` or `call_later()`.
#[inline(always)]
fn schedule_at<'py>(
    scheduler: &Bound<'py, Scheduler>,
    deadline: f64,
    when: When,
    callback: Borrowed<'_, 'py, PyAny>,
    arguments: &Arguments<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = scheduler.py();
    let this = scheduler.get();
    this.check_usable(py)?;
    let debug = this.is_debug(py);
    if debug {
        check_callback(&callback, "call_at")?;
    }
    let timer = TimerHandle::untracked(
        when,
        callback.to_owned(),
        CallbackArguments::from_call(arguments, 2)?,
        scheduler.clone().into_any(),
        context_of(this, arguments)?,
        debug,
    )?;
    if !this.is_running(py) {
        Handle::track(timer.as_super());
    }
    TimerHandle::arm(&timer, scheduler, deadline);
    Ok(timer.into_any())
}

/// The keyword-only argument `context`; by default one that represents a copy of the current one.
#[inline(always)]
fn context_of<'py>(
    scheduler: &Scheduler,
    arguments: &Arguments<'_, 'py>,
) -> PyResult<ChosenContext<'py>> {
    let context = match arguments.only_keyword(&CONTEXT) {
        Some(context) => Some(context.to_owned()),
        None if arguments.has_keywords() => find_context(arguments)?,
        None => None,
    };
    match context.filter(|context| !context.is_none()) {
        Some(context) => Ok(ChosenContext::given(context)),
        None => scheduler.contexts().current(arguments.py()),
    }
}

#[cold]
fn find_context<'py>(arguments: &Arguments<'_, 'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let mut context = None;
    arguments.for_each_keyword(|keyword, value| {
        match keyword.to_str()? {
            "context" => context = Some(value.to_owned()),
            // `required` has read these.
            "callback" | "delay" | "when" => {}
            other => return Err(unexpected(arguments, other)),
        }
        Ok(())
    })?;
    Ok(context)
}

/// Checks a callback, in debug mode.
#[cold]
pub(super) fn check_callback(callback: &Bound<'_, PyAny>, method: &str) -> PyResult<()> {
    let py = callback.py();
    if call::call1(imports::iscoroutine(py)?, callback)?.is_truthy()?
        || call::call1(imports::iscoroutinefunction(py)?, callback)?.is_truthy()?
    {
        return Err(PyTypeError::new_err(format!("coroutines cannot be used with {method}()")));
    }
    if !callback.is_callable() {
        let text =
            format!("a callable object was expected by {method}(), got {}", callback.repr()?);
        return Err(PyTypeError::new_err(text));
    }
    Ok(())
}

#[pymethods]
impl EventLoop {
    /// Return the time in seconds on the loop's monotonic clock.
    fn time(&self) -> f64 {
        clock::monotonic()
    }

    fn _check_callback(&self, callback: &Bound<'_, PyAny>, method: &str) -> PyResult<()> {
        check_callback(callback, method)
    }

    /// Queue a Handle, unless it is cancelled.
    fn _add_callback(slf: &Bound<'_, Self>, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        match handle.cast::<Handle>() {
            Ok(handle) if handle.get().is_cancelled(py) => {}
            Ok(handle) => slf.base().push(py, Runnable::new(&HANDLE, handle.clone())),
            // A handle of asyncio's own class.
            Err(_) if handle.getattr(intern!(py, "_cancelled"))?.is_truthy()? => {}
            Err(_) => slf.base().push(py, Runnable::new(&FOREIGN_HANDLE, handle.clone())),
        }
        Ok(())
    }

    /// Queue a Handle from a signal handler, and wake the loop.
    fn _add_callback_signalsafe(slf: &Bound<'_, Self>, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::_add_callback(slf, handle)?;
        slf.base().wake();
        Ok(())
    }

    /// Count a cancelled timer.
    fn _timer_handle_cancelled(slf: &Bound<'_, Self>, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        let is_known =
            handle.is_instance_of::<TimerHandle>() || foreign_handle::is_asyncio_timer(handle);
        if is_known && handle.getattr(intern!(slf.py(), "_scheduled"))?.is_truthy()? {
            slf.base().note_cancelled_timer(slf.py());
        }
        Ok(())
    }

    /// The time on the clock of the timers: that of `loop.time()`, even if it is replaced.
    fn _now(slf: &Bound<'_, Self>) -> PyResult<f64> {
        turn::now(slf.as_super())
    }
}
