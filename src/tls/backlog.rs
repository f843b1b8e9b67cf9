//! Plaintext that waits to be encrypted, and ciphertext that waits for the transport below.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::ffi::buffer;
use crate::ffi::exception::PyOutcome;
use crate::ffi::objects::cell::AttachedRefCell;
use crate::scheduler::report::outcome;

/// What was given to `write()` or `writelines()`.
struct Piece {
    /// Bytes, or what has no contiguous bytes: the SSL object is to refuse that.
    data: Py<PyAny>,
    length: usize,
}

impl Piece {
    /// `length` bytes, or `len()` of what has none.
    fn of<'py>(data: &Bound<'py, PyAny>) -> PyOutcome<'py, Self> {
        let py = data.py();
        if let Ok(bytes) = data.cast::<PyBytes>() {
            return Ok(Self { data: data.clone().unbind(), length: bytes.as_bytes().len() });
        }
        // A copy, since the owner may change it.
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

/// Plaintext that waits to be encrypted.
#[derive(Default)]
pub struct Backlog {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that are done.
    start: usize,
    size: usize,
}

/// The first of what waits.
pub struct First<'py> {
    /// Bytes, or what the SSL object is to refuse.
    pub data: Bound<'py, PyAny>,
    /// Bytes of it that are done.
    pub start: usize,
    /// Bytes of it that are not done.
    pub rest: usize,
    /// It is bytes.
    pub is_bytes: bool,
    /// Nothing else waits.
    pub is_last: bool,
}

impl Backlog {
    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.size
    }

    /// Whether nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    fn push(&mut self, piece: Piece) {
        self.size += piece.length;
        self.pieces.push_back(piece);
    }

    /// Puts a piece, of which `start` bytes are done, before all others, none of which has begun.
    fn unshift(&mut self, piece: Piece, start: usize) {
        debug_assert!(self.start == 0, "only the first piece can be partly done");
        self.size += piece.length - start;
        self.start = start;
        self.pieces.push_front(piece);
    }

    /// The first piece.
    pub fn first<'py>(&self, py: Python<'py>) -> Option<First<'py>> {
        let piece = self.pieces.front()?;
        Some(First {
            data: piece.data.bind(py).clone(),
            start: self.start,
            rest: piece.length - self.start,
            is_bytes: piece.bytes(py).is_some(),
            is_last: self.pieces.len() == 1,
        })
    }

    /// Copies pieces into `room` until it is full; how many bytes.
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

    /// Forgets the first `length` bytes, or as many as there are. Returns what is done with.
    #[must_use = "drop it where no cell is lent"]
    pub fn advance(&mut self, length: usize) -> Vec<Py<PyAny>> {
        let mut done = Vec::new();
        let mut left = length.min(self.size);
        self.size -= left;
        while left > 0 {
            let Some(piece) = self.pieces.front() else { break };
            let rest = piece.length - self.start;
            if left < rest {
                self.start += left;
                break;
            }
            left -= rest;
            self.start = 0;
            done.extend(self.pieces.pop_front().map(|piece| piece.data));
        }
        if self.pieces.is_empty() {
            self.pieces = VecDeque::new();
        }
        done
    }

    /// Reports to the cyclic collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.pieces.iter().try_for_each(|piece| visit.call(&piece.data))
    }

    /// Forgets the first piece. Returns it.
    #[must_use = "drop it where no cell is lent"]
    pub fn skip_first(&mut self) -> Option<Py<PyAny>> {
        let piece = self.pieces.pop_front()?;
        self.size -= piece.length - self.start;
        self.start = 0;
        Some(piece.data)
    }
}

/// Appends `data` to what waits.
///
/// # Errors
/// Those of `len()` for what has no contiguous bytes; it waits nevertheless, as in asyncio.
pub fn put_off<'py>(
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
    outcome(py, length)
}

/// Puts `data`, of which `start` bytes are done, before all that waits.
pub fn put_back<'py>(
    backlog: &AttachedRefCell<Backlog>,
    data: &Bound<'py, PyAny>,
    start: usize,
) -> PyOutcome<'py, ()> {
    let py = data.py();
    let piece = Piece::of(data)?;
    if piece.length > start || piece.bytes(py).is_none() {
        let start = start.min(piece.length);
        backlog.with(py, |backlog| backlog.unshift(piece, start));
    }
    Ok(())
}

/// Ciphertext that the transport below did not want yet, taken out of the BIO: a BIO never gives
/// back the memory that it has once needed.
#[derive(Default)]
pub struct Sealed {
    pieces: VecDeque<Py<PyBytes>>,
    size: usize,
}

impl Sealed {
    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.size
    }

    /// Appends a piece.
    pub fn push(&mut self, piece: &Bound<'_, PyBytes>) {
        self.size += piece.as_bytes().len();
        self.pieces.push_back(piece.clone().unbind());
    }

    /// Takes the first piece out.
    #[inline]
    pub fn pop<'py>(&mut self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        let Some(piece) = self.pieces.pop_front() else {
            // An idle connection keeps no memory for it.
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
