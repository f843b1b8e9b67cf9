//! Queues: plaintext to be encrypted, and ciphertext to be sent by the underlying transport.

use std::collections::VecDeque;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::ffi::buffer;
use crate::ffi::exception::{OrRaise, PyOutcome};
use crate::ffi::objects::cell::AttachedRefCell;

/// Data of `write()` or `writelines()`.
struct Piece {
    /// Bytes, or an object without contiguous bytes, for which the SSL object will raise.
    data: Py<PyAny>,
    length: usize,
}

impl Piece {
    /// A piece for `data`. Its length is 0 if `data` has no contiguous bytes.
    fn of<'py>(data: &Bound<'py, PyAny>) -> PyOutcome<'py, Self> {
        let py = data.py();
        if let Ok(bytes) = data.cast::<PyBytes>() {
            return Ok(Self { data: data.clone().unbind(), length: bytes.as_bytes().len() });
        }
        // Copied, since the program may change the data.
        if let Ok(copy) = buffer::with_bytes(data, |bytes| PyBytes::new(py, bytes)) {
            let length = copy.as_bytes().len();
            return Ok(Self { data: copy.into_any().unbind(), length });
        }
        Ok(Self { data: data.clone().unbind(), length: 0 })
    }

    fn bytes<'a>(&'a self, py: Python<'a>) -> Option<&'a [u8]> {
        self.data.bind(py).cast::<PyBytes>().ok().map(|bytes| bytes.as_bytes())
    }
}

/// Plaintext to be encrypted.
#[derive(Default)]
pub struct Backlog {
    pieces: VecDeque<Piece>,
    /// The number of bytes of the first piece that are encrypted.
    start: usize,
    size: usize,
}

/// The first piece of the backlog.
pub struct FirstPiece<'py> {
    /// Bytes, or an object for which the SSL object will raise.
    pub data: Bound<'py, PyAny>,
    /// The number of its bytes that are encrypted.
    pub start: usize,
    /// The number of its bytes that are not encrypted.
    pub remaining: usize,
    /// Whether `data` is bytes.
    pub is_bytes: bool,
    /// Whether it is the only piece.
    pub is_last: bool,
}

impl Backlog {
    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.size
    }

    /// Whether the backlog is empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    fn push(&mut self, piece: Piece) {
        self.size += piece.length;
        self.pieces.push_back(piece);
    }

    /// Prepends a piece of which `start` bytes are encrypted. No other piece may be partly
    /// encrypted.
    fn push_front(&mut self, piece: Piece, start: usize) {
        debug_assert!(self.start == 0, "only the first piece can be partly encrypted");
        self.size += piece.length - start;
        self.start = start;
        self.pieces.push_front(piece);
    }

    /// The first piece.
    pub fn first<'py>(&self, py: Python<'py>) -> Option<FirstPiece<'py>> {
        let piece = self.pieces.front()?;
        Some(FirstPiece {
            data: piece.data.bind(py).clone(),
            start: self.start,
            remaining: piece.length - self.start,
            is_bytes: piece.bytes(py).is_some(),
            is_last: self.pieces.len() == 1,
        })
    }

    /// Copies pieces into `room` until it is full; returns the number of bytes.
    pub fn copy_into(&self, py: Python<'_>, room: &mut [u8]) -> usize {
        let mut filled = 0;
        let mut start = self.start;
        for piece in &self.pieces {
            let Some(bytes) = piece.bytes(py) else { break };
            let bytes = &bytes[start..];
            let taken = bytes.len().min(room.len() - filled);
            room[filled..filled + taken].copy_from_slice(&bytes[..taken]);
            filled += taken;
            start = 0;
            if filled == room.len() {
                break;
            }
        }
        filled
    }

    /// Removes the first `length` bytes, or all if there are fewer. Returns the objects that are
    /// removed, for the caller to drop.
    #[must_use = "drop them where no cell is borrowed"]
    pub fn advance(&mut self, length: usize) -> Vec<Py<PyAny>> {
        let mut done = Vec::new();
        let mut left = length.min(self.size);
        self.size -= left;
        while left > 0 {
            let Some(piece) = self.pieces.front() else { break };
            let remaining = piece.length - self.start;
            if left < remaining {
                self.start += left;
                break;
            }
            left -= remaining;
            self.start = 0;
            done.extend(self.pieces.pop_front().map(|piece| piece.data));
        }
        if self.pieces.is_empty() {
            self.pieces = VecDeque::new();
        }
        done
    }

    /// Visits the pieces for the garbage collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.pieces.iter().try_for_each(|piece| visit.call(&piece.data))
    }

    /// Removes the first piece and returns it.
    #[must_use = "drop it where no cell is borrowed"]
    pub fn skip_first(&mut self) -> Option<Py<PyAny>> {
        let piece = self.pieces.pop_front()?;
        self.size -= piece.length - self.start;
        self.start = 0;
        Some(piece.data)
    }
}

/// Appends `data` to the backlog.
///
/// # Errors
/// Those of `len()` for an object without contiguous bytes, which is appended nevertheless, as in
/// asyncio.
pub fn append<'py>(
    backlog: &AttachedRefCell<Backlog>,
    data: &Bound<'py, PyAny>,
) -> PyOutcome<'py, ()> {
    let py = data.py();
    let mut piece = Piece::of(data)?;
    let length = match piece.bytes(py) {
        Some(b"") => return Ok(()),
        Some(_) => Ok(()),
        None => data.len().map(|length| piece.length = length),
    };
    backlog.with(py, |backlog| backlog.push(piece));
    length.or_raise(py)
}

/// Prepends `data`, of which `start` bytes are encrypted, to the backlog.
pub fn prepend<'py>(
    backlog: &AttachedRefCell<Backlog>,
    data: &Bound<'py, PyAny>,
    start: usize,
) -> PyOutcome<'py, ()> {
    let py = data.py();
    let piece = Piece::of(data)?;
    if piece.length > start || piece.bytes(py).is_none() {
        let start = start.min(piece.length);
        backlog.with(py, |backlog| backlog.push_front(piece, start));
    }
    Ok(())
}

/// Ciphertext that waits while the underlying transport has paused writing. It is moved out of the
/// BIO since a BIO never frees its memory.
#[derive(Default)]
pub struct PendingCiphertext {
    pieces: VecDeque<Py<PyBytes>>,
    size: usize,
}

impl PendingCiphertext {
    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.size
    }

    /// Appends a piece.
    pub fn push(&mut self, piece: &Bound<'_, PyBytes>) {
        self.size += piece.as_bytes().len();
        self.pieces.push_back(piece.clone().unbind());
    }

    /// Removes the first piece and returns it.
    #[inline]
    pub fn pop<'py>(&mut self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        let Some(piece) = self.pieces.pop_front() else {
            // Frees the memory: the connection may be idle for long.
            if self.pieces.capacity() > 0 {
                self.pieces = VecDeque::new();
            }
            return None;
        };
        let piece = piece.into_bound(py);
        self.size -= piece.as_bytes().len();
        Some(piece)
    }
}
