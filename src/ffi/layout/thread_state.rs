//! Words of the interpreter's thread state that no function gives at the price of reading them.
//!
//! Where they are is found by experiment when the module is made; what is not found is not used.

use pyo3::ffi;
use pyo3::prelude::*;

/// Which of the first words of this thread's state refer to `object`.
///
/// # Safety
/// A thread state of the running interpreter must have so many words.
pub unsafe fn places_of(object: &Bound<'_, PyAny>, words: usize) -> Vec<bool> {
    // SAFETY: attached; the words are part of the thread state by the contract of this function,
    // and initialised, since it is zeroed when made.
    let words = unsafe {
        let thread = ffi::PyThreadState_Get().cast::<usize>();
        std::slice::from_raw_parts(thread, words)
    };
    words.iter().map(|&word| word == object.as_ptr() as usize).collect()
}

/// The byte offset of the one word that referred to the first object, then to the second.
pub fn common_place(first: &[bool], second: &[bool]) -> Option<usize> {
    let both = first.iter().zip(second).map(|(one, other)| *one && *other);
    let mut places = both.enumerate().filter_map(|(index, found)| found.then_some(index));
    let index = places.next()?;
    places.next().is_none().then_some(index * size_of::<usize>())
}
