//! Runs everything that is queued through a replaced `asyncio.Handle._run`.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;

use super::foreign_handle::FOREIGN_HANDLE;
use crate::ffi::call;
use crate::ffi::entries::entered;
use crate::ffi::exception::{OrRaise, PyOutcome};
use crate::ffi::objects::cell::AttachedCell;
use crate::ffi::section::{Owned, attach_unshared};
use crate::future::is_done_callback;
use crate::handle::{CallbackArguments, Handle};
use crate::scheduler::{Runnable, Scheduler};
use crate::task::{StepCallback, step_as_callback};

/// Calls `run` with the handle that asyncio would have queued. Its exceptions propagate out of the
/// loop, as in asyncio.
pub fn run_in_handle<'py>(
    scheduler: &Bound<'py, Scheduler>,
    runnable: Runnable,
    run: &Bound<'py, PyAny>,
) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let handle = as_handle(scheduler, runnable).or_raise(py)?;
    call::call1(run, &handle).map(drop)
}

/// The handle that asyncio would have queued.
pub(super) fn as_handle<'py>(
    scheduler: &Bound<'py, Scheduler>,
    runnable: Runnable,
) -> PyResult<Bound<'py, PyAny>> {
    let py = scheduler.py();
    if let Ok(handle) = runnable.object.bind(py).cast::<Handle>() {
        Handle::track(handle);
        return Ok(handle.clone().into_any());
    }
    if std::ptr::eq(runnable.kind, &FOREIGN_HANDLE) {
        return Ok(runnable.object.into_bound(py));
    }
    if is_done_callback(runnable.kind) {
        return (runnable.kind.describe)(py, &runnable);
    }
    let event_loop = scheduler.clone().into_any();
    let handle = match step_as_callback(py, &runnable)? {
        Some(StepCallback { callback, arguments, context }) => {
            Handle::create(callback, arguments, event_loop, context, false)?
        }
        None => {
            let described = (runnable.kind.describe)(py, &runnable)?;
            let asyncio_method =
                described.getattr_opt(intern!(py, "_callback"))?.map(Bound::unbind);
            let call = QueuedCall {
                scheduler: AttachedCell::new(Some(scheduler.clone().unbind())),
                runnable: AttachedCell::new(Some(runnable)),
                asyncio_method: AttachedCell::new(asyncio_method),
            };
            let callback = Bound::new(py, call)?.into_any();
            Handle::create(callback, CallbackArguments::Empty, event_loop, None, false)?
        }
    };
    Ok(handle.into_any())
}

/// A Python callable for something queued that is not one. It has the attributes of the method that
/// asyncio would have queued.
#[pyclass(frozen, module = "ferroloop._ferroloop", name = "_QueuedCall")]
pub struct QueuedCall {
    scheduler: AttachedCell<Option<Py<Scheduler>>>,
    runnable: AttachedCell<Option<Runnable>>,
    asyncio_method: AttachedCell<Option<Py<PyAny>>>,
}

impl Owned for QueuedCall {
    fn owner<'a, 'py>(slf: &'a Bound<'py, Self>) -> Option<Borrowed<'a, 'py, PyAny>> {
        slf.get().scheduler.owner(slf.py())
    }
}

entered!(QueuedCall);

#[pymethods]
impl QueuedCall {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        let scheduler = self.scheduler.get_bound(py);
        let (Some(scheduler), Some(runnable)) = (scheduler, self.runnable.take(py)) else {
            return Ok(());
        };
        (runnable.kind.run)(&scheduler, runnable).map_err(PyErr::from)
    }

    /// `__self__`, `__name__`, `__qualname__` and so on are those of asyncio's method.
    fn __getattr__<'py>(
        &self,
        py: Python<'py>,
        name: &Bound<'py, pyo3::types::PyString>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.asyncio_method.get_bound(py).unwrap_or_else(|| py.None().into_bound(py)).getattr(name)
    }

    #[getter]
    fn __wrapped__<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.asyncio_method.get_bound(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.scheduler.visit(&visit)?;
        self.runnable.visit_with(&visit)?;
        self.asyncio_method.visit(&visit)
    }

    fn __clear__(&self) {
        attach_unshared(|py| {
            drop((self.scheduler.take(py), self.runnable.take(py), self.asyncio_method.take(py)));
        });
    }
}
