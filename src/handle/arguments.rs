//! Positional arguments of a callback, without a tuple for the common short lists.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::ffi::call;
use crate::ffi::exception::PyOutcome;
use crate::ffi::method::Arguments;
use crate::ffi::objects::cell::Traverse;

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

    /// Converts the arguments, without touching reference counts.
    #[inline(always)]
    pub fn into_bound(self, py: Python<'_>) -> BoundArguments<'_> {
        match self {
            Self::Cleared => BoundArguments::Cleared,
            Self::Empty => BoundArguments::Empty,
            Self::One(argument) => BoundArguments::One(argument.into_bound(py)),
            Self::Many(arguments) => BoundArguments::Many(arguments.into_bound(py)),
        }
    }

    /// New references to the arguments, for use while Python code may clear the handle.
    #[inline(always)]
    pub fn bound<'py>(&self, py: Python<'py>) -> BoundArguments<'py> {
        match self {
            Self::Cleared => BoundArguments::Cleared,
            Self::Empty => BoundArguments::Empty,
            Self::One(argument) => BoundArguments::One(argument.bind(py).clone()),
            Self::Many(arguments) => BoundArguments::Many(arguments.bind(py).clone()),
        }
    }
}

/// [`CallbackArguments`] held for the duration of a call.
pub enum BoundArguments<'py> {
    /// As [`CallbackArguments::Cleared`].
    Cleared,
    /// As [`CallbackArguments::Empty`].
    Empty,
    /// As [`CallbackArguments::One`].
    One(Bound<'py, PyAny>),
    /// As [`CallbackArguments::Many`].
    Many(Bound<'py, PyTuple>),
}

impl<'py> BoundArguments<'py> {
    /// The arguments as a tuple, `None` once cleared.
    pub fn to_tuple(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        Ok(match self {
            Self::Cleared => None,
            Self::Empty => Some(PyTuple::empty(py)),
            Self::One(argument) => Some(PyTuple::new(py, [argument])?),
            Self::Many(arguments) => Some(arguments.clone()),
        })
    }

    /// `callback(*self)`. Runs Python code.
    #[inline(always)]
    pub fn call(&self, callback: &Bound<'py, PyAny>) -> PyOutcome<'py, Bound<'py, PyAny>> {
        match self {
            Self::Cleared | Self::Empty => call::call0(callback),
            Self::One(argument) => call::call1(callback, argument),
            Self::Many(arguments) => call::call_tuple(callback, arguments),
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
