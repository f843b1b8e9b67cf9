//! Restricts the crate to one interpreter.

use std::ops::Range;
use std::sync::atomic::{AtomicI64, Ordering};

use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;

/// Claims the crate for this interpreter. All other interpreters of the process are refused, since
/// the crate keeps objects in statics.
///
/// # Errors
/// ImportError in any other interpreter.
pub fn claim(_py: Python<'_>) -> PyResult<()> {
    const UNCLAIMED: i64 = -1;
    static OWNER: AtomicI64 = AtomicI64::new(UNCLAIMED);
    // SAFETY: attached, so there is a current interpreter.
    let current = unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) };
    match OWNER.compare_exchange(UNCLAIMED, current, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => Ok(()),
        Err(owner) if owner == current => Ok(()),
        Err(owner) => Err(PyImportError::new_err(format!(
            "ferroloop does not support subinterpreters: this process uses it in interpreter \
             {owner}, and this is interpreter {current}"
        ))),
    }
}

/// The memory in which CPython keeps its runtime state, with the lock of the main interpreter's GIL:
/// an estimate, for telling in diagnostics what a thread waits for. Empty if it is not known.
pub fn runtime_state() -> Range<usize> {
    /// More than the state takes in any version.
    const SIZE: usize = 2 << 20;
    // SAFETY: looks a name up in the loaded libraries; the address is never dereferenced.
    let start = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"_PyRuntime".as_ptr()) } as usize;
    if start == 0 { 0..0 } else { start..start.saturating_add(SIZE) }
}
