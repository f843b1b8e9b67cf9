//! `_watch_child()`, which `subprocess_exec()` and `subprocess_shell()` use
//! (`python/ferroloop/subprocesses.py`).

use pyo3::prelude::*;

use super::EventLoop;
use crate::subprocess;

#[pymethods]
impl EventLoop {
    /// Arrange for `callback(argument, exit_code)` to be called when the child has ended. The code
    /// is None if other code has reaped the child. Return False if a thread must wait for it.
    fn _watch_child<'py>(
        slf: &Bound<'py, Self>,
        pid: i32,
        callback: Bound<'py, PyAny>,
        argument: Bound<'py, PyAny>,
    ) -> PyResult<bool> {
        subprocess::watch(slf.as_super(), pid, callback, argument)
    }
}
