//! Names of keyword arguments, compared by address.

use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::prelude::*;
use pyo3::types::PyString;
use pyo3::{Borrowed, ffi};

/// The keyword of methods that take a context.
pub static CONTEXT: KeywordName = KeywordName::new("context");

/// The name of a keyword argument. Python code passes the interned string, asyncio's C code a
/// string of its own.
pub struct KeywordName {
    text: &'static str,
    /// The first equal strings that callers have passed; never released.
    known: [AtomicPtr<ffi::PyObject>; 2],
}

impl KeywordName {
    /// A name of which no string is known yet.
    pub const fn new(text: &'static str) -> Self {
        let unknown = std::ptr::null_mut();
        Self { text, known: [AtomicPtr::new(unknown), AtomicPtr::new(unknown)] }
    }

    /// Whether `keyword` is this name. Runs no Python code.
    #[inline(always)]
    pub fn is(&self, keyword: Borrowed<'_, '_, PyString>) -> bool {
        let [first, second] = &self.known;
        let address = keyword.as_ptr();
        address == first.load(Ordering::Relaxed)
            || address == second.load(Ordering::Relaxed)
            || self.compare_text(keyword)
    }

    #[cold]
    fn compare_text(&self, keyword: Borrowed<'_, '_, PyString>) -> bool {
        if !keyword.to_str().is_ok_and(|keyword| keyword == self.text) {
            return false;
        }
        let free = self.known.iter().find(|known| known.load(Ordering::Relaxed).is_null());
        if let Some(free) = free {
            free.store(keyword.to_owned().into_ptr(), Ordering::Relaxed);
        }
        true
    }
}
