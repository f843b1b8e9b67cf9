//! Sends the crate's `tracing` events to Python's `logging`, to stderr as `FERROLOOP_LOG` asks, or
//! to the subscriber of a Rust host, which is never replaced.
//!
//! Events come from cold paths only: the loop starts and stops, transports open and are lost,
//! children, slow turns. Their targets begin with `ferroloop::`; the logger `ferroloop.transport`
//! is that of `ferroloop::transport`. An event that no logger wants costs one load and a
//! comparison.
//!
//! An event may come in any thread, without the GIL, or while a cell is borrowed. So it is queued,
//! and passed to Python when a loop polls or stops.
//!
//! * `subscriber.rs`: the `tracing` layer that turns events into records;
//! * `queue.rs`: the queue of records;
//! * `levels.rs`: the levels of Python's loggers.

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

/// Installs the subscriber, unless one is installed. Called when a loop begins to run.
///
/// # Errors
/// ValueError if `FERROLOOP_LOG` is not a valid filter.
pub fn install(py: Python<'_>) -> PyResult<()> {
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    if INSTALLED.load(Ordering::Relaxed) {
        return Ok(());
    }
    if has_been_set() {
        INSTALLED.store(true, Ordering::Relaxed);
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
    // Another thread may have installed one first; keep that.
    let installed = set_global_default(dispatch).is_ok();
    INSTALLED.store(true, Ordering::Relaxed);
    TO_PYTHON.store(installed && to_python, Ordering::Relaxed);
    Ok(())
}

/// Passes the queued records to Python, and checks whether the levels of loggers have changed. Runs
/// Python code only if there are records. Must be called while no cell is borrowed.
#[inline(always)]
pub fn flush(py: Python<'_>) {
    if TO_PYTHON.load(Ordering::Relaxed) {
        levels::refresh(py);
        queue::deliver(py);
    }
}
