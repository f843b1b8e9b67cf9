//! The short way: application data by OpenSSL's own functions, on our buffers.
//!
//! A session takes it for what happens often and is simple: records that arrive while nothing
//! waits, and data that is written while the underlying transport accepts it. Everything else takes
//! the SSL object's methods, and these decide where OpenSSL's functions did not succeed, so
//! exceptions are theirs. `FERROLOOP_TLS=objects` in the environment switches it off for the
//! connections that are made from then on.

use std::ops::Range;
use std::sync::OnceLock;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::ffi::exception::PyOutcome;
use crate::ffi::objects::cell::AttachedRefCell;
use crate::ffi::objects::process_state::per_thread;
use crate::ffi::objects::shared_buffer::BufferLease;
use crate::ffi::openssl::{Connection, Decrypted};

/// Blocks up to this size, in bytes, are kept for the next write.
const MAX_SPARE: usize = 256 * 1024;

per_thread!(static SPARE: Vec<u8> = Vec::new());

/// The short way of one session.
#[derive(Default)]
pub struct Direct {
    /// Empty until the handshake is complete.
    connection: OnceLock<Connection>,
    /// Ciphertext to be sent, older than that in the outgoing BIO.
    ciphertext: AttachedRefCell<Vec<u8>>,
}

impl Direct {
    /// Opens the way, if OpenSSL's functions can be used for the C object `inner`.
    pub fn open(
        &self,
        inner: &Bound<'_, PyAny>,
        incoming: &Bound<'_, PyAny>,
        outgoing: &Bound<'_, PyAny>,
    ) {
        if std::env::var_os("FERROLOOP_TLS").is_some_and(|way| way == "objects") {
            return;
        }
        if let Some(connection) = Connection::of(inner, incoming, outgoing) {
            self.connection.get_or_init(|| connection);
        }
    }

    /// Decrypts the records of `part` of a buffer into `target`, from `start` on. Does nothing, and
    /// returns `None`, if that is not possible now.
    #[inline]
    pub fn decrypt<'py>(
        &self,
        py: Python<'py>,
        input: &BufferLease<'py>,
        part: Range<usize>,
        (target, start): (&BufferLease<'py>, usize),
    ) -> PyOutcome<'py, Option<Decrypted>> {
        match self.connection.get() {
            Some(connection) => connection.decrypt(py, input, part, (target, start)),
            None => Ok(None),
        }
    }

    /// Puts received ciphertext back, without a call of Python. Returns whether that was possible.
    pub fn keep(&self, py: Python<'_>, ciphertext: &[u8]) -> bool {
        self.connection.get().is_some_and(|connection| connection.keep(py, ciphertext))
    }

    /// Encrypts `data`. Returns the number of bytes that are encrypted: all of them, or as many as
    /// is possible now.
    #[inline]
    pub fn encrypt(&self, py: Python<'_>, data: &[u8]) -> usize {
        let Some(connection) = self.connection.get() else { return 0 };
        let mut ciphertext = self.take(py);
        if ciphertext.capacity() == 0 {
            ciphertext = SPARE.with(py, std::mem::take);
        }
        let count = connection.encrypt(py, data, &mut ciphertext);
        self.ciphertext.with(py, |place| *place = ciphertext);
        count
    }

    /// Removes the ciphertext to be sent.
    #[inline]
    pub fn take(&self, py: Python<'_>) -> Vec<u8> {
        self.ciphertext.with(py, std::mem::take)
    }

    /// Takes back the memory of ciphertext that was sent.
    #[inline]
    pub fn reuse(py: Python<'_>, mut sent: Vec<u8>) {
        sent.clear();
        if sent.capacity() <= MAX_SPARE {
            let surplus = SPARE.with(py, |spare| std::mem::replace(spare, sent));
            drop(surplus);
        }
    }

    /// Whether it is open, and a handshake has begun and is not complete.
    #[inline]
    pub fn is_in_handshake(&self) -> bool {
        self.connection.get().is_some_and(Connection::is_in_handshake)
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.connection.get().is_some()
    }

    /// The number of bytes of ciphertext to be sent.
    pub fn size(&self, py: Python<'_>) -> usize {
        self.ciphertext.with(py, |ciphertext| ciphertext.len())
    }

    /// Whether the outgoing BIO may have ciphertext.
    #[inline]
    pub fn may_have_outgoing(&self, py: Python<'_>) -> bool {
        self.connection.get().is_none_or(|connection| connection.has_outgoing(py))
    }

    /// Visits the objects for the garbage collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.connection.get().map_or(Ok(()), |connection| connection.traverse(visit))
    }
}
