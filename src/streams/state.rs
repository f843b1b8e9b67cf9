//! The state of an adopted reader.

use pyo3::exceptions::{PyNotImplementedError, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyByteArray, PyInt};

use super::contents::Contents;
use crate::ffi::call;
use crate::ffi::entries::entered;
use crate::ffi::exception::PyOutcome;
use crate::ffi::objects::cell::AttachedCell;
use crate::ffi::section::{self, Home, Owned, attach_unshared};
use crate::future::Future;

/// The attributes that an `asyncio.StreamReader` keeps in its `__dict__`, of an adopted one.
///
/// Python code reads and writes them as properties of the reader.
#[pyclass(frozen, module = "ferroloop._ferroloop")]
pub struct StreamReaderState {
    home: Home,
    pub(super) contents: Contents,
    pub(super) limit: AttachedCell<usize>,
    pub(super) eof: AttachedCell<bool>,
    pub(super) paused: AttachedCell<bool>,
    /// The future of the task that waits for data.
    pub(super) waiter: AttachedCell<Option<Py<PyAny>>>,
    pub(super) exception: AttachedCell<Option<Py<PyAny>>>,
    pub(super) transport: AttachedCell<Option<Py<PyAny>>>,
    pub(super) event_loop: AttachedCell<Option<Py<PyAny>>>,
    /// Whether the program has replaced a method of the reader.
    pub(super) is_patched: AttachedCell<bool>,
}

impl StreamReaderState {
    /// Copies the attributes of `reader`; `None` if one of them is not of the usual kind.
    pub fn of_reader(reader: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        let py = reader.py();
        let Ok(buffer) = reader.getattr(intern!(py, "_buffer"))?.cast_into_exact::<PyByteArray>()
        else {
            return Ok(None);
        };
        let Ok(limit) = reader.getattr(intern!(py, "_limit"))?.cast_into_exact::<PyInt>() else {
            return Ok(None);
        };
        let Ok(limit) = limit.extract() else { return Ok(None) };
        let flag =
            |value: Bound<'_, PyAny>| value.cast_exact::<PyBool>().ok().map(|it| it.is_true());
        let eof = flag(reader.getattr(intern!(py, "_eof"))?);
        let paused = flag(reader.getattr(intern!(py, "_paused"))?);
        let (Some(eof), Some(paused)) = (eof, paused) else { return Ok(None) };
        let object = |name| reader.getattr(name).map(|it| AttachedCell::new(some(it)));
        Ok(Some(Self {
            home: Home::of(&reader.getattr(intern!(py, "_loop"))?),
            contents: Contents::new(buffer),
            limit: AttachedCell::new(limit),
            eof: AttachedCell::new(eof),
            paused: AttachedCell::new(paused),
            waiter: object(intern!(py, "_waiter"))?,
            exception: object(intern!(py, "_exception"))?,
            transport: object(intern!(py, "_transport"))?,
            event_loop: object(intern!(py, "_loop"))?,
            is_patched: AttachedCell::new(false),
        }))
    }

    /// Does what `_wakeup_waiter()` does, and pauses the transport if there is more than twice the
    /// limit.
    ///
    /// # Errors
    /// Those of `feed_data()`: exceptions of a waiter or a transport that is not ours.
    #[inline]
    pub fn data_was_added(&self, py: Python<'_>) -> PyResult<()> {
        if let Some(waiter) = self.waiter.take(py) {
            wake(waiter.bind(py))?;
        }
        let length = self.contents.len(py).unwrap_or(0);
        if length > self.limit.get(py).saturating_mul(2) { self.pause(py) } else { Ok(()) }
    }

    #[cold]
    fn pause(&self, py: Python<'_>) -> PyResult<()> {
        let Some(transport) = self.transport.get_bound(py) else { return Ok(()) };
        if self.paused.get(py) {
            return Ok(());
        }
        let paused = call::call_method(&transport, intern!(py, "pause_reading"), []);
        match paused.map_err(PyErr::from) {
            Ok(_) => {
                self.paused.set(py, true);
                Ok(())
            }
            // Like feed_data(), which then buffers without limit.
            Err(error) if error.is_instance_of::<PyNotImplementedError>(py) => {
                self.transport.store(py, None);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Whether `read()` and the like may run natively.
    #[inline]
    pub fn is_usual(&self, py: Python<'_>) -> bool {
        !self.is_patched.get(py) && !self.exception.is_some(py)
    }
}

/// Does `if not waiter.cancelled(): waiter.set_result(None)`.
pub(super) fn wake(waiter: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = waiter.py();
    if let Ok(waiter) = waiter.cast_exact::<Future>() {
        if section::enter_of(waiter, || wake_future(waiter))? {
            return Ok(());
        }
    }
    if !waiter.call_method0(intern!(py, "cancelled"))?.is_truthy()? {
        waiter.call_method1(intern!(py, "set_result"), (py.None(),))?;
    }
    Ok(())
}

/// Returns false if the future is done in another way than by a cancellation.
fn wake_future(waiter: &Bound<'_, Future>) -> PyResult<bool> {
    let (py, future) = (waiter.py(), waiter.get());
    if future.is_cancelled(py) {
        return Ok(true);
    }
    if future.is_done(py) {
        return Ok(false);
    }
    future.event_loop(py)?;
    Future::finish_with_result(waiter, py.None().into_bound(py)).map(|()| true)
}

fn some(object: Bound<'_, PyAny>) -> Option<Py<PyAny>> {
    Some(object).filter(|object| !object.is_none()).map(Bound::unbind)
}

fn or_none<'py>(py: Python<'py>, cell: &AttachedCell<Option<Py<PyAny>>>) -> Bound<'py, PyAny> {
    cell.get_bound(py).unwrap_or_else(|| py.None().into_bound(py))
}

impl Owned for StreamReaderState {
    fn owner<'a, 'py>(slf: &'a Bound<'py, Self>) -> Option<Borrowed<'a, 'py, PyAny>> {
        slf.get().home.get(slf.py())
    }
}

entered!(StreamReaderState);

/// The values of the properties.
#[pymethods]
impl StreamReaderState {
    /// The state of a reader that Python code makes by itself, before its `__init__`.
    #[new]
    fn new(py: Python<'_>) -> Self {
        Self {
            home: Home::default(),
            contents: Contents::new(PyByteArray::new(py, b"")),
            limit: AttachedCell::new(usize::MAX),
            eof: AttachedCell::new(false),
            paused: AttachedCell::new(false),
            waiter: AttachedCell::new(None),
            exception: AttachedCell::new(None),
            transport: AttachedCell::new(None),
            event_loop: AttachedCell::new(None),
            is_patched: AttachedCell::new(false),
        }
    }

    /// The program has set an attribute of this name, which may be a method's.
    fn note_attribute(&self, py: Python<'_>) {
        self.is_patched.set(py, true);
    }

    #[getter(_buffer)]
    fn buffer<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let shared: PyOutcome<'py, _> = self.contents.share(py);
        Ok(shared?)
    }

    #[setter(_buffer)]
    fn set_buffer(&self, buffer: Bound<'_, PyAny>) {
        self.contents.set_buffer(buffer.py(), buffer);
    }

    #[getter(_limit)]
    fn limit(&self, py: Python<'_>) -> usize {
        self.limit.get(py)
    }

    #[setter(_limit)]
    fn set_limit(&self, limit: &Bound<'_, PyAny>) -> PyResult<()> {
        let number = limit.extract().map_err(|_| {
            PyTypeError::new_err("the limit of a stream must be a positive number of bytes")
        })?;
        self.limit.set(limit.py(), number);
        Ok(())
    }

    #[getter(_eof)]
    fn eof(&self, py: Python<'_>) -> bool {
        self.eof.get(py)
    }

    #[setter(_eof)]
    fn set_eof(&self, py: Python<'_>, eof: bool) {
        self.eof.set(py, eof);
    }

    #[getter(_paused)]
    fn paused(&self, py: Python<'_>) -> bool {
        self.paused.get(py)
    }

    #[setter(_paused)]
    fn set_paused(&self, py: Python<'_>, paused: bool) {
        self.paused.set(py, paused);
    }

    #[getter(_waiter)]
    fn waiter<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        or_none(py, &self.waiter)
    }

    #[setter(_waiter)]
    fn set_waiter(&self, py: Python<'_>, waiter: Option<Bound<'_, PyAny>>) {
        self.waiter.store(py, waiter);
    }

    #[getter(_exception)]
    fn exception<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        or_none(py, &self.exception)
    }

    #[setter(_exception)]
    fn set_exception(&self, py: Python<'_>, exception: Option<Bound<'_, PyAny>>) {
        self.exception.store(py, exception);
    }

    #[getter(_transport)]
    fn transport<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        or_none(py, &self.transport)
    }

    #[setter(_transport)]
    fn set_transport(&self, py: Python<'_>, transport: Option<Bound<'_, PyAny>>) {
        self.transport.store(py, transport);
    }

    #[getter(_loop)]
    fn event_loop<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        or_none(py, &self.event_loop)
    }

    #[setter(_loop)]
    fn set_event_loop(&self, py: Python<'_>, event_loop: Option<Bound<'_, PyAny>>) {
        if let Some(event_loop) = &event_loop {
            self.home.set(event_loop);
        }
        self.event_loop.store(py, event_loop);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.home.visit(&visit)?;
        self.contents.traverse(&visit)?;
        self.waiter.visit(&visit)?;
        self.exception.visit(&visit)?;
        self.transport.visit(&visit)?;
        self.event_loop.visit(&visit)
    }

    fn __clear__(&self) {
        attach_unshared(|py| {
            self.contents.clear(py);
            let (waiter, exception) = (self.waiter.take(py), self.exception.take(py));
            let (transport, event_loop) = (self.transport.take(py), self.event_loop.take(py));
            drop((waiter, exception, transport, event_loop));
        });
    }
}
