//! Finds words of the interpreter's thread state for which the C API has no function that is as
//! cheap as a load.
//!
//! Their offsets are found by experiment when the module is initialised; a word that is not found
//! is not used. Each file that needs a word makes the experiment and has the number of words to
//! search, which differs between releases: `context.rs`, `running_task.rs` and
//! `critical_section.rs`.

use pyo3::ffi;
use pyo3::prelude::*;

/// For each of the first `words` words of this thread's state, whether it refers to `object`.
///
/// # Safety
/// A thread state of the running interpreter must have at least `words` words.
pub unsafe fn words_referring_to(object: &Bound<'_, PyAny>, words: usize) -> Vec<bool> {
    // SAFETY: attached; guaranteed by the caller.
    unsafe { words_equal_to(object.as_ptr() as usize, words) }
}

/// For each of the first `words` words of this thread's state, whether it is `value`.
///
/// # Safety
/// The thread must be attached, and a thread state of the running interpreter must have at least
/// `words` words.
pub unsafe fn words_equal_to(value: usize, words: usize) -> Vec<bool> {
    // SAFETY: attached; the caller guarantees that the words are part of the thread state, which
    // CPython zeroes when it creates it.
    let words = unsafe {
        let thread = ffi::PyThreadState_Get().cast::<usize>();
        std::slice::from_raw_parts(thread, words)
    };
    words.iter().map(|&word| word == value).collect()
}

/// The byte offset of the only word that referred to the first object and then to the second.
pub fn common_offset(first: &[bool], second: &[bool]) -> Option<usize> {
    let both = first.iter().zip(second).map(|(one, other)| *one && *other);
    let mut places = both.enumerate().filter_map(|(index, found)| found.then_some(index));
    let index = places.next()?;
    places.next().is_none().then_some(index * size_of::<usize>())
}
