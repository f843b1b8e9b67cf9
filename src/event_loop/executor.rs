//! `run_in_executor` and the default executor.

use std::ffi::CStr;

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::parameters::{missing, unexpected};
use super::scheduling::check_callback;
use super::{EventLoop, hooks};
use crate::executor::{Call, ThreadPool};
use crate::ffi::method::{Arguments, FastMethod};
use crate::ffi::objects::cell::AttachedCell;
use crate::handle::CallbackArguments;
use crate::interop::imports;

/// The default executor of one loop.
#[derive(Default)]
pub struct DefaultExecutor {
    /// Ours, created at first use, or the one given to `set_default_executor()`.
    executor: AttachedCell<Option<Py<PyAny>>>,
    shutdown_called: AttachedCell<bool>,
}

impl DefaultExecutor {
    /// Visits the executor for the garbage collector.
    pub fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.executor.visit(visit)
    }

    /// Drops the executor for the garbage collector.
    pub fn clear(&self, py: Python<'_>) {
        drop(self.executor.take(py));
    }

    /// # Errors
    /// RuntimeError after `shutdown_default_executor()`.
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        if self.shutdown_called.get(py) {
            return Err(PyRuntimeError::new_err("Executor shutdown has been called"));
        }
        Ok(())
    }

    /// The executor in use; creates ours if there is none yet.
    ///
    /// # Errors
    /// RuntimeError after `shutdown_default_executor()`.
    fn get_or_make<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.check(py)?;
        if let Some(executor) = self.executor.get_bound(py) {
            return Ok(executor);
        }
        let executor = ThreadPool::class(py)?.call0()?;
        self.executor.store(py, Some(executor.clone()));
        Ok(executor)
    }
}

impl EventLoop {
    /// # Errors
    /// RuntimeError after `shutdown_default_executor()`.
    pub(super) fn check_executor(&self, py: Python<'_>) -> PyResult<()> {
        self.default_executor.check(py)
    }

    /// The metrics of the default executor, if it is ours and was made.
    pub(super) fn pool_metrics<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        let py = slf.py();
        match slf.get().default_executor.executor.get_bound(py) {
            Some(executor) => match as_native(&executor)? {
                Some(pool) => pool.get().metrics(py).map(Some),
                None => Ok(None),
            },
            None => Ok(None),
        }
    }

    /// The default executor, created if necessary; None if the program has set another one or has
    /// replaced `run_in_executor()`.
    pub(super) fn native_pool<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<Option<Bound<'py, ThreadPool>>> {
        let py = slf.py();
        let is_first_call = !slf.get().default_executor.executor.is_some(py);
        slf.get().default_executor.check(py)?;
        if hooks::replaced_run_in_executor(slf, is_first_call)?.is_some() {
            return Ok(None);
        }
        let executor = slf.get().default_executor.get_or_make(py)?;
        as_native(&executor)
    }
}

/// The native half of an executor whose class is exactly ours.
fn as_native<'py>(executor: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, ThreadPool>>> {
    let Ok(pool) = executor.cast::<ThreadPool>() else { return Ok(None) };
    let class = ThreadPool::class(executor.py())?;
    Ok(executor.get_type().is(class).then(|| pool.clone()))
}

/// `run_in_executor(executor, func, *args)`.
pub struct RunInExecutor;

impl FastMethod for RunInExecutor {
    type Class = EventLoop;
    const NAME: &'static CStr = c"run_in_executor";
    const DOC: &'static CStr = c"run_in_executor($self, executor, func, /, *args)\n--\n\n\
        Call func(*args) in the executor; return a Future for the result.\n\n\
        If executor is None, the loop's default executor is used.\n";

    fn call<'py>(
        slf: &Bound<'py, EventLoop>,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let (executor, function) = executor_and_function(arguments)?;
        let scheduler = slf.as_super();
        scheduler.get().check_open(py)?;
        if scheduler.get().is_debug(py) {
            check_callback(&function, "run_in_executor")?;
        }
        let is_default = executor.is_none();
        let is_first_call = is_default && !slf.get().default_executor.executor.is_some(py);
        if is_default {
            if let Some(other) = hooks::replaced_run_in_executor(slf, is_first_call)? {
                let none = py.None().into_bound(py);
                let given = arguments.tuple_from(arguments.len().min(2))?;
                let all: Vec<_> = [none, function].into_iter().chain(given.iter()).collect();
                return other.call1(PyTuple::new(py, all)?);
            }
        }
        let executor = match executor {
            Some(executor) => executor,
            None => slf.get().default_executor.get_or_make(py)?,
        };
        if let Some(pool) = as_native(&executor)? {
            let arguments = CallbackArguments::from_call(arguments, 2)?;
            let call = Call::Function(function.unbind(), arguments);
            return Ok(pool.get().run(scheduler, call)?.into_any());
        }
        let submitted = std::iter::once(function)
            .chain(arguments.tuple_from(arguments.len().min(2))?.iter())
            .collect::<Vec<_>>();
        let future = executor.call_method1(intern!(py, "submit"), PyTuple::new(py, submitted)?)?;
        let keywords = PyDict::new(py);
        keywords.set_item(intern!(py, "loop"), slf)?;
        imports::wrap_future(py)?.call((future,), Some(&keywords))
    }
}

/// The parameters `executor` and `func`, given by position or by keyword, as in asyncio.
fn executor_and_function<'py>(
    arguments: &Arguments<'_, 'py>,
) -> PyResult<(Option<Bound<'py, PyAny>>, Bound<'py, PyAny>)> {
    let mut executor = arguments.get(0).map(|executor| executor.to_owned());
    let mut function = arguments.get(1).map(|function| function.to_owned());
    arguments.for_each_keyword(|keyword, value| {
        let name = keyword.to_str()?;
        let parameter = match name {
            "executor" => &mut executor,
            "func" => &mut function,
            _ => return Err(unexpected(arguments, name)),
        };
        if parameter.replace(value.to_owned()).is_some() {
            return Err(PyTypeError::new_err(format!(
                "BaseEventLoop.run_in_executor() got multiple values for argument '{name}'"
            )));
        }
        Ok(())
    })?;
    match (executor, function) {
        (Some(executor), Some(function)) => {
            Ok((Some(executor).filter(|executor| !executor.is_none()), function))
        }
        (None, None) => Err(missing(arguments, &["executor", "func"])),
        (None, Some(_)) => Err(missing(arguments, &["executor"])),
        (Some(_), None) => Err(missing(arguments, &["func"])),
    }
}

#[pymethods]
impl EventLoop {
    #[getter(_default_executor)]
    fn current_default_executor<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.default_executor.executor.get_bound(py)
    }

    #[setter(_default_executor)]
    fn replace_default_executor(&self, py: Python<'_>, executor: Option<Bound<'_, PyAny>>) {
        self.default_executor.executor.store(py, executor);
    }

    #[getter(_executor_shutdown_called)]
    fn is_executor_shutdown_called(&self, py: Python<'_>) -> bool {
        self.default_executor.shutdown_called.get(py)
    }

    #[setter(_executor_shutdown_called)]
    fn set_executor_shutdown_called(&self, py: Python<'_>, called: bool) {
        self.default_executor.shutdown_called.set(py, called);
    }
}
