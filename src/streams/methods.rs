//! The native methods of readers and writers.

use std::ffi::CStr;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyString, PyType};

use super::adoption::{state_attribute, state_of};
use super::coroutine::{Operation, StreamCoroutine, call_original, original_method};
use super::originals::Originals;
use super::state::StreamReaderState;
use crate::ffi::method::Arguments;
use crate::ffi::python_class::{PythonClassMethod, install_on};
use crate::ffi::section;
use crate::ffi::{call, function_like};

/// Adds the methods to the classes.
pub(super) fn install(reader: &Bound<'_, PyType>, writer: &Bound<'_, PyType>) -> PyResult<()> {
    add::<Read>(reader)?;
    add::<ReadExactly>(reader)?;
    add::<ReadUntil>(reader)?;
    add::<ReadLine>(reader)?;
    add::<AtEof>(reader)?;
    add::<Write>(writer)?;
    add::<Drain>(writer)
}

/// Adds a method that looks like the function of the base class: mocks tell by its code that it is a
/// coroutine function.
fn add<M: PythonClassMethod>(class: &Bound<'_, PyType>) -> PyResult<()> {
    let py = class.py();
    install_on::<M>(class)?;
    let name = PyString::from_bytes(py, M::NAME.to_bytes())?;
    let base = class.getattr(intern!(py, "__base__"))?.cast_into::<PyType>()?;
    function_like::install_in(class, &name, &base, None)
}

/// The state of a reader, if asyncio's code of the class is bypassed.
#[inline]
fn usual_state<'py>(reader: &Bound<'py, PyAny>) -> Option<Bound<'py, StreamReaderState>> {
    let py = reader.py();
    if !Originals::get(py)?.reader.is_original(py) {
        return None;
    }
    state_attribute(reader)
}

fn coroutine<'py>(
    stream: &Bound<'py, PyAny>,
    state: Bound<'py, StreamReaderState>,
    operation: Operation,
) -> PyResult<Bound<'py, PyAny>> {
    let coroutine = StreamCoroutine::new(stream, Some(state), operation);
    Ok(Bound::new(stream.py(), coroutine)?.into_any())
}

/// The positive number that is the only argument.
#[inline]
fn only_size(arguments: &Arguments<'_, '_>) -> Option<usize> {
    if arguments.len() != 1 || arguments.has_keywords() {
        return None;
    }
    let size = arguments.get(0)?;
    let size = size.cast_exact::<PyInt>().ok()?;
    size.extract::<usize>().ok().filter(|size| *size != 0)
}

/// Calls asyncio's method, which raises the errors about arguments.
#[cold]
fn forward<'py>(
    stream: &Bound<'py, PyAny>,
    arguments: &Arguments<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let keywords = arguments.keywords()?;
    let positional = arguments.tuple_from(0)?;
    original_method(stream, arguments.method())?.call(positional, Some(&keywords))
}

struct Read;

impl PythonClassMethod for Read {
    const NAME: &'static CStr = c"read";
    const DOC: &'static CStr = c"read($self, n=-1)\n--\n\nRead up to `n` bytes from the stream.";

    fn call<'py>(
        slf: &Bound<'py, PyAny>,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match (only_size(arguments), usual_state(slf)) {
            (Some(size), Some(state)) => coroutine(slf, state, Operation::Read(size)),
            _ => forward(slf, arguments),
        }
    }
}

struct ReadExactly;

impl PythonClassMethod for ReadExactly {
    const NAME: &'static CStr = c"readexactly";
    const DOC: &'static CStr = c"readexactly($self, n)\n--\n\nRead exactly `n` bytes.";

    fn call<'py>(
        slf: &Bound<'py, PyAny>,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match (only_size(arguments), usual_state(slf)) {
            (Some(size), Some(state)) => coroutine(slf, state, Operation::ReadExactly(size)),
            _ => forward(slf, arguments),
        }
    }
}

struct ReadUntil;

impl PythonClassMethod for ReadUntil {
    const NAME: &'static CStr = c"readuntil";
    const DOC: &'static CStr = c"readuntil($self, separator=b'\\n')\n--\n\nRead data from the \
        stream until `separator` is found.";

    fn call<'py>(
        slf: &Bound<'py, PyAny>,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let separator =
            if arguments.len() == 1 && !arguments.has_keywords() { arguments.get(0) } else { None };
        let separator =
            separator.and_then(|it| it.cast_exact::<PyBytes>().ok().map(|it| it.to_owned()));
        let separator = separator.filter(|separator| !separator.as_bytes().is_empty());
        match (separator, usual_state(slf)) {
            (Some(separator), Some(state)) => {
                coroutine(slf, state, Operation::ReadUntil(separator.unbind()))
            }
            _ => forward(slf, arguments),
        }
    }
}

struct ReadLine;

impl PythonClassMethod for ReadLine {
    const NAME: &'static CStr = c"readline";
    const DOC: &'static CStr =
        c"readline($self)\n--\n\nRead chunk of data from the stream until newline (b'\\n') is found.";

    fn call<'py>(
        slf: &Bound<'py, PyAny>,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        match usual_state(slf) {
            Some(state) if arguments.is_empty() && !arguments.has_keywords() => {
                let newline = newline(py);
                coroutine(slf, state, Operation::ReadLine(newline.clone().unbind()))
            }
            _ => forward(slf, arguments),
        }
    }
}

fn newline(py: Python<'_>) -> &Bound<'_, PyBytes> {
    static NEWLINE: pyo3::sync::PyOnceLock<Py<PyBytes>> = pyo3::sync::PyOnceLock::new();
    NEWLINE.get_or_init(py, || PyBytes::new(py, b"\n").unbind()).bind(py)
}

struct AtEof;

impl PythonClassMethod for AtEof {
    const NAME: &'static CStr = c"at_eof";
    const DOC: &'static CStr =
        c"at_eof($self)\n--\n\nReturn True if the buffer is empty and 'feed_eof' was called.";

    fn call<'py>(
        slf: &Bound<'py, PyAny>,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let state = usual_state(slf).filter(|_| arguments.is_empty() && !arguments.has_keywords());
        let at_eof = state.and_then(|state| {
            section::enter_of(&state, || {
                let length = state.get().contents.len(py)?;
                Some(state.get().eof.get(py) && length == 0)
            })
        });
        match at_eof {
            Some(at_eof) => Ok(pyo3::types::PyBool::new(py, at_eof).to_owned().into_any()),
            None => forward(slf, arguments),
        }
    }
}

struct Write;

impl PythonClassMethod for Write {
    const NAME: &'static CStr = c"write";
    const DOC: &'static CStr = c"write($self, data)\n--\n\nWrite data to the stream.";

    fn call<'py>(
        slf: &Bound<'py, PyAny>,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let is_original = Originals::get(py).is_some_and(|it| it.writer.is_original(py));
        match arguments.get(0) {
            Some(data) if is_original && arguments.len() == 1 && !arguments.has_keywords() => {
                let transport = slf.getattr(intern!(py, "_transport"))?;
                call::call_method(&transport, intern!(py, "write"), [&*data])?;
                Ok(py.None().into_bound(py))
            }
            _ => forward(slf, arguments),
        }
    }
}

struct Drain;

impl PythonClassMethod for Drain {
    const NAME: &'static CStr = c"drain";
    const DOC: &'static CStr = c"drain($self)\n--\n\nFlush the write buffer.";

    fn call<'py>(
        slf: &Bound<'py, PyAny>,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let is_original = Originals::get(py)
            .is_some_and(|it| it.writer.is_original(py) && it.reader.is_original(py));
        if !is_original || !arguments.is_empty() || arguments.has_keywords() {
            return forward(slf, arguments);
        }
        match state_of(&slf.getattr(intern!(py, "_reader"))?) {
            Some(state) => coroutine(slf, state, Operation::Drain),
            None => call_original(slf, "drain", ()),
        }
    }
}
