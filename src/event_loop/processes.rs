//! `_watch_child`, on which `subprocess_exec` and `subprocess_shell` build.

#![forbid(unsafe_code)]

use pyo3::prelude::*;

use super::EventLoop;
use crate::subprocess;

#[pymethods]
impl EventLoop {
    /// Have `callback(argument, exit_code)` called once the child has ended, with None for the
    /// code if somebody else has reaped it. Return False if a thread must wait for it.
    fn _watch_child<'py>(
        slf: &Bound<'py, Self>,
        pid: i32,
        callback: Bound<'py, PyAny>,
        argument: Bound<'py, PyAny>,
    ) -> PyResult<bool> {
        subprocess::watch(slf.as_super(), pid, callback, argument)
    }
}
