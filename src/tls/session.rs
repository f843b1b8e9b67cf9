//! The SSL object of one connection and its two memory BIOs.
//!
//! The program's context decides everything; this code moves bytes. Reading and writing bypass the
//! object's Python wrapper while its methods are the standard library's. That is checked each time:
//! programs replace these methods, on the class or on one object, before or after a connection is
//! made. Only the count that the C object returns is trusted.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyInt, PyString};

use super::direct::Direct;
use super::modules;
use super::records::Records;
use crate::ffi::attribute::{class_has, has_method};
use crate::ffi::call;
use crate::ffi::exception::{OrRaise, PyOutcome, Raised};
use crate::ffi::objects::cell::AttachedRefCell;
use crate::ffi::objects::shared_buffer::BufferLease;
use crate::ffi::openssl::{self, Stopped};
use crate::ffi::ssl_class::{self, SslClass};

/// The maximum size of a record's plaintext, in bytes.
pub const RECORD_SIZE: usize = 16 * 1024;

/// An SSL object between two memory BIOs.
pub struct Session {
    /// The result of `wrap_bio()`.
    object: Py<PyAny>,
    /// The C object that it wraps, if it is the standard library's.
    inner: Option<Py<PyAny>>,
    incoming: Py<PyAny>,
    outgoing: Py<PyAny>,
    records: AttachedRefCell<Records>,
    direct: Direct,
    /// The context had a callback for messages when it made the object, which calls the one that
    /// the context has at any time.
    reports_messages: bool,
}

/// The result of a read.
pub enum Read {
    /// The number of bytes read.
    Data(usize),
    /// There is nothing to read until more ciphertext is received.
    Drained,
    /// The peer has sent close_notify.
    Closed,
}

impl Session {
    /// Creates the SSL object by `context.wrap_bio()`.
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
        let inner = SslObjectMethods::get(py).and_then(|original| original.inner(&object));
        Ok(Self {
            reports_messages: inner.as_ref().is_some_and(openssl::reports_messages),
            inner: inner.map(Bound::unbind),
            object: object.unbind(),
            incoming: incoming.unbind(),
            outgoing: outgoing.unbind(),
            records: AttachedRefCell::default(),
            direct: Direct::default(),
        })
    }

    /// The SSL object.
    pub fn object<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.object.bind(py).clone()
    }

    /// The BIO for received ciphertext.
    pub fn incoming<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.incoming.bind(py).clone()
    }

    /// The BIO for ciphertext to be sent.
    pub fn outgoing<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.outgoing.bind(py).clone()
    }

    /// Feeds ciphertext from `part` of a shared buffer.
    pub fn feed_lease<'py>(
        &self,
        py: Python<'py>,
        lease: &BufferLease<'py>,
        part: std::ops::Range<usize>,
    ) -> PyOutcome<'py, ()> {
        lease.with(part.clone(), |bytes| {
            self.records.with(py, |records| records.feed(bytes));
        })?;
        let incoming = self.incoming.bind(py);
        ssl_class::write(SslClass::memory_bio(py), incoming, [lease.view(part)]).map(drop)
    }

    /// How much of `part` to feed at a time: whole records, since the BIO would move the rest of
    /// one at the next write, and at most `most` bytes, so that they stay in the processor's cache.
    pub fn whole_records<'py>(
        &self,
        py: Python<'py>,
        lease: &BufferLease<'py>,
        part: std::ops::Range<usize>,
        most: usize,
    ) -> PyOutcome<'py, usize> {
        let records = self.records.with(py, |records| *records);
        lease.with(part, |bytes| records.whole_records(bytes, most))
    }

    /// Feeds ciphertext from any object with the buffer protocol.
    pub fn feed<'py>(&self, data: &Bound<'py, PyAny>) -> PyOutcome<'py, ()> {
        let py = data.py();
        crate::ffi::buffer::with_bytes(data, |bytes| {
            self.records.with(py, |records| records.feed(bytes));
        })?;
        ssl_class::write(SslClass::memory_bio(py), self.incoming.bind(py), [data]).map(drop)
    }

    /// The number of bytes that were fed and that the SSL object has not read.
    pub fn incoming_size(&self, py: Python<'_>) -> PyResult<usize> {
        self.incoming.bind(py).getattr(intern!(py, "pending"))?.extract()
    }

    /// The number of bytes of ciphertext to be sent.
    pub fn outgoing_size(&self, py: Python<'_>) -> PyResult<usize> {
        let waiting: usize = self.outgoing.bind(py).getattr(intern!(py, "pending"))?.extract()?;
        Ok(waiting + self.direct.size(py))
    }

    /// Called when the handshake is complete: from then on OpenSSL's own functions may be used.
    pub fn open_directly(&self, py: Python<'_>) {
        if let Some(inner) = self.inner.as_ref().filter(|_| !self.reports_messages) {
            let (incoming, outgoing) = (self.incoming.bind(py), self.outgoing.bind(py));
            self.direct.open(inner.bind(py), incoming, outgoing);
        }
    }

    /// OpenSSL's own functions.
    #[inline]
    pub fn direct(&self) -> &Direct {
        &self.direct
    }

    /// Decrypts the bytes from `next` to `end` of a shared buffer into `target`, from `filled` on,
    /// without the object. Does nothing, and returns `None`, if that is not possible now. Where the
    /// object must decide, what is left of the input is in its BIO.
    #[inline]
    pub fn decrypt<'py>(
        &self,
        py: Python<'py>,
        input: &BufferLease<'py>,
        next: &mut usize,
        end: usize,
        (target, filled): (&BufferLease<'py>, &mut usize),
    ) -> PyOutcome<'py, Option<Stopped>> {
        let Some(decrypted) = self.direct.decrypt(py, input, *next..end, (target, *filled))? else {
            return Ok(None);
        };
        *filled += decrypted.written;
        let taken = *next + decrypted.taken;
        let mut kept = decrypted.stopped != Stopped::Other;
        input.with(*next..end, |bytes| {
            // Nothing may call Python before the object is asked: the error queue must not change.
            let left = &bytes[decrypted.taken..];
            kept = kept || left.is_empty() || self.direct.keep(py, left);
            let counted = if kept && decrypted.stopped == Stopped::Other { end } else { taken };
            self.records.with(py, |records| {
                records.feed(&bytes[..counted - *next]);
                match decrypted.stopped {
                    Stopped::Drained => records.note_drained(),
                    Stopped::Full | Stopped::Other => records.forget_count(true),
                }
            });
            *next = counted;
        })?;
        Ok(Some(decrypted.stopped))
    }

    /// Stops counting records, since other code has written to the BIO.
    pub fn stop_counting(&self, py: Python<'_>) {
        self.records.with(py, Records::stop_counting);
    }

    /// Called when a handshake has read records.
    pub fn forget_count(&self, py: Python<'_>) -> PyResult<()> {
        let some = self.incoming_size(py)? > 0;
        self.records.with(py, |records| records.forget_count(some));
        Ok(())
    }

    /// Whether reading may return data.
    #[inline]
    pub fn has_unread(&self, py: Python<'_>) -> bool {
        self.records.with(py, |records| records.has_unread())
    }

    /// Whether application data may have arrived that is not read.
    pub fn may_have_data(&self, py: Python<'_>) -> bool {
        self.records.with(py, |records| records.may_have_data())
    }

    /// Whether `read()` of the object is the standard library's.
    #[inline]
    pub fn reads_directly(&self, py: Python<'_>) -> bool {
        self.inner.is_some()
            && SslObjectMethods::get(py).is_some_and(|original| {
                has_method(self.object.bind(py), intern!(py, "read"), original.read.bind(py))
            })
    }

    /// Whether `write()` of the object is the standard library's.
    #[inline]
    pub fn writes_directly(&self, py: Python<'_>) -> bool {
        self.inner.is_some()
            && SslObjectMethods::get(py).is_some_and(|original| {
                has_method(self.object.bind(py), intern!(py, "write"), original.write.bind(py))
            })
    }

    fn inner<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.inner.as_ref().unwrap_or(&self.object).bind(py)
    }

    /// Calls `read(size, target)` of the C object, which reads one record, or as much of it as
    /// fits.
    pub fn read<'py>(&self, size: usize, target: &Bound<'py, PyAny>) -> PyOutcome<'py, Read> {
        let py = target.py();
        let wanted = size.into_pyobject(py).or_raise(py)?;
        let read = ssl_class::read(SslClass::ssl_socket(py), self.inner(py), [&wanted, target])
            .and_then(|count| count.extract().or_raise(py));
        self.note_read(py, size, read)
    }

    /// As [`Session::read`], for the rest of a shared buffer, from `start` on.
    pub fn read_lease<'py>(
        &self,
        py: Python<'py>,
        lease: &BufferLease<'py>,
        start: usize,
    ) -> PyOutcome<'py, Read> {
        let read = lease.read_from(start, SslClass::ssl_socket(py), self.inner(py));
        self.note_read(py, lease.capacity() - start, read)
    }

    #[inline]
    fn note_read<'py>(
        &self,
        py: Python<'py>,
        size: usize,
        read: PyOutcome<'py, usize>,
    ) -> PyOutcome<'py, Read> {
        match read {
            Ok(count) => {
                if count == 0 {
                    return Ok(Read::Closed);
                }
                // A read that has filled its target may have left part of the record. If data has
                // interrupted a handshake, OpenSSL marks that until the next read.
                if count < size && !self.direct.is_in_handshake() {
                    self.records.with(py, Records::note_read);
                }
                Ok(Read::Data(count.min(size)))
            }
            Err(raised) if modules::wants_more(&raised).or_raise(py)? => {
                self.records.with(py, Records::note_drained);
                Ok(Read::Drained)
            }
            Err(raised) => Err(raised),
        }
    }

    /// Calls `read(*arguments)` of an object that has its own `read()`. Returns its result, or
    /// `None` if it needs more data.
    pub fn read_by_object<'py, const N: usize>(
        &self,
        py: Python<'py>,
        arguments: [&Bound<'py, PyAny>; N],
    ) -> PyOutcome<'py, Option<Bound<'py, PyAny>>> {
        match call::call_method(self.object.bind(py), intern!(py, "read"), arguments) {
            Ok(answer) => Ok(Some(answer)),
            Err(raised) if modules::wants_more(&raised).or_raise(py)? => Ok(None),
            Err(raised) => Err(raised),
        }
    }

    /// Calls `write(data)`, of the C object if `direct`. Returns the number of bytes encrypted, or
    /// `None` if a handshake must be continued first.
    pub fn write<'py>(
        &self,
        data: &Bound<'py, PyAny>,
        direct: bool,
    ) -> PyOutcome<'py, Option<usize>> {
        let py = data.py();
        let object = if direct { self.inner(py) } else { self.object.bind(py) };
        match ssl_class::write(SslClass::ssl_socket(py), object, [data]) {
            Ok(count) => match count.extract() {
                Ok(count) => Ok(Some(count)),
                // A number out of range means all of it, as in asyncio.
                Err(_) if count.is_instance_of::<PyInt>() && count.gt(0).or_raise(py)? => {
                    Ok(Some(usize::MAX))
                }
                Err(error) => Err(Raised::of(py, error)),
            },
            Err(raised) if modules::wants_more(&raised).or_raise(py)? => Ok(None),
            Err(raised) => Err(raised),
        }
    }

    /// Whether the outgoing BIO may have ciphertext.
    #[inline]
    pub fn may_have_outgoing(&self, py: Python<'_>) -> bool {
        self.direct.may_have_outgoing(py)
    }

    /// Removes all ciphertext from the outgoing BIO and returns it.
    pub fn take_outgoing<'py>(&self, py: Python<'py>) -> PyOutcome<'py, Bound<'py, PyBytes>> {
        let data = ssl_class::read(SslClass::memory_bio(py), self.outgoing.bind(py), [])?;
        data.cast_into().or_raise(py)
    }

    /// Visits the objects for the garbage collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.object)?;
        visit.call(&self.inner)?;
        visit.call(&self.incoming)?;
        visit.call(&self.outgoing)?;
        self.direct.traverse(visit)
    }
}

/// The standard library's methods.
struct SslObjectMethods {
    read: Py<PyAny>,
    write: Py<PyAny>,
    /// The class of the C object.
    inner: Py<PyAny>,
}

impl SslObjectMethods {
    /// `None` if the program had replaced one of them before it first used TLS.
    fn get(py: Python<'_>) -> Option<&Self> {
        static ORIGINAL: PyOnceLock<Option<SslObjectMethods>> = PyOnceLock::new();
        ORIGINAL.get_or_init(py, || Self::find(py).unwrap_or(None)).as_ref()
    }

    #[cold]
    fn find(py: Python<'_>) -> PyResult<Option<Self>> {
        let class = modules::ssl_object(py)?;
        // Not `ssl.__file__`, which differs in a frozen program.
        let file = modules::pem_function(py)?.getattr("__code__")?.getattr("co_filename")?;
        let read = class.getattr("read")?;
        let write = class.getattr("write")?;
        for (function, name) in [(&read, "SSLObject.read"), (&write, "SSLObject.write")] {
            let code = function.getattr("__code__")?;
            if !code.getattr("co_filename")?.eq(&file)? || !code.getattr("co_qualname")?.eq(name)? {
                return Ok(None);
            }
        }
        let inner = py.import("_ssl")?.getattr("_SSLSocket")?;
        Ok(Some(Self { read: read.unbind(), write: write.unbind(), inner: inner.unbind() }))
    }

    /// The C object that `object` wraps, if its class has at least one of the original methods.
    fn inner<'py>(&self, object: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
        let py = object.py();
        let has = |name: &Bound<'py, PyString>, method: &Py<PyAny>| {
            class_has(object, name, method.bind(py))
        };
        if !has(intern!(py, "read"), &self.read) && !has(intern!(py, "write"), &self.write) {
            return None;
        }
        let inner = object.getattr(intern!(py, "_sslobj")).ok()?;
        inner.get_type().is(&self.inner).then_some(inner)
    }
}
