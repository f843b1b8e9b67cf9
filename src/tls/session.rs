//! The SSL object of one connection and its two memory BIOs.
//!
//! The context that the user made decides everything; we move bytes. Where the object is exactly
//! the standard library's, reading and writing skip its Python wrapper.

#![forbid(unsafe_code)]

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict};

use super::modules;
use super::records::Records;
use crate::ffi::call;
use crate::ffi::cell::AttachedRefCell;
use crate::ffi::exception::PyOutcome;
use crate::ffi::window::Taken;
use crate::scheduler::report::outcome;

/// Plaintext of one record.
pub const RECORD: usize = 16 * 1024;

/// An SSL object between two memory BIOs.
pub struct Session {
    /// What `wrap_bio()` gave.
    object: Py<PyAny>,
    /// What reads and writes: the C object inside, or the object itself.
    data: Py<PyAny>,
    incoming: Py<PyAny>,
    outgoing: Py<PyAny>,
    records: AttachedRefCell<Records>,
}

/// What became of a read.
pub enum Read {
    /// So many bytes.
    Data(usize),
    /// Nothing until more ciphertext comes.
    Drained,
    /// The peer has closed its side in an orderly way.
    Closed,
}

impl Session {
    /// Makes the SSL object by `context.wrap_bio()`.
    ///
    /// # Errors
    /// Those of the context.
    pub fn new<'py>(
        context: &Bound<'py, PyAny>,
        server_side: bool,
        server_hostname: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Self> {
        let py = context.py();
        let incoming = modules::memory_bio(py)?.call0()?;
        let outgoing = modules::memory_bio(py)?.call0()?;
        let keywords = PyDict::new(py);
        keywords.set_item(intern!(py, "server_side"), server_side)?;
        keywords.set_item(intern!(py, "server_hostname"), server_hostname)?;
        let object = context.call_method(
            intern!(py, "wrap_bio"),
            (&incoming, &outgoing),
            Some(&keywords),
        )?;
        let data = match inner(&object)? {
            Some(inner) => inner,
            None => object.clone(),
        };
        Ok(Self {
            object: object.unbind(),
            data: data.unbind(),
            incoming: incoming.unbind(),
            outgoing: outgoing.unbind(),
            records: AttachedRefCell::default(),
        })
    }

    /// The SSL object.
    pub fn object<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.object.bind(py).clone()
    }

    /// The BIO that is fed with ciphertext.
    pub fn incoming<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.incoming.bind(py).clone()
    }

    /// The BIO that ciphertext comes out of.
    pub fn outgoing<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.outgoing.bind(py).clone()
    }

    /// Feeds ciphertext from a window.
    pub fn feed_window<'py>(
        &self,
        py: Python<'py>,
        window: &Taken<'py>,
        part: std::ops::Range<usize>,
    ) -> PyOutcome<'py, ()> {
        window.with(part.clone(), |bytes| {
            self.records.with(py, |records| records.feed(bytes));
        })?;
        let incoming = self.incoming.bind(py);
        call::call_method(incoming, intern!(py, "write"), [window.expose(part)]).map(drop)
    }

    /// How much of `part` to feed at a time: whole records, so that the BIO keeps none back, which
    /// it would move at the next write; `most` bytes, so that they stay in the processor's cache.
    pub fn whole_records<'py>(
        &self,
        py: Python<'py>,
        window: &Taken<'py>,
        part: std::ops::Range<usize>,
        most: usize,
    ) -> PyOutcome<'py, usize> {
        let records = self.records.with(py, |records| *records);
        window.with(part, |bytes| records.whole_records(bytes, most))
    }

    /// Feeds ciphertext from any object with the buffer protocol.
    pub fn feed<'py>(&self, data: &Bound<'py, PyAny>) -> PyOutcome<'py, ()> {
        let py = data.py();
        crate::ffi::buffer::with_bytes(data, |bytes| {
            self.records.with(py, |records| records.feed(bytes));
        })?;
        call::call_method(self.incoming.bind(py), intern!(py, "write"), [data]).map(drop)
    }

    /// Bytes that were fed and that the SSL object has not taken.
    pub fn incoming_size(&self, py: Python<'_>) -> PyResult<usize> {
        self.incoming.bind(py).getattr(intern!(py, "pending"))?.extract()
    }

    /// Ciphertext that was not taken out yet.
    pub fn outgoing_size(&self, py: Python<'_>) -> PyResult<usize> {
        self.outgoing.bind(py).getattr(intern!(py, "pending"))?.extract()
    }

    /// Someone fed the BIO behind our back.
    pub fn stop_counting(&self, py: Python<'_>) {
        self.records.with(py, Records::give_up);
    }

    /// A handshake has read records.
    pub fn lose_count(&self, py: Python<'_>) -> PyResult<()> {
        let some = self.incoming_size(py)? > 0;
        self.records.with(py, |records| records.lose_count(some));
        Ok(())
    }

    /// Whether reading may give something.
    #[inline]
    pub fn has_unread(&self, py: Python<'_>) -> bool {
        self.records.with(py, |records| records.has_unread())
    }

    /// `read(size, target)`: one record, or as much of it as fits.
    pub fn read<'py>(&self, size: usize, target: &Bound<'py, PyAny>) -> PyOutcome<'py, Read> {
        let py = target.py();
        let wanted = outcome(py, size.into_pyobject(py).map_err(PyErr::from))?;
        let read = call::call_method(self.data.bind(py), intern!(py, "read"), [&wanted, target]);
        match read {
            Ok(count) => {
                let count: usize = outcome(py, count.extract())?;
                if count == 0 {
                    return Ok(Read::Closed);
                }
                // A read that filled its target may have left a part of the record.
                if count < size {
                    self.records.with(py, Records::note_read);
                }
                Ok(Read::Data(count))
            }
            Err(raised) if outcome(py, modules::asks_for_more(&raised))? => {
                self.records.with(py, Records::note_drained);
                Ok(Read::Drained)
            }
            Err(raised) => Err(raised),
        }
    }

    /// `write(data)`: how many bytes became records; `None` if a handshake must go on first.
    pub fn write<'py>(&self, data: &Bound<'py, PyAny>) -> PyOutcome<'py, Option<usize>> {
        let py = data.py();
        match call::call_method(self.data.bind(py), intern!(py, "write"), [data]) {
            Ok(count) => outcome(py, count.extract().map(Some)),
            Err(raised) if outcome(py, modules::asks_for_more(&raised))? => Ok(None),
            Err(raised) => Err(raised),
        }
    }

    /// Takes the ciphertext out.
    pub fn take_outgoing<'py>(&self, py: Python<'py>) -> PyOutcome<'py, Bound<'py, PyBytes>> {
        let data = call::call_method(self.outgoing.bind(py), intern!(py, "read"), [])?;
        outcome(py, data.cast_into().map_err(PyErr::from))
    }

    /// Reports the objects to the cyclic collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.object)?;
        visit.call(&self.data)?;
        visit.call(&self.incoming)?;
        visit.call(&self.outgoing)
    }
}

/// The C object that an `ssl.SSLObject` wraps, if its methods are the standard library's.
fn inner<'py>(object: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    static ORIGINALS: PyOnceLock<[Py<PyAny>; 2]> = PyOnceLock::new();
    let py = object.py();
    let (read, write) = (intern!(py, "read"), intern!(py, "write"));
    // As they were at first: whoever replaces them later wants to be called.
    let [original_read, original_write] = ORIGINALS.get_or_try_init(py, || {
        let class = modules::ssl_object(py)?;
        PyResult::Ok([class.getattr(read)?.unbind(), class.getattr(write)?.unbind()])
    })?;
    let class = object.get_type();
    if !class.getattr(read)?.is(original_read) || !class.getattr(write)?.is(original_write) {
        return Ok(None);
    }
    object.getattr_opt(intern!(py, "_sslobj"))
}
