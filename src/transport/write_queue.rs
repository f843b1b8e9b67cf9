//! Data that could not be sent at once: references to bytes objects, copies of mutable data.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::ffi::buffer;
use crate::ffi::exception::PyOutcome;
use crate::ffi::objects::cell::AttachedRefCell;
use crate::sys::is_not_ready;

/// Chunks up to this size, in bytes, are copied together, so that many tiny writes stay cheap.
const MAX_COPIED: usize = 2048;
/// The maximum size of a copied chunk, in bytes.
const MAX_CHUNK: usize = 64 * 1024;
/// The maximum number of chunks for one vectored call; their slices are on the stack.
const MAX_SLICES: usize = 64;

/// An entry of the queue.
enum Chunk {
    /// A bytes object, and the offset of its first byte that is not sent.
    Shared(Py<PyBytes>, usize),
    /// A copy, and the offset of its first byte that is not sent.
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

/// The data to send, in order.
#[derive(Default)]
pub struct WriteQueue {
    chunks: VecDeque<Chunk>,
    size: usize,
}

impl WriteQueue {
    /// The number of bytes.
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

    /// Appends a bytes object from offset `start` on, by reference, unless it is small and not the
    /// first: a single chunk is likely to be sent before there is another one to join it with.
    pub fn push_object(&mut self, object: &Bound<'_, PyBytes>, start: usize) {
        let bytes = &object.as_bytes()[start..];
        if bytes.len() <= MAX_COPIED && !self.is_empty() {
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
        match self.chunks.back_mut() {
            Some(Chunk::Copied(last, _)) if last.len() + bytes.len() <= MAX_CHUNK => {
                last.extend_from_slice(bytes);
            }
            _ => self.chunks.push_back(Chunk::Copied(bytes.to_vec(), 0)),
        }
    }

    /// Passes the first chunks to `send`, which returns the number of bytes sent. Returns the
    /// objects that are sent completely, for the caller to drop.
    ///
    /// # Errors
    /// Those of `send`; then the queue is unchanged.
    pub fn send_with(
        &mut self,
        py: Python<'_>,
        send: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<SentObjects> {
        let mut slices: [IoSlice<'_>; MAX_SLICES] = std::array::from_fn(|_| IoSlice::new(&[]));
        let mut count = 0;
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slice = IoSlice::new(chunk.bytes(py));
            count += 1;
        }
        let sent = send(&slices[..count])?;
        Ok(self.consume(py, sent))
    }

    fn consume(&mut self, py: Python<'_>, sent: usize) -> SentObjects {
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
            // Terminates at the last chunk sent, since no chunk is empty.
            match self.chunks.pop_front() {
                Some(Chunk::Shared(object, _)) => finished.push(object),
                Some(Chunk::Copied(..)) | None => {}
            }
        }
        if self.chunks.is_empty() {
            // Frees the memory: a connection that was busy once may be idle for long.
            self.chunks = VecDeque::new();
        }
        SentObjects(finished)
    }

    /// Empties the queue; returns its contents, for the caller to drop.
    #[must_use = "drop the objects where no cell is borrowed"]
    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }
}

/// Passes `data` to `send`, which returns the number of bytes sent, and queues the rest. Returns
/// true if nothing is left. It is not an error if the descriptor is not ready.
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
        if let Ok(sent) = sent {
            if sent < content.len() {
                queue.with(py, |queue| queue.push_object(bytes, sent));
            }
        }
        return Ok(sent.map(|sent| sent == content.len()));
    }
    buffer::with_bytes(data, |content| send_slice_or_push(queue, py, content, send))
}

/// As [`send_or_push`], for bytes that must be copied.
#[inline(always)]
pub fn send_slice_or_push(
    queue: &AttachedRefCell<WriteQueue>,
    py: Python<'_>,
    content: &[u8],
    send: impl FnOnce(&[u8]) -> io::Result<usize>,
) -> io::Result<bool> {
    let sent = match send(content) {
        Err(error) if is_not_ready(&error) => 0,
        other => other?,
    };
    queue.with(py, |queue| queue.push_copy(&content[sent..]));
    Ok(sent == content.len())
}

/// Passes the head of the queue to `send`. It is not an error if the descriptor is not ready.
pub fn send_head(
    queue: &AttachedRefCell<WriteQueue>,
    py: Python<'_>,
    send: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
) -> io::Result<()> {
    match queue.with(py, |queue| queue.send_with(py, send)) {
        // After the borrow has ended: subclasses of bytes may have a finalizer.
        Ok(finished) => drop(finished),
        Err(error) if is_not_ready(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Objects that were sent. Dropping them may run Python code, if they are of subclasses of bytes.
#[must_use = "drop it where no cell is borrowed"]
pub struct SentObjects(#[expect(dead_code, reason = "held for its drop")] Vec<Py<PyBytes>>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::section::attach_unshared;

    /// Takes `count` bytes at most, and appends them to `sent`.
    fn take(
        sent: &mut Vec<u8>,
        mut count: usize,
    ) -> impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize> {
        move |slices| {
            let before = sent.len();
            for slice in slices {
                let part = count.min(slice.len());
                sent.extend_from_slice(&slice[..part]);
                count -= part;
            }
            Ok(sent.len() - before)
        }
    }

    #[test]
    fn bytes_leave_in_order_whatever_the_pieces() {
        Python::initialize();
        attach_unshared(|py| {
            // Sizes around those at which pieces are copied together and chunks are full.
            let sizes = [
                1,
                MAX_COPIED,
                MAX_COPIED + 1,
                0,
                7,
                MAX_CHUNK,
                1,
                MAX_CHUNK - 1,
                3,
                MAX_COPIED,
                100_000,
            ];
            for step in [1, 2047, 2048, 2049, 65_536, usize::MAX] {
                let (mut queue, mut expected, mut sent) = (WriteQueue::default(), vec![], vec![]);
                for (number, size) in sizes.into_iter().enumerate() {
                    let content = vec![number as u8; size];
                    match number % 2 {
                        0 if size > 0 => queue.push_object(&PyBytes::new(py, &content), 0),
                        _ => queue.push_copy(&content),
                    }
                    expected.extend(content);
                    // Some of it leaves between the writes.
                    drop(queue.send_with(py, take(&mut sent, 100)).expect("no error"));
                    assert_eq!(queue.len(), expected.len() - sent.len());
                    assert_eq!(queue.copy(py), expected[sent.len()..]);
                }
                while !queue.is_empty() {
                    drop(queue.send_with(py, take(&mut sent, step)).expect("no error"));
                    if step == 1 {
                        break; // each byte by itself takes long
                    }
                }
                assert_eq!(sent, expected[..sent.len()]);
                assert_eq!(queue.copy(py), expected[sent.len()..]);
            }
        });
    }

    #[test]
    fn an_error_changes_nothing() {
        Python::initialize();
        attach_unshared(|py| {
            let mut queue = WriteQueue::default();
            queue.push_object(&PyBytes::new(py, b"0123456789"), 4);
            let refused = queue.send_with(py, |_| Err(io::ErrorKind::WouldBlock.into()));
            assert!(refused.is_err_and(|error| is_not_ready(&error)));
            assert_eq!(queue.copy(py), b"456789");
            let rest = queue.take();
            assert!(queue.is_empty() && rest.len() == 6);
        });
    }

    #[test]
    fn what_is_not_sent_is_queued() {
        Python::initialize();
        attach_unshared(|py| {
            let queue = AttachedRefCell::new(WriteQueue::default());
            let data = PyBytes::new(py, b"abcdef").into_any();
            let push = |sent: io::Result<usize>| {
                send_or_push(&queue, &data, |_| sent).unwrap_or_else(|_| panic!("an exception"))
            };
            assert!(push(Ok(6)).expect("no error"));
            assert!(!push(Ok(4)).expect("no error"));
            assert!(!push(Err(io::ErrorKind::WouldBlock.into())).expect("no error"));
            assert!(push(Err(io::ErrorKind::BrokenPipe.into())).is_err());
            assert_eq!(queue.with(py, |queue| queue.copy(py)), b"efabcdef");
        });
    }
}
