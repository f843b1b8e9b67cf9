//! The Python package that is built into a Rust program.

use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::IntoPyDict;

use crate::api::native_module;
use crate::event_loop::EventLoop;
use crate::ffi::interpreter;

/// Module names and sources.
static SOURCES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/python_sources.rs"));

const NATIVE: &str = "ferroloop._ferroloop";

/// Whether the importer is installed. Locked while a thread installs it.
static INSTALLED: Mutex<bool> = Mutex::new(false);

/// Makes `import ferroloop` find this program's own copy. Further calls have no effect.
///
/// ```
/// use pyo3::prelude::*;
///
/// # fn main() -> PyResult<()> {
/// Python::initialize();
/// Python::attach(|py| {
///     ferroloop::register(py)?;
///     let event_loop = py.import("ferroloop")?.call_method0("new_event_loop")?;
///     event_loop.call_method0("close").map(drop)
/// })
/// # }
/// ```
///
/// # Errors
/// ImportError if another copy of ferroloop, for example an installed wheel, was imported before,
/// or if this is a sub-interpreter.
pub fn register(py: Python<'_>) -> PyResult<()> {
    interpreter::claim(py)?;
    let modules = py.import("sys")?.getattr("modules")?;
    if let Ok(native) = modules.get_item(NATIVE) {
        if native.getattr("EventLoop")?.is(py.get_type::<EventLoop>()) {
            return Ok(());
        }
        return Err(PyImportError::new_err("another copy of ferroloop is imported already"));
    }
    let mut installed = INSTALLED.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner);
    if *installed {
        return Ok(());
    }
    let native = native_module::object(py)?;
    native.setattr("__name__", NATIVE)?;
    native.setattr("__package__", "ferroloop")?;
    let importer = PyModule::from_code(
        py,
        std::ffi::CString::new(include_str!("importer.py"))?.as_c_str(),
        c"embedded/importer.py",
        c"_ferroloop_importer",
    )?;
    importer.call_method1("install", (SOURCES.iter().copied().into_py_dict(py)?, native))?;
    *installed = true;
    Ok(())
}
