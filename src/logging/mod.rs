//! Where the crate's `tracing` events go: to Python's `logging`, to stderr as `FERROLOOP_LOG` asks,
//! or to the subscriber of a Rust host, which is never replaced.
//!
//! Events come at cold edges only: the loop starts and stops, transports open and are lost, children,
//! slow turns. Their targets begin with `ferroloop::`; the logger `ferroloop.transport` is that of
//! `ferroloop::transport`. What nobody wants costs one load and a comparison.
//!
//! An event may come in any thread, without the GIL, or while a cell is lent: so it is put into
//! a queue, and handed to Python when a loop polls or stops (`queue.rs`).

#![forbid(unsafe_code)]

mod levels;
mod queue;
mod subscriber;

use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use tracing::Dispatch;
use tracing::dispatcher::{has_been_set, set_global_default};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;

/// Whether events go to Python.
static TO_PYTHON: AtomicBool = AtomicBool::new(false);

/// Finds the events a way out, unless they have one. To be called when a loop begins to run.
///
/// # Errors
/// ValueError for a `FERROLOOP_LOG` that is no filter.
pub fn install(py: Python<'_>) -> PyResult<()> {
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.load(Ordering::Relaxed) {
        return Ok(());
    }
    if has_been_set() {
        DONE.store(true, Ordering::Relaxed);
        return Ok(());
    }
    let filter = std::env::var("FERROLOOP_LOG").ok().filter(|filter| !filter.is_empty());
    let to_python = filter.is_none();
    let dispatch = match filter {
        Some(filter) => {
            let filter = EnvFilter::try_new(&filter).map_err(|error| {
                PyValueError::new_err(format!("FERROLOOP_LOG {filter:?}: {error}"))
            })?;
            let format =
                tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
            Dispatch::new(tracing_subscriber::registry().with(filter).with(format))
        }
        None => {
            levels::read(py)?;
            Dispatch::new(tracing_subscriber::registry().with(subscriber::ToPython))
        }
    };
    // Another thread may have been quicker, and is right then.
    let installed = set_global_default(dispatch).is_ok();
    DONE.store(true, Ordering::Relaxed);
    TO_PYTHON.store(installed && to_python, Ordering::Relaxed);
    Ok(())
}

/// Hands over what is queued, and looks whether loggers have got other levels. Runs Python code
/// only if there is something to hand over. To be called when no cell is lent.
#[inline(always)]
pub fn settle(py: Python<'_>) {
    if TO_PYTHON.load(Ordering::Relaxed) {
        levels::keep_up(py);
        queue::deliver(py);
    }
}
