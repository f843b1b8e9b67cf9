//! Memory that C code reads and writes: a reusable buffer with the buffer protocol, of which one
//! part at a time is visible.
//!
//! All loops share a pool of buffers, so no connection owns one. A [`BufferLease`] is the only user
//! of its buffer, also while the interpreter releases the GIL. If other code keeps a view (a
//! subclass of `ssl.SSLObject` may), the buffer cannot be reused: from then on Rust never accesses
//! its memory, and it does not return to the pool.

use std::cell::Cell;
use std::cell::UnsafeCell;
use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
#[cfg(Py_GIL_DISABLED)]
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::ffi::buffer::{self, UninitBytes, bytes_filled_by};
use crate::ffi::entries::without_section;
use crate::ffi::exception::{OrRaise, PyOutcome, Raised};
use crate::ffi::objects::buffer_parts::{Memory, ViewCount};
use crate::ffi::objects::process_state::per_thread;
use crate::ffi::ssl_class::{self, SslClass};
#[cfg(Py_GIL_DISABLED)]
use crate::ffi::thread_pointer::thread_pointer;

/// Bytes in a buffer: the size of one receive, plus two TLS records left over from the previous
/// one.
pub const CAPACITY: usize = 288 * 1024;
/// Maximum number of pooled buffers.
const POOL_CAPACITY: usize = 4;

per_thread!(static POOL: Vec<Py<SharedBuffer>> = Vec::new());

/// A buffer of fixed size; `memoryview()` shows the part that was chosen last.
#[pyclass(frozen, module = "ferroloop._ferroloop")]
pub struct SharedBuffer {
    memory: UnsafeCell<Memory>,
    /// How many bytes are initialised, from the first on.
    written: Cell<usize>,
    start: Cell<usize>,
    length: Cell<usize>,
    /// The thread that has leased it, in which alone views can be made.
    #[cfg(Py_GIL_DISABLED)]
    thread: AtomicUsize,
    /// Number of views that are not released yet.
    views: ViewCount,
}

// SAFETY: with a GIL every access needs it; without one, every access but the release of a view is
// made by the thread that has leased the buffer. Rust borrows or replaces the memory only while no
// view exists, so views stay valid for the life of the object that they refer to.
unsafe impl Sync for SharedBuffer {}

/// The exclusive use of a buffer, which returns to the pool when this is dropped.
pub struct BufferLease<'py>(Bound<'py, SharedBuffer>);

impl<'py> BufferLease<'py> {
    /// Takes a buffer from the pool, or creates one.
    ///
    /// # Errors
    /// MemoryError.
    pub fn new(py: Python<'py>) -> PyOutcome<'py, Self> {
        if let Some(buffer) = POOL.with(py, Vec::pop) {
            #[cfg(Py_GIL_DISABLED)]
            buffer.get().thread.store(thread_pointer(), Ordering::Relaxed);
            return Ok(Self(buffer.into_bound(py)));
        }
        Self::make(py, Memory::Own(vec![0; CAPACITY].into_boxed_slice()))
    }

    /// A lease of a new buffer of `capacity` bytes (2 or more) that becomes a bytes object without
    /// a copy, by [`BufferLease::into_bytes`]. [`BufferLease::read_from`] writes to it; the rest is
    /// uninitialised, and the other methods refuse to read it.
    ///
    /// # Errors
    /// MemoryError.
    pub fn of_new_bytes(py: Python<'py>, capacity: usize) -> PyOutcome<'py, Self> {
        let bytes = UninitBytes::new(py, capacity)?;
        // SAFETY: the lease is the only owner, and reads only what was written.
        Self::make(py, Memory::Bytes(unsafe { bytes.into_object() }.unbind()))
    }

    fn make(py: Python<'py>, memory: Memory) -> PyOutcome<'py, Self> {
        let written = match &memory {
            Memory::Own(block) => block.len(),
            Memory::Bytes(_) => 0,
        };
        let buffer = SharedBuffer {
            memory: UnsafeCell::new(memory),
            written: Cell::new(written),
            start: Cell::new(0),
            length: Cell::new(0),
            #[cfg(Py_GIL_DISABLED)]
            thread: AtomicUsize::new(thread_pointer()),
            views: ViewCount::default(),
        };
        Bound::new(py, buffer).map(Self).or_raise(py)
    }

    /// The size of the buffer in bytes.
    pub fn capacity(&self) -> usize {
        self.memory().len()
    }

    fn memory(&self) -> &Memory {
        // SAFETY: the GIL is held; it is replaced only by `into_bytes`, which consumes this.
        unsafe { &*self.0.get().memory.get() }
    }

    /// The buffer object, of which Python code sees `part`.
    ///
    /// # Panics
    /// If `part` is not inside the part that was written.
    pub fn view(&self, part: Range<usize>) -> &Bound<'py, PyAny> {
        self.check_written(&part);
        self.expose(part)
    }

    /// The buffer object, of which Python code sees `part`, which is inside the buffer.
    fn expose(&self, part: Range<usize>) -> &Bound<'py, PyAny> {
        let buffer = self.0.get();
        buffer.start.set(part.start);
        buffer.length.set(part.len());
        self.0.as_any()
    }

    /// Has `object.read(size, buffer)` write to the buffer from `start` on. Returns the number that
    /// it returned, but no larger one than fits.
    ///
    /// Only the C method of `class` is known to write as many bytes as it says. For any other one
    /// the bytes are set to 0 before.
    ///
    /// # Errors
    /// What the method raises, and TypeError or OverflowError if it returns no such number.
    ///
    /// # Panics
    /// If `start` is not inside the part that was written.
    pub fn read_from(
        &self,
        start: usize,
        class: Option<&SslClass>,
        object: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, usize> {
        let py = self.0.py();
        let capacity = self.capacity();
        self.check_written(&(start..start));
        if SslClass::of(class, object).is_none() {
            self.initialise();
        }
        let size = (capacity - start).into_pyobject(py).or_raise(py)?;
        let count = ssl_class::read(class, object, [&size, self.expose(start..capacity)]);
        self.0.get().length.set(0);
        let count = count?.extract::<usize>().or_raise(py)?.min(capacity - start);
        // SAFETY: OpenSSL has written `count` bytes from `start` on, up to which the buffer was
        // written before; or `initialise` has written all.
        unsafe { self.assume_written(start + count) };
        Ok(count)
    }

    /// Notes that the first `length` bytes were written.
    ///
    /// # Safety
    /// They were, and are inside the buffer.
    unsafe fn assume_written(&self, length: usize) {
        let written = &self.0.get().written;
        written.set(written.get().max(length));
    }

    /// Sets the bytes that were not written to 0.
    #[cold]
    fn initialise(&self) {
        let (written, capacity) = (self.0.get().written.get(), self.capacity());
        // SAFETY: the part is inside the buffer, of which no other code reads or writes this part:
        // the lease is exclusive, and what was not written was not shown.
        unsafe {
            let start = (&mut *self.0.get().memory.get()).start();
            start.add(written).write_bytes(0, capacity - written);
            self.assume_written(capacity);
        }
    }

    /// # Panics
    /// If `part` is not inside the part that was written.
    fn check_written(&self, part: &Range<usize>) {
        let written = self.0.get().written.get();
        assert!(part.start <= part.end && part.end <= written, "a part of what was written");
    }

    fn check_no_views(&self) -> PyOutcome<'py, ()> {
        if self.0.get().views.is_zero() {
            return Ok(());
        }
        let error = PyBufferError::new_err("a view of the buffer was kept");
        Err(Raised::of(self.0.py(), error))
    }

    /// Calls `body`, which must not run Python code, with a mutable borrow of `part` of the memory.
    ///
    /// # Errors
    /// BufferError if other code has kept a view.
    ///
    /// # Panics
    /// As [`BufferLease::view`].
    pub fn with<R>(
        &self,
        part: Range<usize>,
        body: impl FnOnce(&mut [u8]) -> R,
    ) -> PyOutcome<'py, R> {
        let buffer = self.0.get();
        self.check_written(&part);
        self.check_no_views()?;
        // SAFETY: the lease is exclusive, no view exists, and `body` runs no Python code, so this
        // is the only reference; the GIL is held, as the lifetime proves. The part is inside the
        // buffer, and was written.
        Ok(body(unsafe {
            let start = (&mut *buffer.memory.get()).start();
            std::slice::from_raw_parts_mut(start.add(part.start), part.len())
        }))
    }

    /// Lets `fill` write to `target`, another buffer, from `start` on, what it makes of `part` of
    /// this one. It returns how many bytes it wrote, and runs no Python code. Errors and panics are
    /// those of [`BufferLease::with`].
    pub(in crate::ffi) fn with_target(
        &self,
        part: Range<usize>,
        (target, start): (&Self, usize),
        fill: impl FnOnce(&[u8], &mut [MaybeUninit<u8>]) -> usize,
    ) -> PyOutcome<'py, ()> {
        assert!(!self.0.is(&target.0), "another buffer");
        target.check_written(&(start..start));
        target.check_no_views()?;
        let room = target.capacity() - start;
        let count = self.with(part, |input| {
            // SAFETY: as in `with`; the bytes need not be initialised.
            let memory = unsafe { (&mut *target.0.get().memory.get()).start().add(start).cast() };
            // SAFETY: as above.
            fill(input, unsafe { std::slice::from_raw_parts_mut(memory, room) })
        })?;
        assert!(count <= room, "more bytes written than fit");
        // SAFETY: up to `start` it was written before, and the rest by `fill`, which is ours.
        unsafe { target.assume_written(start + count) };
        Ok(())
    }

    /// Lets `fill` write to the first `length` bytes; it returns how many it wrote. Errors and panics
    /// are those of [`BufferLease::with`].
    pub fn fill(
        &self,
        length: usize,
        fill: impl FnOnce(&mut [MaybeUninit<u8>]) -> io::Result<usize>,
    ) -> PyOutcome<'py, io::Result<usize>> {
        self.with(0..length, |bytes| {
            // SAFETY: initialised bytes are valid as `MaybeUninit`; `fill` is ours, and only writes
            // bytes that the kernel received.
            let bytes = unsafe { &mut *(std::ptr::from_mut(bytes) as *mut [MaybeUninit<u8>]) };
            fill(bytes)
        })
    }

    /// The first `length` bytes as a bytes object: a copy, unless the buffer was made by
    /// [`BufferLease::of_new_bytes`]. Errors and panics are those of [`BufferLease::with`].
    ///
    /// # Errors
    /// Also MemoryError.
    pub fn into_bytes(self, length: usize) -> PyOutcome<'py, Bound<'py, PyBytes>> {
        if matches!(self.memory(), Memory::Own(_)) {
            return self.to_bytes(0..length);
        }
        self.check_written(&(0..length));
        self.check_no_views()?;
        let buffer = self.0.get();
        buffer.start.set(0);
        buffer.length.set(0);
        buffer.written.set(0);
        // SAFETY: no view exists, so nothing else refers to the memory; the GIL is held.
        let memory = unsafe { buffer.memory.get().replace(Memory::Own(Box::default())) };
        match memory {
            Memory::Bytes(bytes) => buffer::shrink(bytes.into_bound(self.0.py()), length),
            Memory::Own(_) => unreachable!("looked at above"),
        }
    }

    /// A copy of `part` as a bytes object.
    ///
    /// # Errors
    /// As [`BufferLease::with`], and MemoryError.
    pub fn to_bytes(&self, part: Range<usize>) -> PyOutcome<'py, Bound<'py, PyBytes>> {
        let py = self.0.py();
        let length = part.len();
        self.with(part, |content| {
            let content = &*content;
            bytes_filled_by(py, length.max(2), |bytes| {
                // SAFETY: initialised bytes are valid as `MaybeUninit`.
                let content =
                    unsafe { &*(std::ptr::from_ref(content) as *const [MaybeUninit<u8>]) };
                bytes[..length].copy_from_slice(content);
                Ok(length)
            })
        })??
        .map_err(|error| {
            let error = PyErr::from(error);
            Raised::of(py, error)
        })
    }
}

impl Drop for BufferLease<'_> {
    fn drop(&mut self) {
        let buffer = self.0.get();
        buffer.length.set(0);
        let own = matches!(self.memory(), Memory::Own(block) if block.len() == CAPACITY);
        if !buffer.views.is_zero() || !own {
            return;
        }
        let kept = self.0.clone().unbind();
        // If the pool is full, dropped after the borrow of the pool.
        let surplus = POOL.with(self.0.py(), |pool| {
            if pool.len() < POOL_CAPACITY {
                pool.push(kept);
                None
            } else {
                Some(kept)
            }
        });
        drop(surplus);
    }
}

without_section!(SharedBuffer);

#[pymethods]
impl SharedBuffer {
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let buffer = slf.get();
        #[cfg(Py_GIL_DISABLED)]
        if buffer.thread.load(Ordering::Relaxed) != thread_pointer() {
            return Err(PyBufferError::new_err("the buffer belongs to a loop in another thread"));
        }
        // SAFETY: `view` is a valid pointer passed by the caller of the slot; the memory lives as
        // long as the object, to which the view takes a reference; start and length are inside it.
        let filled = unsafe {
            let memory = (*buffer.memory.get()).start().add(buffer.start.get());
            let length = buffer.length.get() as ffi::Py_ssize_t;
            ffi::PyBuffer_FillInfo(view, slf.as_ptr(), memory.cast(), length, 0, flags)
        };
        if filled != 0 {
            return Err(PyErr::fetch(slf.py()));
        }
        buffer.views.add();
        Ok(())
    }

    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        self.views.remove();
    }

    fn __len__(&self) -> usize {
        #[cfg(Py_GIL_DISABLED)]
        if self.thread.load(Ordering::Relaxed) != thread_pointer() {
            return 0;
        }
        self.length.get()
    }
}

#[cfg(test)]
mod tests {
    use pyo3::types::PyDict;

    use super::*;

    fn ok<T>(outcome: PyOutcome<'_, T>) -> T {
        outcome.unwrap_or_else(|raised| panic!("{}", PyErr::from(raised)))
    }

    fn fill(lease: &BufferLease<'_>, content: &[u8]) {
        let filled = ok(lease.fill(content.len(), |memory| {
            for (place, &byte) in memory.iter_mut().zip(content) {
                place.write(byte);
            }
            Ok(content.len())
        }));
        assert_eq!(filled.expect("no system call failed"), content.len());
    }

    fn seen(lease: &BufferLease<'_>, part: Range<usize>) -> Vec<u8> {
        lease.view(part).call_method0("__len__").expect("a length");
        let bytes = lease.0.py().get_type::<PyBytes>().call1((lease.0.as_any(),));
        bytes.and_then(|bytes| bytes.extract()).expect("bytes")
    }

    #[test]
    fn python_sees_the_part_that_was_lent() {
        Python::initialize();
        Python::attach(|py| {
            let lease = ok(BufferLease::new(py));
            assert_eq!(lease.capacity(), CAPACITY);
            fill(&lease, b"0123456789");
            assert_eq!(seen(&lease, 2..5), b"234");
            assert_eq!(seen(&lease, 4..4), b"");
            assert_eq!(ok(lease.to_bytes(8..10)).as_bytes(), b"89");
            assert_eq!(ok(lease.to_bytes(3..4)).as_bytes(), b"3");
            assert_eq!(ok(lease.into_bytes(4)).as_bytes(), b"0123");
        });
    }

    /// An object with `read(size, buffer)`, which writes `written` and returns `count`.
    fn reader<'py>(py: Python<'py>, written: &[u8], count: usize) -> Bound<'py, PyAny> {
        let code = c"def read(size, buffer):
    with memoryview(buffer) as view:
        view[:len(written)] = written
    return count";
        let names = PyDict::new(py);
        names.set_item("written", PyBytes::new(py, written)).expect("a dict");
        names.set_item("count", count).expect("a dict");
        py.run(code, Some(&names), None).expect("valid code");
        let read = names.get_item("read").expect("a dict").expect("the function");
        let namespace = py.import("types").and_then(|types| types.getattr("SimpleNamespace"));
        let object = namespace.and_then(|class| class.call0()).expect("an object");
        object.setattr("read", read).expect("an object with attributes");
        object
    }

    #[test]
    fn new_bytes_are_handed_over_without_a_copy() {
        Python::initialize();
        Python::attach(|py| {
            for length in [0, 1, 7, 100] {
                let lease = ok(BufferLease::of_new_bytes(py, 100));
                let content: Vec<u8> = (0..length).collect();
                let object = reader(py, &content, content.len());
                assert_eq!(ok(lease.read_from(0, None, &object)), content.len());
                let bytes = ok(lease.into_bytes(content.len()));
                assert_eq!(bytes.as_bytes(), content);
            }
        });
    }

    #[test]
    fn a_reader_that_counts_too_many_shows_no_uninitialised_byte() {
        Python::initialize();
        Python::attach(|py| {
            let lease = ok(BufferLease::of_new_bytes(py, 100));
            assert_eq!(ok(lease.read_from(0, None, &reader(py, b"ab", 4))), 4);
            assert_eq!(ok(lease.read_from(4, None, &reader(py, b"c", 1000))), 96);
            assert_eq!(ok(lease.to_bytes(0..6)).as_bytes(), b"ab\0\0c\0");
            assert_eq!(&ok(lease.into_bytes(100)).as_bytes()[5..], [0; 95]);
        });
    }

    #[test]
    #[should_panic(expected = "a part of what was written")]
    fn what_was_not_written_is_not_read() {
        Python::initialize();
        Python::attach(|py| {
            let _ = ok(BufferLease::of_new_bytes(py, 100)).with(0..1, |_| ());
        });
    }

    #[test]
    fn memory_of_which_a_view_was_kept_is_not_used_again() {
        Python::initialize();
        Python::attach(|py| {
            let lease = ok(BufferLease::new(py));
            fill(&lease, b"kept");
            let object = lease.view(0..4).clone();
            let view = ok(buffer::view(&object));
            let refused = lease.with(0..1, |_| ());
            assert!(refused.is_err_and(|raised| raised.value().is_instance_of::<PyBufferError>()));
            drop(lease);
            let next = ok(BufferLease::new(py));
            assert!(!next.0.is(&object), "the buffer went back to the pool");
            fill(&next, b"next");
            let text: Vec<u8> =
                view.call_method0("tobytes").and_then(|b| b.extract()).expect("bytes");
            assert_eq!(text, b"kept");
        });
    }

    #[test]
    #[should_panic(expected = "a part of what was written")]
    fn a_part_outside_is_refused() {
        Python::initialize();
        Python::attach(|py| {
            let _ = ok(BufferLease::new(py)).with(CAPACITY - 1..CAPACITY + 1, |_| ());
        });
    }
}
