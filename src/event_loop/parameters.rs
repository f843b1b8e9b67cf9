//! Parameters of the hand-written methods. The errors are those of asyncio's signatures.

use pyo3::Borrowed;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::ffi::method::Arguments;

/// The required parameter `name`, given at position `index` or by keyword.
///
/// # Errors
/// TypeError if it is missing.
#[inline(always)]
pub(super) fn required<'a, 'py>(
    arguments: &Arguments<'a, 'py>,
    index: usize,
    name: &str,
) -> PyResult<Borrowed<'a, 'py, PyAny>> {
    match arguments.get(index) {
        Some(argument) => Ok(argument),
        None => by_keyword(arguments, name),
    }
}

#[cold]
fn by_keyword<'a, 'py>(
    arguments: &Arguments<'a, 'py>,
    name: &str,
) -> PyResult<Borrowed<'a, 'py, PyAny>> {
    let mut named = None;
    arguments.for_each_keyword(|keyword, value| {
        if keyword.to_str()? == name {
            named = Some(value);
        }
        Ok(())
    })?;
    named.ok_or_else(|| missing(arguments, &[name]))
}

/// TypeError for missing parameters.
#[cold]
pub(super) fn missing(arguments: &Arguments<'_, '_>, names: &[&str]) -> PyErr {
    let method = arguments.method();
    let count = names.len();
    let plural = if count == 1 { "" } else { "s" };
    let names = names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(" and ");
    PyTypeError::new_err(format!(
        "BaseEventLoop.{method}() missing {count} required positional argument{plural}: {names}"
    ))
}

/// TypeError for an unexpected keyword argument.
#[cold]
pub(super) fn unexpected(arguments: &Arguments<'_, '_>, keyword: &str) -> PyErr {
    let method = arguments.method();
    PyTypeError::new_err(format!(
        "BaseEventLoop.{method}() got an unexpected keyword argument '{keyword}'"
    ))
}
