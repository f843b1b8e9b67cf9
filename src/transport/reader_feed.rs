//! Feeds asyncio's StreamReader without running its Python code.
//!
//! `StreamReaderProtocol.data_received()`, `StreamReader.feed_data()` and the methods that they
//! call are a fifth of the cost of an echo with streams. Their work is done here if both objects
//! are of exactly these classes and no method involved is replaced, on the class or on the
//! instance. This is checked for every message; otherwise the protocol is called like any other.

#![forbid(unsafe_code)]

use pyo3::exceptions::PyNotImplementedError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyByteArray, PyInt, PyString, PyWeakrefMethods, PyWeakrefReference};

use crate::ffi::attribute::{class_has, has_method};
use crate::ffi::buffer::is_exported;
use crate::future::Future;
use crate::interop::imports;

/// asyncio's classes, and the original methods that are not called.
struct StreamReaderMethods {
    protocol: Py<PyAny>,
    data_received: Py<PyAny>,
    /// A property.
    stream_reader: Py<PyAny>,
    reader: Py<PyAny>,
    feed_data: Py<PyAny>,
    wakeup_waiter: Py<PyAny>,
}

impl StreamReaderMethods {
    /// `None` if the program had replaced one of them before it first used a stream.
    fn get(py: Python<'_>) -> Option<&Self> {
        static ORIGINAL: PyOnceLock<Option<StreamReaderMethods>> = PyOnceLock::new();
        ORIGINAL.get_or_init(py, || Self::find(py).unwrap_or(None)).as_ref()
    }

    #[cold]
    fn find(py: Python<'_>) -> PyResult<Option<Self>> {
        let protocol = imports::stream_reader_protocol(py)?;
        let reader = imports::stream_reader(py)?;
        let file = py.import("asyncio.streams")?.getattr("__file__")?;
        let stream_reader = protocol.getattr("_stream_reader")?;
        let data_received = protocol.getattr("data_received")?;
        let feed_data = reader.getattr("feed_data")?;
        let wakeup_waiter = reader.getattr("_wakeup_waiter")?;
        for (function, name) in [
            (&stream_reader.getattr("fget")?, "StreamReaderProtocol._stream_reader"),
            (&data_received, "StreamReaderProtocol.data_received"),
            (&feed_data, "StreamReader.feed_data"),
            (&wakeup_waiter, "StreamReader._wakeup_waiter"),
        ] {
            let code = function.getattr("__code__")?;
            if !code.getattr("co_filename")?.eq(&file)? || !code.getattr("co_qualname")?.eq(name)? {
                return Ok(None);
            }
        }
        Ok(Some(Self {
            protocol: protocol.clone().unbind(),
            data_received: data_received.unbind(),
            stream_reader: stream_reader.unbind(),
            reader: reader.clone().unbind(),
            feed_data: feed_data.unbind(),
            wakeup_waiter: wakeup_waiter.unbind(),
        }))
    }
}

/// A StreamReader that can be fed directly.
pub struct Feed<'py> {
    reader: Bound<'py, PyAny>,
    /// The caller appends data here and then calls [`Feed::notify_reader`]. It has no views.
    pub buffer: Bound<'py, PyByteArray>,
    limit: usize,
}

impl<'py> Feed<'py> {
    /// The reader of a protocol, if it can be fed without calling the protocol.
    #[inline]
    pub fn of(protocol: &Bound<'py, PyAny>) -> Option<Self> {
        let py = protocol.py();
        let original = StreamReaderMethods::get(py)?;
        if !protocol.get_type().is(&original.protocol) {
            return None;
        }
        Self::find(protocol, original)
    }

    fn find(protocol: &Bound<'py, PyAny>, original: &StreamReaderMethods) -> Option<Self> {
        let py = protocol.py();
        let is_original =
            |object: &Bound<'py, PyAny>, name: &Bound<'py, PyString>, function: &Py<PyAny>| {
                has_method(object, name, function.bind(py))
            };
        let name = intern!(py, "_stream_reader");
        if !is_original(protocol, intern!(py, "data_received"), &original.data_received)
            || !class_has(protocol, name, original.stream_reader.bind(py))
        {
            return None;
        }
        let reference = protocol.getattr(intern!(py, "_stream_reader_wr")).ok()?;
        let reader = reference.cast_exact::<PyWeakrefReference>().ok()?.upgrade()?;
        if !reader.get_type().is(&original.reader)
            || !is_original(&reader, intern!(py, "feed_data"), &original.feed_data)
            || !is_original(&reader, intern!(py, "_wakeup_waiter"), &original.wakeup_waiter)
            || !reader.getattr(intern!(py, "_eof")).ok()?.is(PyBool::new(py, false))
        {
            return None;
        }
        let limit = reader.getattr(intern!(py, "_limit")).ok()?;
        let limit = limit.cast_exact::<PyInt>().ok()?.extract().ok()?;
        let buffer = reader.getattr(intern!(py, "_buffer")).ok()?;
        let buffer = buffer.cast_into_exact::<PyByteArray>().ok()?;
        (!is_exported(&buffer)).then_some(Self { reader, buffer, limit })
    }

    /// Wakes the task that waits for data, and pauses the transport if the buffer is over its
    /// limit.
    ///
    /// # Errors
    /// Those of `feed_data()`: exceptions of a waiter or a transport that is not ours.
    #[inline]
    pub fn notify_reader(self) -> PyResult<()> {
        let py = self.reader.py();
        let name = intern!(py, "_waiter");
        let waiter = self.reader.getattr(name)?;
        if !waiter.is_none() {
            self.reader.setattr(name, py.None())?;
            wake(&waiter)?;
        }
        if self.buffer.len() > self.limit.saturating_mul(2) {
            return self.pause();
        }
        Ok(())
    }

    fn pause(&self) -> PyResult<()> {
        let py = self.reader.py();
        let transport = self.reader.getattr(intern!(py, "_transport"))?;
        if transport.is_none() || self.reader.getattr(intern!(py, "_paused"))?.is_truthy()? {
            return Ok(());
        }
        match transport.call_method0(intern!(py, "pause_reading")) {
            Ok(_) => self.reader.setattr(intern!(py, "_paused"), true),
            // Like feed_data(), which then buffers without limit.
            Err(error) if error.is_instance_of::<PyNotImplementedError>(py) => {
                self.reader.setattr(intern!(py, "_transport"), py.None())
            }
            Err(error) => Err(error),
        }
    }
}

/// Does `if not waiter.cancelled(): waiter.set_result(None)`.
fn wake(waiter: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = waiter.py();
    if let Ok(waiter) = waiter.cast_exact::<Future>() {
        let future = waiter.get();
        if future.is_cancelled(py) {
            return Ok(());
        }
        if !future.is_done(py) {
            future.event_loop(py)?;
            return Future::finish_with_result(waiter, py.None().into_bound(py));
        }
    }
    if !waiter.call_method0(intern!(py, "cancelled"))?.is_truthy()? {
        waiter.call_method1(intern!(py, "set_result"), (py.None(),))?;
    }
    Ok(())
}
