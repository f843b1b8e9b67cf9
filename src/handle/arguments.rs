//! Positional arguments of a callback, without a tuple for the common short lists.

#![forbid(unsafe_code)]

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::ffi::call;
use crate::ffi::cell::Traverse;
use crate::ffi::exception::PyOutcome;
use crate::ffi::method::Arguments;

/// Arguments kept until the callback runs.
#[derive(Default)]
pub enum CallbackArguments {
    /// The handle was cancelled: `handle._args is None`.
    #[default]
    Cleared,
    /// `callback()`.
    Empty,
    /// `callback(argument)`.
    One(Py<PyAny>),
    /// `callback(*arguments)`.
    Many(Py<PyTuple>),
}

impl CallbackArguments {
    /// The positional arguments of a call from `start` on.
    #[inline(always)]
    pub fn from_call(arguments: &Arguments<'_, '_>, start: usize) -> PyResult<Self> {
        match arguments.len().saturating_sub(start) {
            0 => Ok(Self::Empty),
            1 => Ok(arguments
                .get(start)
                .map_or(Self::Empty, |one| Self::One(one.to_owned().unbind()))),
            _ => Ok(Self::Many(arguments.tuple_from(start)?.unbind())),
        }
    }

    /// The items of a tuple.
    pub fn from_tuple(tuple: Bound<'_, PyTuple>) -> Self {
        if tuple.is_empty() { Self::Empty } else { Self::Many(tuple.unbind()) }
    }

    /// Another reference to the same arguments.
    #[inline(always)]
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Cleared => Self::Cleared,
            Self::Empty => Self::Empty,
            Self::One(argument) => Self::One(argument.clone_ref(py)),
            Self::Many(arguments) => Self::Many(arguments.clone_ref(py)),
        }
    }

    /// The arguments as a tuple, `None` once cleared.
    pub fn to_tuple<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        Ok(match self {
            Self::Cleared => None,
            Self::Empty => Some(PyTuple::empty(py)),
            Self::One(argument) => Some(PyTuple::new(py, [argument])?),
            Self::Many(arguments) => Some(arguments.bind(py).clone()),
        })
    }

    /// `callback(*self)`. Runs Python code.
    #[inline(always)]
    pub fn call<'py>(&self, callback: &Bound<'py, PyAny>) -> PyOutcome<'py, Bound<'py, PyAny>> {
        let py = callback.py();
        match self {
            Self::Cleared | Self::Empty => call::call0(callback),
            Self::One(argument) => call::call1(callback, argument.bind(py)),
            Self::Many(arguments) => call::call_tuple(callback, arguments.bind(py)),
        }
    }
}

impl Traverse for CallbackArguments {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Cleared | Self::Empty => Ok(()),
            Self::One(argument) => visit.call(argument),
            Self::Many(arguments) => visit.call(arguments),
        }
    }
}
