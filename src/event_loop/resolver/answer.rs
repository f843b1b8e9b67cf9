//! From `_socket.getaddrinfo`'s numbers to the enumerations of `socket.getaddrinfo`.

#![forbid(unsafe_code)]

use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::interop::imports;

/// Replaces address family and socket kind in each entry by the members of their enumerations,
/// as `socket.getaddrinfo` does.
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

/// The member for a number; the number itself if there is none.
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
