//! Checks the data of `write()` and `sendto()`, by asyncio's rules.

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};

/// Whether `write()` accepts `data`.
pub fn is_data(data: &Bound<'_, PyAny>) -> bool {
    data.is_instance_of::<PyBytes>()
        || data.is_instance_of::<PyByteArray>()
        || data.is_instance_of::<PyMemoryView>()
}

/// Checks the type of `data`; `wanted` is the phrase for the accepted types in the message.
///
/// # Errors
/// TypeError with asyncio's message.
pub fn check_data(data: &Bound<'_, PyAny>, wanted: &str) -> PyResult<()> {
    if is_data(data) {
        return Ok(());
    }
    let name = data.get_type().getattr(intern!(data.py(), "__name__"))?.repr()?;
    Err(PyTypeError::new_err(format!("data argument must be {wanted}, not {name}")))
}
