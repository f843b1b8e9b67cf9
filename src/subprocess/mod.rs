//! Child processes: noticing their exit.
//!
//! asyncio's own code makes the process and its transports; see `ferroloop.subprocesses`.

#![forbid(unsafe_code)]

#[cfg(any(target_os = "linux", target_os = "android"))]
mod exit_watch;

#[cfg(any(target_os = "linux", target_os = "android"))]
pub use exit_watch::watch;

/// There are no process descriptors here: the caller must wait in a thread.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn watch<'py>(
    _scheduler: &pyo3::Bound<'py, crate::scheduler::Scheduler>,
    _pid: i32,
    _callback: pyo3::Bound<'py, pyo3::PyAny>,
    _argument: pyo3::Bound<'py, pyo3::PyAny>,
) -> pyo3::PyResult<bool> {
    Ok(false)
}
