//! Bytes objects written in place, and views of the memory of other objects.

use std::io;
use std::mem::MaybeUninit;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

use crate::ffi::exception::{PyOutcome, Raised};
use crate::ffi::section::with_locked;

unsafe extern "C" {
    // Exported by every CPython, but not declared by pyo3-ffi.
    fn _PyBytes_Resize(bytes: *mut *mut ffi::PyObject, size: ffi::Py_ssize_t) -> std::ffi::c_int;
}

/// A new bytes object that no other code can reach before it was written.
pub(in crate::ffi) struct UninitBytes<'py> {
    object: Bound<'py, PyBytes>,
    capacity: usize,
}

impl<'py> UninitBytes<'py> {
    /// `capacity` uninitialised bytes (2 or more). Runs no Python code.
    pub(in crate::ffi) fn new(py: Python<'py>, capacity: usize) -> PyOutcome<'py, Self> {
        // For a capacity of 0 or 1 CPython may return a shared object, which must not be written
        // to.
        assert!(capacity >= 2, "a bytes object to write into has at least two bytes");
        if capacity >= INITIAL_MMAP_THRESHOLD {
            prepare_allocator();
        }
        let size = ffi::Py_ssize_t::try_from(capacity).unwrap_or(ffi::Py_ssize_t::MAX);
        // SAFETY: attached; null requests uninitialised content. Returns a new reference to a bytes
        // object, or null with an exception set.
        unsafe {
            let object = ffi::PyBytes_FromStringAndSize(std::ptr::null(), size);
            if object.is_null() {
                return Err(Raised::take(py));
            }
            Ok(Self { object: Bound::from_owned_ptr(py, object).cast_into_unchecked(), capacity })
        }
    }

    /// The bytes, to be written.
    pub(in crate::ffi) fn content(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: the object has `capacity` bytes, and no other code has a reference to it.
        unsafe {
            let start = ffi::PyBytes_AsString(self.object.as_ptr()).cast();
            std::slice::from_raw_parts_mut(start, self.capacity)
        }
    }

    /// The first `length` bytes as a bytes object. Runs no Python code.
    ///
    /// # Safety
    /// They were written.
    pub(in crate::ffi) unsafe fn finish(
        self,
        length: usize,
    ) -> PyOutcome<'py, Bound<'py, PyBytes>> {
        shrink(self.object, length)
    }

    /// The object as it is.
    ///
    /// # Safety
    /// The caller lets no code read bytes that were not written.
    pub(in crate::ffi) unsafe fn into_object(self) -> Bound<'py, PyBytes> {
        self.object
    }
}

/// The initial mmap threshold of glibc's malloc.
const INITIAL_MMAP_THRESHOLD: usize = 128 * 1024;

/// Raises the mmap threshold of glibc's malloc, as happens by itself in a process that has run for
/// a while.
///
/// glibc maps every block of 128 KiB or more separately until such a block has been freed; only
/// then does it raise the threshold. A young process would pay an mmap, a page fault per page and
/// an munmap for each large message. This also raises the trim threshold, to twice that size:
/// enough for the queued data of one or two connections that send in bulk.
pub fn prepare_allocator() {
    static DONE: std::sync::Once = std::sync::Once::new();
    DONE.call_once(|| {
        let block: Vec<u8> = Vec::with_capacity(2 * 1024 * 1024);
        drop(std::hint::black_box(block));
    });
}

/// Truncates a bytes object to its first `length` bytes. The caller must hold its only reference.
/// Runs no Python code.
pub(in crate::ffi) fn shrink(
    bytes: Bound<'_, PyBytes>,
    length: usize,
) -> PyOutcome<'_, Bound<'_, PyBytes>> {
    let py = bytes.py();
    let mut object = bytes.into_ptr();
    // SAFETY: a live bytes object.
    let size = unsafe { ffi::PyBytes_Size(object) }.unsigned_abs();
    assert!(length <= size, "more bytes written than fit");
    // SAFETY: the only reference; on failure the object has been freed and an exception set.
    if length != size && unsafe { _PyBytes_Resize(&mut object, length as ffi::Py_ssize_t) } != 0 {
        return Err(Raised::take(py));
    }
    // SAFETY: an owned reference to a bytes object.
    Ok(unsafe { Bound::from_owned_ptr(py, object).cast_into_unchecked() })
}

/// A new bytes object of at most `capacity` bytes (2 or more), which `fill` writes in place.
///
/// `fill` returns how many bytes it has initialised, from the first on; it must not run Python
/// code. Runs no Python code itself.
pub fn bytes_filled_by<'py>(
    py: Python<'py>,
    capacity: usize,
    fill: impl FnOnce(&mut [MaybeUninit<u8>]) -> io::Result<usize>,
) -> PyOutcome<'py, io::Result<Bound<'py, PyBytes>>> {
    let mut bytes = UninitBytes::new(py, capacity)?;
    match fill(bytes.content()) {
        // SAFETY: `fill` has written so many; it is ours, and returns what the kernel or a copy
        // has written.
        Ok(length) => unsafe { bytes.finish(length) }.map(Ok),
        Err(error) => Ok(Err(error)),
    }
}

/// Whether a view of the array's memory exists, so that it cannot be resized.
#[inline]
pub fn is_exported(array: &Bound<'_, PyByteArray>) -> bool {
    // SAFETY: a live bytearray, whose structure is public.
    unsafe { (*array.as_ptr().cast::<ffi::PyByteArrayObject>()).ob_exports != 0 }
}

/// Appends at most `capacity` bytes, which `fill` writes in place.
///
/// `fill` returns how many bytes it has initialised, from the first on; it must not run Python
/// code. Runs no Python code itself, provided that the array is not exported.
pub fn append_filled_by<'py>(
    array: &Bound<'py, PyByteArray>,
    capacity: usize,
    fill: impl FnOnce(&mut [MaybeUninit<u8>]) -> io::Result<usize>,
) -> PyOutcome<'py, io::Result<usize>> {
    with_locked(array, || append_to_locked(array, capacity, fill))
}

fn append_to_locked<'py>(
    array: &Bound<'py, PyByteArray>,
    capacity: usize,
    fill: impl FnOnce(&mut [MaybeUninit<u8>]) -> io::Result<usize>,
) -> PyOutcome<'py, io::Result<usize>> {
    let py = array.py();
    let start = array.len();
    let resize = |size: usize| {
        // SAFETY: a live bytearray; a size that overflows is rejected as negative.
        match unsafe { ffi::PyByteArray_Resize(array.as_ptr(), size as ffi::Py_ssize_t) } {
            0 => Ok(()),
            _ => Err(Raised::take(py)),
        }
    };
    resize(start.saturating_add(capacity))?;
    // SAFETY: the array has `start + capacity` bytes, and no other code accesses it while `fill`
    // runs, since it is locked and `fill` runs no Python code.
    let target = unsafe {
        let content = ffi::PyByteArray_AsString(array.as_ptr()).cast::<MaybeUninit<u8>>();
        std::slice::from_raw_parts_mut(content.add(start), capacity)
    };
    let filled = fill(target);
    let length = *filled.as_ref().unwrap_or(&0);
    assert!(length <= capacity, "more bytes written than fit");
    if length < capacity {
        if let Err(raised) = resize(start + length) {
            // The array kept its size: its uninitialised rest must not be read.
            target[length..].fill(MaybeUninit::new(0));
            return Err(raised);
        }
    }
    Ok(filled)
}

/// Appends a copy of `bytes`. Runs no Python code, provided that the array is not exported.
pub fn append<'py>(array: &Bound<'py, PyByteArray>, bytes: &[u8]) -> PyOutcome<'py, ()> {
    let filled = append_filled_by(array, bytes.len(), |target| {
        for (place, &byte) in target.iter_mut().zip(bytes) {
            place.write(byte);
        }
        Ok(bytes.len())
    })?;
    debug_assert!(filled.is_ok(), "copying does not fail");
    Ok(())
}

/// Removes at most `length` bytes from the beginning of the array and returns a copy of them.
///
/// # Errors
/// BufferError if the array is exported. Runs no Python code.
pub fn take_front<'py>(
    array: &Bound<'py, PyByteArray>,
    length: usize,
) -> PyOutcome<'py, Bound<'py, PyBytes>> {
    with_locked(array, || take_front_of_locked(array, length))
}

fn take_front_of_locked<'py>(
    array: &Bound<'py, PyByteArray>,
    length: usize,
) -> PyOutcome<'py, Bound<'py, PyBytes>> {
    let py = array.py();
    let length = length.min(array.len());
    let taken = with_bytes(array.as_any(), |bytes| PyBytes::new(py, &bytes[..length]))?;
    // SAFETY: a live bytearray, which owns its memory; the part is within its length.
    match unsafe { ffi::PySequence_DelSlice(array.as_ptr(), 0, length as ffi::Py_ssize_t) } {
        0 => Ok(taken),
        _ => Err(Raised::take(py)),
    }
}

/// A view of an object's memory, released when dropped.
struct View(ffi::Py_buffer);

impl View {
    fn of<'py>(object: &Bound<'py, PyAny>, flags: std::ffi::c_int) -> PyOutcome<'py, Self> {
        let mut view = Self(ffi::Py_buffer::new());
        // SAFETY: a live object and a valid pointer for the view.
        if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &mut view.0, flags) } != 0 {
            // Nothing was acquired: the view has no object, and releasing it does nothing.
            return Err(Raised::take(object.py()));
        }
        Ok(view)
    }

    fn parts(&self) -> (*mut u8, usize) {
        let length = self.0.len.unsigned_abs();
        if length == 0 {
            return (std::ptr::NonNull::dangling().as_ptr(), 0);
        }
        (self.0.buf.cast(), length)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: acquired once and released once; users hold the GIL as long as they hold the
        // view.
        unsafe { ffi::PyBuffer_Release(&mut self.0) };
    }
}

/// Calls `body` with the contiguous bytes of any object with the buffer protocol. `body` must not
/// run Python code; acquiring and releasing the buffer may.
pub fn with_bytes<'py, R>(
    object: &Bound<'py, PyAny>,
    body: impl FnOnce(&[u8]) -> R,
) -> PyOutcome<'py, R> {
    let view = View::of(object, ffi::PyBUF_SIMPLE)?;
    let (start, length) = view.parts();
    // SAFETY: the view keeps the memory in place; nothing writes to it while `body` runs, since
    // the GIL is held and `body` runs no Python code.
    Ok(body(unsafe { std::slice::from_raw_parts(start, length) }))
}

/// As [`with_bytes`], for writing.
pub fn with_writable_bytes<'py, R>(
    object: &Bound<'py, PyAny>,
    body: impl FnOnce(&mut [MaybeUninit<u8>]) -> R,
) -> PyOutcome<'py, R> {
    let view = View::of(object, ffi::PyBUF_WRITABLE)?;
    let (start, length) = view.parts();
    // SAFETY: as above, and the view is writable.
    Ok(body(unsafe { std::slice::from_raw_parts_mut(start.cast(), length) }))
}

/// `memoryview(object)`.
///
/// # Errors
/// Those of the object's buffer protocol. Acquiring the memory may run Python code.
pub fn view<'py>(object: &Bound<'py, PyAny>) -> PyOutcome<'py, Bound<'py, PyAny>> {
    // SAFETY: a live object; returns an owned reference, or null with an exception set.
    let view = unsafe {
        Bound::from_owned_ptr_or_opt(object.py(), ffi::PyMemoryView_FromObject(object.as_ptr()))
    };
    view.ok_or_else(|| Raised::take(object.py()))
}

/// `memoryview(object)[start:end]`: a part of an object's memory, without a copy.
///
/// # Errors
/// Those of the object's buffer protocol. Acquiring the memory may run Python code.
pub fn slice_view<'py>(
    object: &Bound<'py, PyAny>,
    range: std::ops::Range<usize>,
) -> PyOutcome<'py, Bound<'py, PyAny>> {
    let py = object.py();
    let view = view(object)?;
    let (start, end) = (range.start as ffi::Py_ssize_t, range.end as ffi::Py_ssize_t);
    // SAFETY: live objects; returns an owned reference or null. Memoryviews are sequences and clip
    // the indices.
    let part = unsafe {
        Bound::from_owned_ptr_or_opt(py, ffi::PySequence_GetSlice(view.as_ptr(), start, end))
    };
    part.ok_or_else(|| Raised::take(py))
}

#[cfg(test)]
mod tests {
    use pyo3::types::PyMemoryView;

    use super::*;

    /// Panics on an exception.
    fn ok<T>(outcome: PyOutcome<'_, T>) -> T {
        outcome.unwrap_or_else(|raised| panic!("{}", PyErr::from(raised)))
    }

    fn filling(content: &[u8]) -> impl FnOnce(&mut [MaybeUninit<u8>]) -> io::Result<usize> {
        move |target| {
            for (place, &byte) in target.iter_mut().zip(content) {
                place.write(byte);
            }
            Ok(content.len())
        }
    }

    #[test]
    fn bytes_are_as_long_as_what_was_written() {
        Python::initialize();
        Python::attach(|py| {
            for (capacity, content) in [(2, &b""[..]), (2, b"a"), (2, b"ab"), (200_000, b"abc")] {
                let bytes = ok(bytes_filled_by(py, capacity, filling(content)));
                assert_eq!(bytes.expect("no error").as_bytes(), content);
            }
            let failed = ok(bytes_filled_by(py, 10, |_| Err(io::ErrorKind::WouldBlock.into())));
            assert!(failed.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
        });
    }

    #[test]
    fn an_array_grows_by_what_was_written() {
        Python::initialize();
        Python::attach(|py| {
            let array = PyByteArray::new(py, b"head");
            assert_eq!(ok(append_filled_by(&array, 100, filling(b"tail"))).expect("no error"), 4);
            ok(append(&array, b"!"));
            assert_eq!(array.to_vec(), b"headtail!");
            let failed =
                ok(append_filled_by(&array, 7, |_| Err(io::ErrorKind::Interrupted.into())));
            assert!(failed.is_err());
            assert_eq!(array.to_vec(), b"headtail!");

            let view = PyMemoryView::from(&array).expect("a view");
            assert!(is_exported(&array));
            assert!(append(&array, b"refused").is_err());
            drop(view);
            assert!(!is_exported(&array));
            assert_eq!(array.to_vec(), b"headtail!");
        });
    }

    #[test]
    #[should_panic(expected = "more bytes written than fit")]
    fn a_count_that_cannot_be_is_refused() {
        Python::initialize();
        Python::attach(|py| drop(bytes_filled_by(py, 4, |_| Ok(5)).ok()));
    }

    #[test]
    fn memory_is_borrowed_from_any_contiguous_object() {
        Python::initialize();
        Python::attach(|py| {
            let array = PyByteArray::new(py, b"abc");
            let sum =
                ok(with_bytes(&array, |bytes| bytes.iter().map(|&b| u32::from(b)).sum::<u32>()));
            assert_eq!(sum, 294);
            ok(with_writable_bytes(&array, |target| {
                target[1].write(b'x');
            }));
            assert_eq!(array.to_vec(), b"axc");
            assert!(with_writable_bytes(&PyBytes::new(py, b"constant"), |_| ()).is_err());
            assert!(with_bytes(&py.None().into_bound(py), |_| ()).is_err());
            let middle = ok(slice_view(&array, 1..2));
            assert_eq!(ok(with_bytes(&middle, <[u8]>::to_vec)), b"x");
        });
    }
}
