//! Methods of the C classes of `_ssl`, looked up once: these classes are immutable and their
//! instances have no attributes, so their methods cannot be replaced.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

use crate::ffi::call;
use crate::ffi::exception::PyOutcome;

/// `Py_TPFLAGS_IMMUTABLETYPE`.
const IMMUTABLE: u64 = 1 << 8;

/// One class and its methods.
pub struct SslClass {
    class: Py<PyAny>,
    read: Py<PyAny>,
    write: Py<PyAny>,
}

impl SslClass {
    fn find(py: Python<'_>, name: &str) -> PyResult<Option<Self>> {
        let class = py.import("_ssl")?.getattr(name)?;
        let flags: u64 = class.getattr("__flags__")?.extract()?;
        if flags & IMMUTABLE == 0 {
            return Ok(None);
        }
        let (read, write) = (class.getattr("read")?, class.getattr("write")?);
        Ok(Some(Self { class: class.unbind(), read: read.unbind(), write: write.unbind() }))
    }

    /// `_ssl.MemoryBIO`; `None` if its methods may be replaced.
    pub fn memory_bio(py: Python<'_>) -> Option<&Self> {
        static CELL: PyOnceLock<Option<SslClass>> = PyOnceLock::new();
        CELL.get_or_init(py, || Self::find(py, "MemoryBIO").unwrap_or(None)).as_ref()
    }

    /// `_ssl._SSLSocket`; `None` if its methods may be replaced.
    pub fn ssl_socket(py: Python<'_>) -> Option<&Self> {
        static CELL: PyOnceLock<Option<SslClass>> = PyOnceLock::new();
        CELL.get_or_init(py, || Self::find(py, "_SSLSocket").unwrap_or(None)).as_ref()
    }

    /// The class, if it is exactly that of `object`.
    #[inline]
    pub(in crate::ffi) fn of<'a>(
        class: Option<&'a Self>,
        object: &Bound<'_, PyAny>,
    ) -> Option<&'a Self> {
        class.filter(|class| object.get_type_ptr().cast() == class.class.as_ptr())
    }
}

/// Calls `object.read(*arguments)`, by the cached method if `object` is of exactly `class`.
#[inline]
pub fn read<'py, const N: usize>(
    class: Option<&SslClass>,
    object: &Bound<'py, PyAny>,
    arguments: [&Bound<'py, PyAny>; N],
) -> PyOutcome<'py, Bound<'py, PyAny>> {
    let known = SslClass::of(class, object).map(|class| &class.read);
    call(known, object, intern!(object.py(), "read"), arguments)
}

/// Calls `object.write(*arguments)`, by the cached method if `object` is of exactly `class`.
#[inline]
pub fn write<'py, const N: usize>(
    class: Option<&SslClass>,
    object: &Bound<'py, PyAny>,
    arguments: [&Bound<'py, PyAny>; N],
) -> PyOutcome<'py, Bound<'py, PyAny>> {
    let known = SslClass::of(class, object).map(|class| &class.write);
    call(known, object, intern!(object.py(), "write"), arguments)
}

/// Calls the known method or, without one, the attribute of `object`.
#[inline]
fn call<'py, const N: usize>(
    known: Option<&Py<PyAny>>,
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    arguments: [&Bound<'py, PyAny>; N],
) -> PyOutcome<'py, Bound<'py, PyAny>> {
    match known {
        Some(method) => call::call_unbound(method.bind(object.py()), object, arguments),
        None => call::call_method(object, name, arguments),
    }
}
