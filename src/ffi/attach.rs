//! Entering Rust from a C slot or method that CPython calls.

use pyo3::prelude::*;

/// Runs `body` with the token of a thread that CPython has called us on, so is attached.
///
/// PyO3 must count the entry, or references dropped inside are only queued; while the
/// interpreter finalizes it refuses to, and queueing is harmless then.
///
/// # Safety
/// The thread must be attached to the interpreter.
#[inline(always)]
pub unsafe fn entered<R>(body: impl for<'py> FnOnce(Python<'py>) -> R) -> R {
    let mut body = Some(body);
    let mut run = |py: Python<'_>| {
        body.take().map(|body| body(py)).expect("runs once: here or below, never both")
    };
    match Python::try_attach(&mut run) {
        Some(result) => result,
        // SAFETY: attached by the contract of this function.
        None => run(unsafe { Python::assume_attached() }),
    }
}
