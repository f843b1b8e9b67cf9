//! Gives readers and writers the native methods.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};

use super::originals::Originals;
use super::state::StreamReaderState;
use crate::ffi::entries::without_section;
use crate::ffi::exception::{OrRaise, PyOutcome};
use crate::ffi::objects::process_state::Locked;
use crate::ffi::section::attach_unshared;
use crate::ffi::{attribute, call};
use crate::scheduler::{COMMON_LOOP_CLASS, Scheduler};

/// The subclasses of asyncio's classes.
struct NativeClasses {
    reader: Py<PyType>,
    writer: Py<PyType>,
}

static CLASSES: PyOnceLock<NativeClasses> = PyOnceLock::new();

/// Sets the classes of what is adopted from now on. A second call does nothing.
///
/// Without a GIL nothing is adopted: CPython pauses all threads while an object gets another class, so
/// each new connection would stop every loop of the process.
pub(super) fn set_classes(reader: &Bound<'_, PyType>, writer: &Bound<'_, PyType>) {
    if cfg!(Py_GIL_DISABLED) {
        return;
    }
    let classes =
        NativeClasses { reader: reader.clone().unbind(), writer: writer.clone().unbind() };
    // An error means that they are set.
    CLASSES.set(reader.py(), classes).unwrap_or_default();
}

/// The attributes that an `asyncio.StreamReader` has in its `__dict__` and that are properties of an
/// adopted one.
const MOVED: [&str; 8] =
    ["_buffer", "_limit", "_eof", "_paused", "_waiter", "_exception", "_transport", "_loop"];

/// The state of `reader`, if it is adopted.
#[inline]
pub(super) fn state_of<'py>(reader: &Bound<'py, PyAny>) -> Option<Bound<'py, StreamReaderState>> {
    let py = reader.py();
    if !reader.get_type().is(&CLASSES.get(py)?.reader) {
        return None;
    }
    state_attribute(reader)
}

/// The state of an instance of the native class or a subclass of it.
#[inline]
pub(super) fn state_attribute<'py>(
    reader: &Bound<'py, PyAny>,
) -> Option<Bound<'py, StreamReaderState>> {
    let state = attribute::in_dict(reader, intern!(reader.py(), "_ferroloop_state"))?;
    state.cast_into_exact().ok()
}

/// Adopts `reader` if it is of exactly asyncio's class, its attributes are those that asyncio sets,
/// and its loop is one of this crate and not in debug mode.
#[cold]
pub(super) fn adopt_reader<'py>(
    reader: &Bound<'py, PyAny>,
    originals: &Originals,
) -> PyResult<Option<Bound<'py, StreamReaderState>>> {
    let py = reader.py();
    let Some(classes) = CLASSES.get(py) else { return Ok(None) };
    if !reader.get_type().is(&originals.reader.class) || !originals.reader.is_original(py) {
        return Ok(None);
    }
    let attributes = reader.getattr(intern!(py, "__dict__"))?;
    let attributes = attributes.cast::<PyDict>()?;
    if hides_method(attributes, originals.reader.class.bind(py)) {
        return Ok(None);
    }
    let Some(state) = StreamReaderState::of_reader(reader)? else { return Ok(None) };
    let Some(event_loop) = state.event_loop.get_bound(py) else { return Ok(None) };
    if native_loop(&event_loop).is_none_or(|scheduler| scheduler.get().is_debug(py)) {
        return Ok(None);
    }
    let state = Bound::new(py, state)?;
    // From here on there must be no failure but that of a lack of memory.
    reader.setattr(intern!(py, "__class__"), &classes.reader)?;
    for name in MOVED {
        attributes.del_item(name)?;
    }
    attributes.set_item(intern!(py, "_ferroloop_state"), &state)?;
    Ok(Some(state))
}

/// Whether an attribute of an instance hides one of its class: it may replace a method.
fn hides_method(attributes: &Bound<'_, PyDict>, class: &Bound<'_, PyType>) -> bool {
    attributes.iter().any(|(name, _)| {
        name.cast::<PyString>().map_or(true, |name| attribute::lookup(class, name).is_some())
    })
}

/// The scheduler of a loop whose `create_future()` is ours.
#[inline]
pub(super) fn native_loop<'a, 'py>(
    event_loop: &'a Bound<'py, PyAny>,
) -> Option<&'a Bound<'py, Scheduler>> {
    COMMON_LOOP_CLASS.cast(event_loop)
}

/// Adopts the reader and the writer of a connection of a server, if they are of exactly asyncio's
/// classes.
fn adopt_both(reader: &Bound<'_, PyAny>, writer: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = writer.py();
    let Some(originals) = Originals::get(py) else { return Ok(()) };
    adopt_reader(reader, originals)?;
    let Some(classes) = CLASSES.get(py) else { return Ok(()) };
    if writer.get_type().is(&originals.writer.class) && originals.writer.is_original(py) {
        writer.setattr(intern!(py, "__class__"), &classes.writer)?;
    }
    Ok(())
}

/// Calls `protocol.connection_made(transport)`. The writer that the protocol of a server makes in it
/// becomes a native one before the program gets it.
///
/// # Errors
/// Those of the method.
pub fn connection_made<'py>(
    protocol: &Bound<'py, PyAny>,
    transport: &Bound<'py, PyAny>,
) -> PyOutcome<'py, Bound<'py, PyAny>> {
    let py = protocol.py();
    let name = intern!(py, "connection_made");
    let Some(substituted) = ClientConnected::substitute(protocol).or_raise(py)? else {
        return call::call_method(protocol, name, [transport]);
    };
    let made = call::call_method(protocol, name, [transport]);
    substituted.get().restore(py).or_raise(py)?;
    made
}

/// Stands for the callback of a server while its protocol makes the writer.
#[pyclass(frozen, module = "ferroloop._ferroloop")]
struct ClientConnected {
    protocol: Py<PyAny>,
    callback: Locked<Option<Py<PyAny>>>,
}

impl ClientConnected {
    fn attribute(py: Python<'_>) -> &Bound<'_, PyString> {
        intern!(py, "_client_connected_cb")
    }

    /// `None` if the protocol is not exactly asyncio's, has no callback or is in debug mode.
    #[inline]
    fn substitute<'py>(protocol: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, Self>>> {
        let py = protocol.py();
        if cfg!(Py_GIL_DISABLED) {
            return Ok(None);
        }
        let Some(originals) = Originals::get(py) else { return Ok(None) };
        if !protocol.get_type().is(&originals.protocol.class) || CLASSES.get(py).is_none() {
            return Ok(None);
        }
        Self::substitute_in_server(protocol)
    }

    fn substitute_in_server<'py>(
        protocol: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, Self>>> {
        let py = protocol.py();
        let callback = protocol.getattr(Self::attribute(py))?;
        let event_loop = protocol.getattr(intern!(py, "_loop"))?;
        let is_usual = native_loop(&event_loop).is_some_and(|it| !it.get().is_debug(py));
        if callback.is_none() || !is_usual {
            return Ok(None);
        }
        let callback = Locked::new(Some(callback.unbind()));
        let this = Bound::new(py, Self { protocol: protocol.clone().unbind(), callback })?;
        protocol.setattr(Self::attribute(py), &this)?;
        Ok(Some(this))
    }

    /// Puts the callback back; returns it the first time.
    fn restore<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(callback) = self.callback.replace(py, None) else { return Ok(None) };
        let callback = callback.into_bound(py);
        self.protocol.bind(py).setattr(Self::attribute(py), &callback)?;
        Ok(Some(callback))
    }
}

without_section!(ClientConnected);

#[pymethods]
impl ClientConnected {
    fn __call__<'py>(
        &self,
        reader: &Bound<'py, PyAny>,
        writer: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = reader.py();
        let callback = match self.restore(py)? {
            Some(callback) => callback,
            None => self.protocol.bind(py).getattr(Self::attribute(py))?,
        };
        adopt_both(reader, writer)?;
        let arguments = PyTuple::new(py, [reader, writer])?;
        Ok(call::call_tuple(&callback, &arguments)?)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.protocol)?;
        self.callback.traverse(|callback| visit.call(callback))
    }

    fn __clear__(&self) {
        attach_unshared(|py| drop(self.callback.replace(py, None)));
    }
}
