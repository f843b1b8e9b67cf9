//! Enters Rust from a C slot or method that CPython calls.

use pyo3::prelude::*;

use crate::ffi::thread_exit;

/// Runs `body` with a token for the thread on which CPython has called us, which is attached.
///
/// PyO3 must count the entry, since otherwise references dropped inside are only queued. While the
/// interpreter finalizes it refuses to; then queueing is harmless.
///
/// # Safety
/// The thread must be attached to the interpreter.
#[inline(always)]
pub unsafe fn with_attached<R>(body: impl for<'py> FnOnce(Python<'py>) -> R) -> R {
    thread_exit::protect();
    let mut body = Some(body);
    let mut run = |py: Python<'_>| {
        body.take().map(|body| body(py)).expect("runs once: here or below, never both")
    };
    match Python::try_attach(&mut run) {
        Some(result) => result,
        // SAFETY: the caller guarantees that the thread is attached.
        None => run(unsafe { Python::assume_attached() }),
    }
}
