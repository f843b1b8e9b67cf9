//! Which objects `write()` and `sendto()` take, by asyncio's rules.

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};

/// Whether `write()` takes it, by asyncio's rules.
pub fn is_data(data: &Bound<'_, PyAny>) -> bool {
    data.is_instance_of::<PyBytes>()
        || data.is_instance_of::<PyByteArray>()
        || data.is_instance_of::<PyMemoryView>()
}

/// Refuses what is no data; `wanted` is what the message asks for.
///
/// # Errors
/// TypeError with asyncio's text.
pub fn check_data(data: &Bound<'_, PyAny>, wanted: &str) -> PyResult<()> {
    if is_data(data) {
        return Ok(());
    }
    let name = data.get_type().getattr(intern!(data.py(), "__name__"))?.repr()?;
    Err(PyTypeError::new_err(format!("data argument must be {wanted}, not {name}")))
}
