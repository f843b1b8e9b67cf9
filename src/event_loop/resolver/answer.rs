//! Converts the result of libc's `getaddrinfo()` to that of `socket.getaddrinfo`.

use std::ffi::CStr;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyList, PyString, PyTuple};

use crate::interop::error::os_error;
use crate::interop::{address, imports};
use crate::sys::resolve::{AddressInfo, LookupError};

/// The list for a result of libc.
///
/// # Errors
/// The exceptions of `socket.getaddrinfo`.
pub fn to_python(
    py: Python<'_>,
    answer: Result<Vec<AddressInfo>, LookupError>,
) -> PyResult<Bound<'_, PyAny>> {
    let list = PyList::empty(py);
    for entry in answer.map_err(|failure| to_error(py, &failure))? {
        let family = member(imports::address_family(py)?, &PyInt::new(py, entry.family))?;
        let kind = member(imports::socket_kind(py)?, &PyInt::new(py, entry.kind))?;
        let canonical_name = match &entry.canonical_name {
            Some(name) => PyString::from_bytes(py, name.to_bytes())?,
            None => intern!(py, "").clone(),
        };
        let address = address::to_python(py, &entry.address)?;
        list.append((family, kind, entry.protocol, canonical_name, address))?;
    }
    Ok(list.into_any())
}

#[cold]
fn to_error(py: Python<'_>, failure: &LookupError) -> PyErr {
    match failure {
        LookupError::System(error) => os_error(py, error),
        LookupError::Resolver(code, text) => {
            resolver_error(py, *code, text).unwrap_or_else(|error| error)
        }
    }
}

fn resolver_error(py: Python<'_>, code: i32, text: &CStr) -> PyResult<PyErr> {
    let text = PyString::from_bytes(py, text.to_bytes())?;
    Ok(PyErr::from_value(imports::gaierror(py)?.call1((code, text))?))
}

/// Replaces address family and socket kind in each entry by their enum members, as
/// `socket.getaddrinfo` does.
pub fn with_enums(entries: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyAny>> {
    let py = entries.py();
    let entries = entries.cast_into::<PyList>()?;
    let converted = PyList::empty(py);
    for entry in &entries {
        let entry = entry.cast_into::<PyTuple>()?;
        let mut items: Vec<_> = entry.iter().collect();
        if let [family, kind, ..] = items.as_mut_slice() {
            *family = member(imports::address_family(py)?, family)?;
            *kind = member(imports::socket_kind(py)?, kind)?;
        }
        converted.append(PyTuple::new(py, items)?)?;
    }
    Ok(converted.into_any())
}

/// The enum member for a number; the number itself if there is none.
fn member<'py>(
    enumeration: &Bound<'py, PyAny>,
    number: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let members = enumeration.getattr(pyo3::intern!(number.py(), "_value2member_map_"))?;
    match members.get_item(number) {
        Ok(member) => Ok(member),
        Err(_) => Ok(number.clone()),
    }
}
