//! The bytes that a reader holds.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

use crate::ffi::buffer;
use crate::ffi::exception::PyOutcome;
use crate::ffi::objects::cell::AttachedCell;
use crate::ffi::objects::object;

/// A message that was received, and how much of its beginning was read.
struct Message {
    bytes: Py<PyBytes>,
    start: usize,
}

/// The bytes, either in one received message or in the reader's `_buffer`.
pub(super) struct Contents {
    /// Empty while there is a message.
    buffer: AttachedCell<Option<Py<PyAny>>>,
    message: AttachedCell<Option<Message>>,
}

impl Contents {
    pub fn new(buffer: Bound<'_, PyByteArray>) -> Self {
        Self {
            buffer: AttachedCell::new(Some(buffer.into_any().unbind())),
            message: AttachedCell::new(None),
        }
    }

    /// The buffer, with all bytes, for Python code.
    pub fn share<'py>(&self, py: Python<'py>) -> PyOutcome<'py, Bound<'py, PyAny>> {
        self.move_message(py)?;
        Ok(self.buffer.get_bound(py).unwrap_or_else(|| py.None().into_bound(py)))
    }

    /// Python code has replaced the buffer.
    pub fn set_buffer(&self, py: Python<'_>, buffer: Bound<'_, PyAny>) {
        drop(self.message.take(py));
        self.buffer.store(py, Some(buffer));
    }

    /// The buffer, with all bytes, for appending; `None` if it is not an array that can grow.
    pub fn array<'py>(&self, py: Python<'py>) -> PyOutcome<'py, Option<Bound<'py, PyByteArray>>> {
        self.move_message(py)?;
        Ok(self.bytearray(py).filter(|array| !buffer::is_exported(array)))
    }

    fn bytearray<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyByteArray>> {
        self.buffer.get_bound(py)?.cast_into_exact().ok()
    }

    /// Whether the next message can be kept as it is: there are no bytes, and Python code has no
    /// reference to the buffer, in which it would expect new data.
    pub fn accepts_message(&self, py: Python<'_>) -> bool {
        let in_buffer = self.buffer.inspect(py, |buffer| {
            let buffer = buffer.as_ref().filter(|buffer| !object::is_shared(buffer.bind(py)));
            let array = buffer.and_then(|buffer| buffer.bind(py).cast_exact::<PyByteArray>().ok());
            array.is_some_and(|array| array.is_empty())
        });
        in_buffer && !self.message.inspect(py, Option::is_some)
    }

    /// Keeps a message, which [`Contents::accepts_message`] allows. It must not be empty.
    pub fn set_message(&self, bytes: Bound<'_, PyBytes>) {
        let py = bytes.py();
        drop(self.message.replace(py, Some(Message { bytes: bytes.unbind(), start: 0 })));
    }

    /// Moves the message into the buffer. It stays where it is if there is no memory.
    fn move_message<'py>(&self, py: Python<'py>) -> PyOutcome<'py, ()> {
        let message = self.message.inspect(py, |message| {
            message.as_ref().map(|message| (message.bytes.bind(py).clone(), message.start))
        });
        let (Some((bytes, start)), Some(array)) = (message, self.bytearray(py)) else {
            return Ok(());
        };
        buffer::append(&array, &bytes.as_bytes()[start..])?;
        drop(self.message.take(py));
        Ok(())
    }

    /// Number of bytes; `None` if the program has replaced the buffer by another kind of object.
    pub fn len(&self, py: Python<'_>) -> Option<usize> {
        let in_message = self.message.inspect(py, |message| {
            message.as_ref().map(|message| message.bytes.as_bytes(py).len() - message.start)
        });
        in_message.or_else(|| self.bytearray(py).map(|array| array.len()))
    }

    /// The position of `separator` from `start` on. `None` if it is not there.
    pub fn find<'py>(
        &self,
        separator: &Bound<'py, PyBytes>,
        start: usize,
    ) -> PyOutcome<'py, Option<usize>> {
        let py = separator.py();
        let separator = separator.as_bytes();
        let find = |bytes: &[u8]| find(bytes, separator, start);
        let in_message = self.message.inspect(py, |message| {
            message.as_ref().map(|message| find(&message.bytes.as_bytes(py)[message.start..]))
        });
        match (in_message, self.bytearray(py)) {
            (Some(found), _) => Ok(found),
            (None, Some(array)) => buffer::with_bytes(array.as_any(), find),
            (None, None) => Ok(None),
        }
    }

    /// Removes and returns at most `length` bytes from the beginning.
    pub fn take<'py>(&self, py: Python<'py>, length: usize) -> PyOutcome<'py, Bound<'py, PyBytes>> {
        if let Some(message) = self.message.take(py) {
            let bytes = message.bytes.into_bound(py);
            let end = message.start.saturating_add(length).min(bytes.as_bytes().len());
            let taken = if message.start == 0 && end == bytes.as_bytes().len() {
                bytes.clone()
            } else {
                PyBytes::new(py, &bytes.as_bytes()[message.start..end])
            };
            if end < bytes.as_bytes().len() {
                let rest = Message { start: end, bytes: bytes.unbind() };
                drop(self.message.replace(py, Some(rest)));
            }
            return Ok(taken);
        }
        match self.bytearray(py) {
            Some(array) => buffer::take_front(&array, length),
            None => Ok(PyBytes::new(py, b"")),
        }
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.buffer.visit(visit)
    }

    /// Drops the buffer, for the garbage collector.
    pub fn clear(&self, py: Python<'_>) {
        drop((self.message.take(py), self.buffer.take(py)));
    }
}

/// The position of `separator` in `bytes` from `start` on.
fn find(bytes: &[u8], separator: &[u8], start: usize) -> Option<usize> {
    let rest = bytes.get(start..)?;
    memchr::memmem::find(rest, separator).map(|position| start + position)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::section::attach_unshared;

    fn ok<T>(outcome: PyOutcome<'_, T>) -> T {
        outcome.unwrap_or_else(|raised| panic!("{}", PyErr::from(raised)))
    }

    fn contents(py: Python<'_>) -> Contents {
        Contents::new(PyByteArray::new(py, b""))
    }

    #[test]
    fn a_message_is_returned_as_it_is() {
        Python::initialize();
        attach_unshared(|py| {
            let contents = contents(py);
            assert!(contents.accepts_message(py));
            let message = PyBytes::new(py, b"message");
            contents.set_message(message.clone());
            assert!(!contents.accepts_message(py));
            assert_eq!(contents.len(py), Some(7));
            assert!(ok(contents.take(py, 100)).is(&message));
            assert_eq!(contents.len(py), Some(0));
            assert!(contents.accepts_message(py));
        });
    }

    #[test]
    fn parts_are_taken_in_order_wherever_they_are() {
        Python::initialize();
        attach_unshared(|py| {
            let contents = contents(py);
            contents.set_message(PyBytes::new(py, b"one\ntwo\nth"));
            let newline = PyBytes::new(py, b"\n");
            assert_eq!(ok(contents.find(&newline, 0)), Some(3));
            assert_eq!(ok(contents.take(py, 4)).as_bytes(), b"one\n");
            assert_eq!(ok(contents.find(&newline, 0)), Some(3));
            let array = ok(contents.array(py)).expect("an array");
            ok(buffer::append(&array, b"ree\n"));
            assert_eq!(contents.len(py), Some(10));
            assert_eq!(ok(contents.take(py, 4)).as_bytes(), b"two\n");
            assert_eq!(ok(contents.find(&newline, 2)), Some(5));
            assert_eq!(ok(contents.take(py, 100)).as_bytes(), b"three\n");
            assert_eq!(ok(contents.take(py, 100)).as_bytes(), b"");
        });
    }

    #[test]
    fn python_code_that_has_seen_the_buffer_sees_what_arrives_later() {
        Python::initialize();
        attach_unshared(|py| {
            let contents = contents(py);
            contents.set_message(PyBytes::new(py, b"abc"));
            let shared = ok(contents.share(py));
            assert_eq!(shared.len().expect("a length"), 3);
            assert_eq!(ok(contents.take(py, 3)).as_bytes(), b"abc");
            assert!(!contents.accepts_message(py));
            drop(shared);
            assert!(contents.accepts_message(py));
        });
    }
}
