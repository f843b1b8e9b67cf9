//! The critical section that a thread has entered last, which CPython keeps in the thread state.
//!
//! The C API can only enter one, and does that slowly where the thread has locked the same object
//! already, in a section that is not its last: it spins for a while, as if another thread had it.

use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;

use super::thread_state::{common_offset, words_equal_to};

/// Byte offset in a thread state; 0 if unknown.
static LAST: AtomicUsize = AtomicUsize::new(0);

/// Number of words of a thread state that [`probe_layout`] searches: fewer than any version has, and
/// more than those up to the section.
const WORDS: usize = 32;

/// The bits of the word that are no part of the pointer: whether the section is suspended, which it is
/// not in an attached thread, and whether it has two mutexes.
const TAGS: usize = 3;

/// `PyCriticalSection`.
#[repr(C)]
struct CriticalSection {
    previous: usize,
    mutex: *mut c_void,
}

/// The thread's last section, if the offset is known: `None` for no section.
#[inline(always)]
fn last() -> Option<Option<*const CriticalSection>> {
    let offset = LAST.load(Ordering::Relaxed);
    if offset == 0 {
        return None;
    }
    // SAFETY: attached, so there is a thread state, in which `probe_layout` has found the word.
    let word = unsafe { ffi::PyThreadState_Get().byte_add(offset).cast::<usize>().read() };
    let section = (word & !TAGS) as *const CriticalSection;
    Some((!section.is_null()).then_some(section))
}

/// Where this thread is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the section of the object, which it has entered last.
    InIt,
    /// In a section, which it has entered last, of another object.
    InAnother,
    /// In no section.
    Outside,
    /// The offset is unknown.
    Unknown,
}

/// Where this thread is in respect of the section of `object`.
#[inline(always)]
pub fn place(object: &Bound<'_, PyAny>) -> Place {
    // SAFETY: attached, and a live object.
    unsafe { place_of(object.as_ptr()) }
}

/// As [`place`].
///
/// # Safety
/// The thread must be attached, and `object` live.
#[inline(always)]
pub unsafe fn place_of(object: *mut ffi::PyObject) -> Place {
    match last() {
        None => Place::Unknown,
        Some(None) => Place::Outside,
        // SAFETY: the section is in a frame of this thread that has not ended; a live object.
        Some(Some(section)) => unsafe {
            let mutex = (&raw mut (*object).ob_mutex).cast::<c_void>();
            if (*section).mutex == mutex { Place::InIt } else { Place::InAnother }
        },
    }
}

/// Whether the offset is known.
pub fn is_known() -> bool {
    LAST.load(Ordering::Relaxed) != 0
}

/// Finds the offset.
///
/// # Errors
/// MemoryError.
pub fn probe_layout(py: Python<'_>) -> PyResult<()> {
    let (first, second) = (py.get_type::<PyAny>().call0()?, py.get_type::<PyAny>().call0()?);
    let found = common_offset(&words_in_section(&first), &words_in_section(&second));
    LAST.store(found.unwrap_or(0), Ordering::Relaxed);
    // Not in the section of the import.
    let is_right = place(&first) != Place::InIt
        && with_critical_section(&first, || {
            place(&first) == Place::InIt && place(&second) == Place::InAnother
        });
    if !is_right {
        LAST.store(0, Ordering::Relaxed);
    }
    Ok(())
}

/// For each word of the thread state, whether it refers to a section of `object` on the stack.
fn words_in_section(object: &Bound<'_, PyAny>) -> Vec<bool> {
    let mut section = CriticalSection { previous: 0, mutex: std::ptr::null_mut() };
    let pointer = (&raw mut section).cast::<ffi::PyCriticalSection>();
    // SAFETY: attached; the section does not move until it ends, and a thread state has at least
    // `WORDS` words.
    unsafe {
        ffi::PyCriticalSection_Begin(pointer, object.as_ptr());
        let words = words_equal_to(pointer as usize, WORDS);
        ffi::PyCriticalSection_End(pointer);
        words
    }
}
