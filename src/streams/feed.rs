//! Feeds a StreamReader without running its Python code.
//!
//! `StreamReaderProtocol.data_received()`, `StreamReader.feed_data()` and the methods that they
//! call are a fifth of the cost of an echo with streams. Their work is done here if both objects
//! are of exactly asyncio's classes, or the reader is an adopted one, and no method involved is
//! replaced, on the class or on the instance. This is checked for every message; otherwise the
//! protocol is called like any other.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyWeakrefMethods, PyWeakrefReference};

use super::adoption::{adopt_reader, state_of};
use super::originals::Originals;
use super::state::StreamReaderState;
use crate::ffi::attribute::has_method;
use crate::ffi::exception::{OrRaise, PyOutcome};
use crate::ffi::section;

/// A StreamReader that can be fed directly.
pub struct Feed<'py> {
    state: Bound<'py, StreamReaderState>,
    // Keeps the reader alive.
    _reader: Bound<'py, PyAny>,
}

impl<'py> Feed<'py> {
    /// The reader of a protocol, if it can be fed without calling the protocol.
    #[inline]
    pub fn of(protocol: &Bound<'py, PyAny>) -> Option<Self> {
        let py = protocol.py();
        if cfg!(Py_GIL_DISABLED) {
            return None; // nothing is adopted
        }
        let originals = Originals::get(py)?;
        if !protocol.get_type().is(&originals.protocol.class) {
            return None;
        }
        Self::find(protocol, originals).ok().flatten()
    }

    fn find(protocol: &Bound<'py, PyAny>, originals: &Originals) -> PyResult<Option<Self>> {
        let py = protocol.py();
        let name = intern!(py, "data_received");
        let original = originals.protocol.method(py, "data_received");
        if !originals.protocol.is_original(py)
            || !originals.reader.is_original(py)
            || !original.is_some_and(|original| has_method(protocol, name, original))
        {
            return Ok(None);
        }
        let reference = protocol.getattr(intern!(py, "_stream_reader_wr"))?;
        let reader = reference.cast_exact::<PyWeakrefReference>().ok().and_then(|it| it.upgrade());
        let Some(reader) = reader else { return Ok(None) };
        let state = match state_of(&reader) {
            Some(state) => state,
            None => match adopt_reader(&reader, originals)? {
                Some(state) => state,
                None => return Ok(None),
            },
        };
        // The reader may be one of another loop than the caller's.
        let is_open = section::enter_of(&state, || {
            !state.get().is_patched.get(py) && !state.get().eof.get(py)
        });
        Ok(is_open.then_some(Self { state, _reader: reader }))
    }

    /// Whether the next message can be passed to [`Feed::add`] as it is. Otherwise the caller
    /// appends to [`Feed::buffer`].
    #[inline]
    pub fn accepts_message(&self) -> bool {
        section::enter_of(&self.state, || {
            self.state.get().contents.accepts_message(self.state.py())
        })
    }

    /// Adds a message, which must not be empty, and notifies the reader.
    ///
    /// # Errors
    /// As for [`Feed::notify_reader`].
    #[inline]
    pub fn add(self, message: Bound<'py, PyBytes>) -> PyOutcome<'py, ()> {
        section::enter_of(&self.state, || self.state.get().contents.set_message(message));
        self.notify_reader()
    }

    /// Where the caller appends data before it calls [`Feed::notify_reader`]. `None` if the protocol
    /// must be called, because the buffer has views or the program has replaced it.
    ///
    /// # Errors
    /// MemoryError.
    pub fn buffer(&self) -> PyOutcome<'py, Option<Bound<'py, PyByteArray>>> {
        section::enter_of(&self.state, || self.state.get().contents.array(self.state.py()))
    }

    /// Wakes the task that waits for data, and pauses the transport if the buffer is over its
    /// limit.
    ///
    /// # Errors
    /// Those of `feed_data()`: exceptions of a waiter or a transport that is not ours.
    #[inline]
    pub fn notify_reader(&self) -> PyOutcome<'py, ()> {
        let py = self.state.py();
        section::enter_of(&self.state, || self.state.get().data_was_added(py)).or_raise(py)
    }
}
