//! Calls of Python by Tokio's threads, on a loop that is not ferroloop's.
//!
//! Before 3.14, CPython ends a thread that waits for the GIL while the interpreter exits, by
//! unwinding its stack, and Rust aborts the process then. Such a call is over when the loop has seen
//! its effect, but the thread may still wait. So the interpreter waits for these calls before it
//! exits, and later ones are not made.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyCFunction;

struct Calls {
    running: usize,
    is_exiting: bool,
    is_registered: bool,
}

static CALLS: Mutex<Calls> =
    Mutex::new(Calls { running: 0, is_exiting: false, is_registered: false });
static ENDED: Condvar = Condvar::new();

/// The process that made the calls: a forked child has none of the threads.
static PROCESS: AtomicU32 = AtomicU32::new(0);

fn calls() -> MutexGuard<'static, Calls> {
    CALLS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Must be called before [`attach`], with the GIL held.
pub fn prepare(py: Python<'_>) -> PyResult<()> {
    PROCESS.store(std::process::id(), Ordering::Relaxed);
    {
        let mut calls = calls();
        // A function that is called at exit may run a loop.
        calls.is_exiting = false;
        if std::mem::replace(&mut calls.is_registered, true) {
            return Ok(());
        }
    }
    let wait = PyCFunction::new_closure(py, None, None, |arguments, _| {
        arguments.py().detach(wait_for_calls);
    })?;
    py.import("atexit")?.call_method1("register", (wait,)).map(drop)
}

fn wait_for_calls() {
    if PROCESS.load(Ordering::Relaxed) != std::process::id() {
        return;
    }
    let mut calls = calls();
    calls.is_exiting = true;
    while calls.running > 0 {
        calls = ENDED.wait(calls).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Calls `function` with the GIL held, unless the interpreter exits.
pub fn attach(function: impl FnOnce(Python<'_>)) {
    struct Running;

    impl Drop for Running {
        fn drop(&mut self) {
            calls().running -= 1;
            ENDED.notify_all();
        }
    }

    let running = {
        let mut calls = calls();
        if calls.is_exiting {
            return;
        }
        calls.running += 1;
        Running
    };
    Python::try_attach(function);
    drop(running);
}
