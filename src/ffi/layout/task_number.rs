//! The counter for automatic task names. It is asyncio's own, since tasks of both kinds exist side
//! by side and only names tell them apart.
//!
//! It is a word in the data of asyncio's C module for which no symbol exists, so it is found by
//! experiment: the only word that equals the number of each new task. If there is no such word, or
//! several, the tasks of this crate have their own counter.

use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;

/// Number of tasks to create for the experiment.
const PROBE_TASKS: usize = 4;

static FALLBACK: AtomicU64 = AtomicU64::new(0);
/// The counter, which holds the number of the last task.
static COUNTER: AtomicPtr<AtomicU64> = AtomicPtr::new((&raw const FALLBACK).cast_mut());

/// The number of a new task.
#[inline(always)]
pub fn next(_py: Python<'_>) -> u64 {
    // SAFETY: a static of this crate, or a word of the C module, which is never unloaded; only
    // written with the GIL held, as here, or on free-threaded builds as an atomic.
    let counter = unsafe { &*COUNTER.load(Ordering::Relaxed) };
    if cfg!(Py_GIL_DISABLED) {
        return counter.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    }
    let number = counter.load(Ordering::Relaxed).wrapping_add(1);
    counter.store(number, Ordering::Relaxed);
    number
}

/// Whether the counter is asyncio's.
pub fn is_shared() -> bool {
    !std::ptr::addr_eq(COUNTER.load(Ordering::Relaxed), &raw const FALLBACK)
}

/// Searches for the counter of `module`; `make` creates one of its tasks and returns its number.
/// Returns whether the counter was found.
pub fn probe(module: &Bound<'_, PyModule>, make: &Bound<'_, PyAny>) -> PyResult<bool> {
    let (start, words) = data_of(module);
    let word = |index: usize| {
        // SAFETY: `index` is below `words`, and `words` words are readable from `start` on, since
        // the data of a module does not move. Other threads may write there meanwhile.
        unsafe { &*start.add(index) }
    };
    let mut number = 0;
    let mut candidates: Vec<usize> = (0..words).collect();
    for _ in 0..PROBE_TASKS {
        number = make.call0()?.extract()?;
        candidates.retain(|index| word(*index).load(Ordering::Relaxed) == number);
    }
    let [index] = candidates[..] else { return Ok(false) };
    // Reuse the numbers of the tasks of this experiment.
    word(index).store(number - PROBE_TASKS as u64, Ordering::Relaxed);
    COUNTER.store(start.wrapping_add(index).cast_mut(), Ordering::Relaxed);
    Ok(true)
}

/// The address and the number of the module's data words: its state, or (3.11) its static data.
fn data_of(module: &Bound<'_, PyModule>) -> (*const AtomicU64, usize) {
    // SAFETY: attached, and a live module; its definition, if there is one, is static.
    let (definition, state, size) = unsafe {
        let definition = ffi::PyModule_GetDef(module.as_ptr());
        let size = if definition.is_null() { 0 } else { (*definition).m_size };
        (definition as usize, ffi::PyModule_GetState(module.as_ptr()), size)
    };
    match usize::try_from(size) {
        Ok(size) if !state.is_null() => (state.cast_const().cast(), size / 8),
        _ => mapping_of(definition),
    }
}

/// The writable mapping that contains `address`, and the one right behind it: the initialised and
/// the zero-initialised data of a library.
fn mapping_of(address: usize) -> (*const AtomicU64, usize) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut found: Option<(usize, usize)> = None;
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (Some(range), Some(mode)) = (fields.next(), fields.next()) else { continue };
        let Some((start, end)) = range.split_once('-') else { continue };
        let parsed = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16));
        let (Ok(start), Ok(end)) = parsed else { continue };
        let is_named = fields.nth(3).is_some();
        match found {
            None if (start..end).contains(&address) && mode.starts_with("rw") => {
                found = Some((start, end));
            }
            Some((first, last)) if start == last && mode.starts_with("rw") && !is_named => {
                found = Some((first, end));
                break;
            }
            Some(_) => break,
            None => {}
        }
    }
    let (start, end) = found.unwrap_or_default();
    (std::ptr::with_exposed_provenance(start), (end - start) / 8)
}
