//! What could not be sent at once: references to immutable bytes, copies of anything else.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::ffi::buffer;
use crate::ffi::exception::PyOutcome;
use crate::ffi::objects::cell::AttachedRefCell;
use crate::sys::is_not_ready;

/// Pieces up to this size are copied together, so that many tiny writes stay cheap.
const SMALL: usize = 2048;
/// A copied chunk is not extended beyond this.
const CHUNK: usize = 64 * 1024;
/// Chunks that one vectored call is given; kept on the stack.
const VECTOR: usize = 64;

/// A piece of the queue.
enum Chunk {
    /// The bytes of an object from an offset on.
    Shared(Py<PyBytes>, usize),
    /// A copy, from an offset on.
    Copied(Vec<u8>, usize),
}

impl Chunk {
    fn bytes<'a>(&'a self, py: Python<'a>) -> &'a [u8] {
        match self {
            Self::Shared(object, start) => &object.bind(py).as_bytes()[*start..],
            Self::Copied(bytes, start) => &bytes[*start..],
        }
    }

    fn advance(&mut self, length: usize) {
        match self {
            Self::Shared(_, start) | Self::Copied(_, start) => *start += length,
        }
    }
}

/// Bytes to send, in order.
#[derive(Default)]
pub struct WriteQueue {
    chunks: VecDeque<Chunk>,
    size: usize,
}

impl WriteQueue {
    /// Number of bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.size
    }

    /// Whether there is nothing to send.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// A copy of everything.
    pub fn copy(&self, py: Python<'_>) -> Vec<u8> {
        self.chunks.iter().flat_map(|chunk| chunk.bytes(py)).copied().collect()
    }

    /// Appends a bytes object from `start` on, by reference unless it is small and not the first:
    /// the only piece is likely to be sent as it is, before there is another to join it to.
    pub fn push_object(&mut self, object: &Bound<'_, PyBytes>, start: usize) {
        let bytes = &object.as_bytes()[start..];
        if bytes.len() <= SMALL && !self.is_empty() {
            return self.push_copy(bytes);
        }
        self.size += bytes.len();
        self.chunks.push_back(Chunk::Shared(object.clone().unbind(), start));
    }

    /// Appends a copy.
    pub fn push_copy(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.size += bytes.len();
        if let Some(Chunk::Copied(last, _)) = self.chunks.back_mut()
            && last.len() + bytes.len() <= CHUNK
        {
            last.extend_from_slice(bytes);
            return;
        }
        self.chunks.push_back(Chunk::Copied(bytes.to_vec(), 0));
    }

    /// Gives the first chunks to `send`, which answers how many bytes it took. Returns what is
    /// done with; the caller drops it.
    ///
    /// # Errors
    /// Those of `send`; the queue is unchanged then.
    pub fn send_with(
        &mut self,
        py: Python<'_>,
        send: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<Finished> {
        let mut slices: [IoSlice<'_>; VECTOR] = std::array::from_fn(|_| IoSlice::new(&[]));
        let mut count = 0;
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slice = IoSlice::new(chunk.bytes(py));
            count += 1;
        }
        let sent = send(&slices[..count])?;
        Ok(self.consume(py, sent))
    }

    fn consume(&mut self, py: Python<'_>, sent: usize) -> Finished {
        let mut finished = Vec::new();
        let mut left = sent;
        self.size -= sent;
        while let Some(chunk) = self.chunks.front_mut() {
            let length = chunk.bytes(py).len();
            if left < length {
                chunk.advance(left);
                break;
            }
            left -= length;
            // Chunks are never empty, so this ends with the last one sent.
            match self.chunks.pop_front() {
                Some(Chunk::Shared(object, _)) => finished.push(object),
                Some(Chunk::Copied(..)) | None => {}
            }
        }
        if self.chunks.is_empty() {
            // A connection that was busy once must not keep its queue for life.
            self.chunks = VecDeque::new();
        }
        Finished(finished)
    }

    /// Empties the queue; the caller drops what comes back.
    #[must_use = "dropping the objects is for a place where no cell is lent"]
    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }
}

/// Sends `data` by `send`, which answers how many bytes it took, and queues the rest. Answers
/// whether nothing is left. It is no error if the descriptor is not ready.
#[inline(always)]
pub fn send_or_push<'py>(
    queue: &AttachedRefCell<WriteQueue>,
    data: &Bound<'py, PyAny>,
    send: impl FnOnce(&[u8]) -> io::Result<usize>,
) -> PyOutcome<'py, io::Result<bool>> {
    let py = data.py();
    let send = |content: &[u8]| match send(content) {
        Err(error) if is_not_ready(&error) => Ok(0),
        other => other,
    };
    if let Ok(bytes) = data.cast::<PyBytes>() {
        let content = bytes.as_bytes();
        let sent = send(content);
        if let Ok(sent) = sent
            && sent < content.len()
        {
            queue.with(py, |queue| queue.push_object(bytes, sent));
        }
        return Ok(sent.map(|sent| sent == content.len()));
    }
    buffer::with_bytes(data, |content| {
        let sent = send(content)?;
        queue.with(py, |queue| queue.push_copy(&content[sent..]));
        Ok(sent == content.len())
    })
}

/// Sends the head of the queue by `send`; not an error if the descriptor is not ready.
pub fn send_head(
    queue: &AttachedRefCell<WriteQueue>,
    py: Python<'_>,
    send: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
) -> io::Result<()> {
    match queue.with(py, |queue| queue.send_with(py, send)) {
        // Outside of the loan: subclasses of bytes may have a finalizer.
        Ok(finished) => drop(finished),
        Err(error) if is_not_ready(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Objects that were sent. Dropping plain bytes runs no Python code, but subclasses may.
#[must_use = "drop it where no cell is lent"]
pub struct Finished(#[expect(dead_code, reason = "held for its drop")] Vec<Py<PyBytes>>);
