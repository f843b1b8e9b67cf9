//! The name of a task. Most names are never read, so the text is created on demand.

use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::ffi::objects::cell::AttachedCell;

/// A name.
#[repr(transparent)]
pub struct Name(AttachedCell<Option<Value>>);

/// `Task-N`, or a str that the program has set.
#[cfg(not(published_tasks))]
enum Value {
    Number(u64),
    Given(Py<PyAny>),
}

/// An int N, which stands for `Task-N`, or a str that the program has set. Tools read it.
#[cfg(published_tasks)]
type Value = Py<PyAny>;

impl Name {
    pub fn none() -> Self {
        Self(AttachedCell::new(None))
    }

    /// Makes it `Task-N`.
    #[inline(always)]
    pub fn set_number(&self, py: Python<'_>, number: u64) {
        #[cfg(not(published_tasks))]
        let value = Some(Value::Number(number));
        #[cfg(published_tasks)]
        let value = match number.into_pyobject(py) {
            Ok(number) => Some(number.into_any().unbind()),
        };
        drop(self.0.replace(py, value));
    }

    /// Makes it a text.
    pub fn set_text(&self, text: Bound<'_, PyAny>) {
        let py = text.py();
        #[cfg(not(published_tasks))]
        drop(self.0.replace(py, Some(Value::Given(text.unbind()))));
        #[cfg(published_tasks)]
        self.0.store(py, Some(text));
    }

    /// The text; None if there is none yet.
    pub fn text<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        match self.number_or_text(py) {
            Some(Ok(number)) => PyString::new(py, &format!("Task-{number}")).into_any(),
            Some(Err(text)) => text,
            None => py.None().into_bound(py),
        }
    }

    #[cfg(not(published_tasks))]
    fn number_or_text<'py>(&self, py: Python<'py>) -> Option<Result<u64, Bound<'py, PyAny>>> {
        self.0.inspect(py, |value| match value {
            Some(Value::Number(number)) => Some(Ok(*number)),
            Some(Value::Given(text)) => Some(Err(text.bind(py).clone())),
            None => None,
        })
    }

    #[cfg(published_tasks)]
    fn number_or_text<'py>(&self, py: Python<'py>) -> Option<Result<u64, Bound<'py, PyAny>>> {
        let value = self.0.get_bound(py)?;
        Some(value.extract::<u64>().map_err(|_| value))
    }

    /// Drops it.
    #[inline(always)]
    pub fn release(&self, py: Python<'_>) {
        #[cfg(published_tasks)]
        self.0.store(py, None);
        #[cfg(not(published_tasks))]
        let _ = py;
    }
}
