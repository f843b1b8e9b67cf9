//! TLS records by OpenSSL's own functions, on memory of ours.
//!
//! Python's `_ssl` makes the SSL objects and is their authority: it does the handshake, the shutdown
//! and whatever the program asks an `ssl.SSLObject`. A [`Connection`] only reads and writes
//! application data, with the functions that `_ssl` itself calls, but without a Python call, an
//! object and a copy for each record. Where anything is unusual it does nothing, and its caller
//! calls the Python methods.
//!
//! * `library.rs`: the functions, found in the libssl that `_ssl` is linked to;
//! * `exchange.rs`: BIOs that read and write our memory, attached for the time of one call.
//!
//! `ffi/layout/` finds the `SSL*`. The GIL is held all the time: decrypting or encrypting a record
//! takes less time than releasing the GIL and waiting for it again.

mod exchange;
pub mod library;

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::ptr::NonNull;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::ffi::exception::PyOutcome;
use crate::ffi::layout::ssl_socket;
use crate::ffi::objects::shared_buffer::BufferLease;
use library::{Library, Ssl};

/// `SSL_ERROR_WANT_READ`.
const WANT_READ: c_int = 2;
/// The maximum size of a record's plaintext, in bytes.
const RECORD_SIZE: usize = 16 * 1024;

/// An SSL object of Python whose `SSL*` is known.
pub struct Connection {
    /// Keeps it alive.
    object: Py<PyAny>,
    ssl: NonNull<Ssl>,
    library: &'static Library,
}

// SAFETY: the pointer is used only with the GIL held.
unsafe impl Send for Connection {}
// SAFETY: as above.
unsafe impl Sync for Connection {}

/// Whether the context of an `_ssl._SSLSocket` has a callback for messages, or may have one. The
/// method in which the callback raises an exception raises it again.
pub fn reports_messages(object: &Bound<'_, PyAny>) -> bool {
    let py = object.py();
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let callback = object.getattr(intern!(py, "context")).and_then(|context| {
        let class = CLASS.import(py, "_ssl", "_SSLContext")?;
        let getter = class.getattr(intern!(py, "_msg_callback"))?;
        getter.call_method1(intern!(py, "__get__"), (context,))
    });
    !callback.is_ok_and(|callback| callback.is_none())
}

/// What decrypting has done.
pub struct Decrypted {
    /// The number of bytes of ciphertext that OpenSSL has taken.
    pub taken: usize,
    /// The number of bytes of plaintext.
    pub written: usize,
    /// Why it stopped.
    pub stopped: Stopped,
}

/// Why decrypting stopped.
#[derive(Clone, Copy, PartialEq)]
pub enum Stopped {
    /// There is no whole record.
    Drained,
    /// There is no room for a whole record.
    Full,
    /// Close_notify, an error, or a handshake: the next read of the object tells. The thread's
    /// error queue of OpenSSL is as the failed call has left it, so the object raises the exception
    /// that it would have raised.
    Other,
}

impl Connection {
    /// The connection of `object`, an `_ssl._SSLSocket` between two `MemoryBIO`s, if its `SSL*` is
    /// found and no Python code wants to see its messages. The first call makes a trial connection.
    pub fn of(
        object: &Bound<'_, PyAny>,
        incoming: &Bound<'_, PyAny>,
        outgoing: &Bound<'_, PyAny>,
    ) -> Option<Self> {
        let py = object.py();
        // The BIOs of `exchange.rs` belong to the holder of the GIL.
        if cfg!(Py_GIL_DISABLED) {
            return None;
        }
        if reports_messages(object) {
            return None;
        }
        let library = Library::get(py)?;
        let ssl = ssl_socket::ssl_of(object)?;
        // SAFETY: a live SSL object.
        let (input, output) =
            unsafe { ((library.SSL_get_rbio)(ssl.as_ptr()), (library.SSL_get_wbio)(ssl.as_ptr())) };
        // Else the context has its own way from the given BIOs to the object.
        let own = ssl_socket::bio_of(incoming) == NonNull::new(input)
            && ssl_socket::bio_of(outgoing) == NonNull::new(output);
        own.then(|| Self { object: object.clone().unbind(), ssl, library })
    }

    /// Decrypts the records of `part` of a buffer into another one, from the given place on, as long
    /// as there is room for a whole record.
    ///
    /// Returns `None`, having done nothing, if ciphertext that was received before waits in the
    /// object's BIO, or during a handshake. Runs no Python code, unless the peer begins one.
    ///
    /// # Errors
    /// BufferError if other code has kept a view of a buffer.
    ///
    /// # Panics
    /// If the buffers are the same, or the parts are not inside what was written.
    pub fn decrypt<'py>(
        &self,
        py: Python<'py>,
        input: &BufferLease<'py>,
        part: Range<usize>,
        target: (&BufferLease<'py>, usize),
    ) -> PyOutcome<'py, Option<Decrypted>> {
        let mut decrypted = None;
        input.with_target(part, target, |input, target| {
            decrypted = self.decrypt_slice(py, input, target);
            decrypted.as_ref().map_or(0, |decrypted| decrypted.written)
        })?;
        Ok(decrypted)
    }

    fn decrypt_slice(
        &self,
        py: Python<'_>,
        input: &[u8],
        target: &mut [MaybeUninit<u8>],
    ) -> Option<Decrypted> {
        if self.is_in_handshake() {
            return None;
        }
        let mut written = 0;
        let decrypt = |left: &dyn Fn() -> usize| loop {
            let room = target.len() - written;
            if room < RECORD_SIZE {
                return Stopped::Full;
            }
            let mut count = 0;
            // SAFETY: a live SSL object; the target has `room` bytes from there on.
            let read = unsafe {
                let target = target.as_mut_ptr().add(written).cast();
                (self.library.SSL_read_ex)(self.ssl.as_ptr(), target, room, &mut count)
            };
            if read != 1 {
                // SAFETY: a live SSL object and the result of the last call.
                let error = unsafe { (self.library.SSL_get_error)(self.ssl.as_ptr(), read) };
                let drained = error == WANT_READ && left() == 0;
                return if drained { Stopped::Drained } else { Stopped::Other };
            }
            written += count;
            // A read returns at most one record. Where nothing is left, another one would fail. A
            // handshake needs it: OpenSSL marks that data has interrupted one until the next read.
            // SAFETY: a live SSL object.
            let pending = || unsafe { (self.library.SSL_has_pending)(self.ssl.as_ptr()) != 0 };
            if left() == 0 && !pending() && !self.is_in_handshake() {
                return Stopped::Drained;
            }
        };
        // SAFETY: a live SSL object, since `object` is. The GIL is held, and `_ssl` holds no lock
        // of the object where it has released the GIL. The closure only calls OpenSSL.
        let (stopped, taken) =
            unsafe { exchange::with_input(py, self.ssl.as_ptr(), input, decrypt) }?;
        Some(Decrypted { taken, written, stopped })
    }

    /// Encrypts `data` and appends the records to `output`. Returns the number of bytes that are
    /// encrypted. If it is not all of them, the next write of the object, from there on, tells why.
    ///
    /// Does nothing during a handshake. Runs no Python code, unless a new one begins.
    pub fn encrypt(&self, py: Python<'_>, data: &[u8], output: &mut Vec<u8>) -> usize {
        if self.is_in_handshake() {
            return 0;
        }
        let encrypt = || {
            let mut done = 0;
            for record in data.chunks(RECORD_SIZE) {
                let mut count = 0;
                // SAFETY: a live SSL object; the record's bytes are valid during the call.
                let written = unsafe {
                    let start = record.as_ptr().cast();
                    (self.library.SSL_write_ex)(self.ssl.as_ptr(), start, record.len(), &mut count)
                };
                if written != 1 {
                    break;
                }
                done += count.min(record.len());
            }
            done
        };
        // SAFETY: as in `decrypt`.
        unsafe { exchange::with_output(py, self.ssl.as_ptr(), output, encrypt) }.unwrap_or(0)
    }

    /// Whether a handshake has begun and is not complete. It may call Python, and the object's methods
    /// raise the exceptions of these calls.
    #[inline]
    pub fn is_in_handshake(&self) -> bool {
        // SAFETY: a live SSL object.
        unsafe { (self.library.SSL_in_init)(self.ssl.as_ptr()) != 0 }
    }

    /// Appends ciphertext that was received to the object's BIO, without a call of Python. Returns
    /// whether that was possible.
    pub fn keep(&self, _py: Python<'_>, ciphertext: &[u8]) -> bool {
        let Ok(length) = c_int::try_from(ciphertext.len()) else { return false };
        // SAFETY: a live SSL object, whose BIO is one of `_ssl`, in memory; the bytes are valid.
        unsafe {
            let bio = (self.library.SSL_get_rbio)(self.ssl.as_ptr());
            let start = ciphertext.as_ptr().cast();
            !bio.is_null() && (self.library.BIO_write)(bio, start, length) == length
        }
    }

    /// Whether the object's BIO has ciphertext to be sent.
    #[inline]
    pub fn has_outgoing(&self, _py: Python<'_>) -> bool {
        // SAFETY: a live SSL object, and its BIO.
        unsafe {
            let bio = (self.library.SSL_get_wbio)(self.ssl.as_ptr());
            bio.is_null() || (self.library.BIO_ctrl_pending)(bio) != 0
        }
    }

    /// Visits the object for the garbage collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.object)
    }
}
