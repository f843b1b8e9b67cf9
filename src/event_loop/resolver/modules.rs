//! The functions of `socket` and `_socket`, and whether the program has replaced them.
//!
//! Tests and proxies replace `socket.getaddrinfo`; then their function must be called. The first
//! call here may come after a replacement, so a function counts as genuine only if it can be
//! nothing but the standard library's own.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCFunction, PyDict, PyModule};

/// The standard library's functions, which are used while they are not replaced.
pub struct Functions<'py> {
    /// `_socket.getaddrinfo`.
    pub getaddrinfo: Bound<'py, PyAny>,
}

struct Modules {
    /// The namespaces of `socket` and `_socket`.
    socket: Py<PyDict>,
    native: Py<PyDict>,
    getaddrinfo: Option<Py<PyAny>>,
    native_getaddrinfo: Option<Py<PyAny>>,
    getnameinfo: Option<Py<PyAny>>,
}

fn modules(py: Python<'_>) -> PyResult<&'static Modules> {
    static MODULES: PyOnceLock<Modules> = PyOnceLock::new();
    MODULES.get_or_try_init(py, || {
        let socket = py.import("socket")?;
        let native = py.import("_socket")?;
        let of_native = |name: &str| -> PyResult<Option<Py<PyAny>>> {
            let function = native.getattr(name)?;
            Ok(is_builtin_of(&function, &native, name)?.then(|| function.unbind()))
        };
        let function = socket.getattr("getaddrinfo")?;
        let genuine = is_function_of(&function, &socket, "getaddrinfo")?;
        Ok(Modules {
            getaddrinfo: genuine.then(|| function.unbind()),
            native_getaddrinfo: of_native("getaddrinfo")?,
            getnameinfo: of_native("getnameinfo")?,
            socket: socket.dict().unbind(),
            native: native.dict().unbind(),
        })
    })
}

/// Whether `function` was defined by the source of `module`.
fn is_function_of(
    function: &Bound<'_, PyAny>,
    module: &Bound<'_, PyModule>,
    name: &str,
) -> PyResult<bool> {
    let py = function.py();
    let (Some(globals), Some(code)) =
        (function.getattr_opt("__globals__")?, function.getattr_opt("__code__")?)
    else {
        return Ok(false);
    };
    // A wrapper may copy the attributes of the wrapped function, but has its own code.
    Ok(globals.is(module.dict())
        && code.getattr(intern!(py, "co_name"))?.eq(name)?
        && code.getattr(intern!(py, "co_freevars"))?.is_empty()?)
}

/// Whether `function` is a built-in function of `module`.
fn is_builtin_of(
    function: &Bound<'_, PyAny>,
    module: &Bound<'_, PyModule>,
    name: &str,
) -> PyResult<bool> {
    Ok(function.is_instance_of::<PyCFunction>()
        && function.getattr("__self__")?.is(module)
        && function.getattr("__name__")?.eq(name)?)
}

/// The functions to use; None if `socket.getaddrinfo` is not the standard library's.
#[inline]
pub fn genuine(py: Python<'_>) -> PyResult<Option<Functions<'_>>> {
    let modules = modules(py)?;
    let (Some(function), Some(native)) = (&modules.getaddrinfo, &modules.native_getaddrinfo) else {
        return Ok(None);
    };
    let name = intern!(py, "getaddrinfo");
    let here = modules.socket.bind(py).get_item(name)?.is_some_and(|now| now.is(function))
        && modules.native.bind(py).get_item(name)?.is_some_and(|now| now.is(native));
    Ok(here.then(|| Functions { getaddrinfo: native.bind(py).clone() }))
}

/// The current `socket.getaddrinfo`, replaced or not.
pub fn current_getaddrinfo(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.import(intern!(py, "socket"))?.getattr(intern!(py, "getaddrinfo"))
}

/// The current `socket.getnameinfo`, replaced or not.
pub fn current_getnameinfo(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.import(intern!(py, "socket"))?.getattr(intern!(py, "getnameinfo"))
}

/// Whether `function` is the standard library's own `getnameinfo`.
pub fn is_genuine_getnameinfo(function: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = function.py();
    Ok(modules(py)?.getnameinfo.as_ref().is_some_and(|genuine| function.is(genuine)))
}
