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
        _ => segment_of(definition),
    }
}

/// The writable segment of a library that contains `address`: its data, without the memory that
/// happens to be mapped behind it, in which any number may stand.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn segment_of(address: usize) -> (*const AtomicU64, usize) {
    struct Search {
        address: usize,
        found: (usize, usize),
    }

    unsafe extern "C" fn look(
        library: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        search: *mut std::ffi::c_void,
    ) -> libc::c_int {
        // SAFETY: the linker passes a valid description with so many program headers, and the
        // pointer from below.
        let (base, headers, search) = unsafe {
            let library = &*library;
            let count = usize::from(library.dlpi_phnum);
            let headers = std::slice::from_raw_parts(library.dlpi_phdr, count);
            (library.dlpi_addr as usize, headers, &mut *search.cast::<Search>())
        };
        for header in headers {
            let start = base.wrapping_add(header.p_vaddr as usize);
            let end = start.wrapping_add(header.p_memsz as usize);
            let is_data = header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W != 0;
            if is_data && (start..end).contains(&search.address) {
                search.found = (start.next_multiple_of(8), end);
                return 1;
            }
        }
        0
    }

    let mut search = Search { address, found: (0, 0) };
    // SAFETY: the function is called with the pointer, before this returns.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut search).cast()) };
    let (start, end) = search.found;
    (std::ptr::with_exposed_provenance(start), end.saturating_sub(start) / 8)
}

/// Not known on this system.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn segment_of(_address: usize) -> (*const AtomicU64, usize) {
    (std::ptr::null(), 0)
}
