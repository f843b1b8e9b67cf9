//! Warnings that asyncio's classes issue about themselves.

use pyo3::exceptions::PyResourceWarning;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::imports;

/// Issues a ResourceWarning as from asyncio's `class.__del__`, `line` lines into that function, so
/// that warning filters by module apply and the same source line is shown. Runs Python code.
pub fn resource_warning(
    class: &Bound<'_, PyAny>,
    line: u32,
    message: &str,
    source: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let py = class.py();
    let category = py.get_type::<PyResourceWarning>();
    let keywords = PyDict::new(py);
    keywords.set_item(intern!(py, "source"), source)?;
    let finalizer = class.getattr_opt(intern!(py, "__del__"))?;
    let code = finalizer.as_ref().map(|it| it.getattr_opt(intern!(py, "__code__"))).transpose()?;
    let (Some(finalizer), Some(code)) = (finalizer, code.flatten()) else {
        // A tool has replaced it by an object without line numbers.
        imports::warn(py)?.call((message, category), Some(&keywords))?;
        return Ok(());
    };
    let globals = finalizer.getattr(intern!(py, "__globals__"))?;
    let registry = (intern!(py, "__warningregistry__"), PyDict::new(py));
    let registry = globals.call_method1(intern!(py, "setdefault"), registry)?;
    let first: u32 = code.getattr(intern!(py, "co_firstlineno"))?.extract()?;
    keywords.set_item(intern!(py, "module"), globals.get_item(intern!(py, "__name__"))?)?;
    keywords.set_item(intern!(py, "registry"), registry)?;
    let file = code.getattr(intern!(py, "co_filename"))?;
    imports::warn_explicit(py)?.call((message, category, file, first + line), Some(&keywords))?;
    Ok(())
}
