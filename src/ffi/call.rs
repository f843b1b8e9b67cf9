//! Calls of user code that return a raised exception as a value.
//!
//! All of these run Python code.

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyTuple;

use crate::ffi::exception::{OrRaise, PyOutcome, Raised};
use crate::ffi::thread_exit;

/// Wraps the owned result of a CPython call.
#[inline(always)]
fn outcome<'py>(py: Python<'py>, result: *mut ffi::PyObject) -> PyOutcome<'py, Bound<'py, PyAny>> {
    // SAFETY: `result` is what a CPython call returned: an owned reference, or null with an
    // exception set.
    match unsafe { Bound::from_owned_ptr_or_opt(py, result) } {
        Some(value) => Ok(value),
        None => Err(Raised::take(py)),
    }
}

/// As [`outcome`], for the result of a C function that is not called through CPython, which would
/// have refused a value together with an exception. The exception counts.
#[inline(always)]
fn checked_outcome<'py>(
    py: Python<'py>,
    result: *mut ffi::PyObject,
) -> PyOutcome<'py, Bound<'py, PyAny>> {
    let value = outcome(py, result)?;
    // SAFETY: attached; reads the thread state.
    if unsafe { ffi::PyErr_Occurred() }.is_null() { Ok(value) } else { Err(Raised::take(py)) }
}

/// `callable()`.
#[inline(always)]
pub fn call0<'py>(callable: &Bound<'py, PyAny>) -> PyOutcome<'py, Bound<'py, PyAny>> {
    static NO_ARGUMENTS: PyOnceLock<Py<PyTuple>> = PyOnceLock::new();
    let py = callable.py();
    thread_exit::protect();
    let Some(function) = call_slot(callable) else {
        // SAFETY: a live object, attached.
        return outcome(py, unsafe { ffi::PyObject_CallNoArgs(callable.as_ptr()) });
    };
    let arguments = NO_ARGUMENTS.get_or_init(py, || PyTuple::empty(py).unbind());
    // SAFETY: attached; the slot takes its object, a tuple and no keywords.
    checked_outcome(py, unsafe {
        function(callable.as_ptr(), arguments.as_ptr(), std::ptr::null_mut())
    })
}

/// `callable(argument)`.
#[inline(always)]
pub fn call1<'py>(
    callable: &Bound<'py, PyAny>,
    argument: &Bound<'py, PyAny>,
) -> PyOutcome<'py, Bound<'py, PyAny>> {
    let py = callable.py();
    thread_exit::protect();
    let Some((function, slf)) = function_of_one_argument(callable) else {
        // SAFETY: live objects, attached.
        return outcome(py, unsafe {
            ffi::PyObject_CallOneArg(callable.as_ptr(), argument.as_ptr())
        });
    };
    // SAFETY: attached; the function takes its object, which `callable` keeps alive, and one
    // argument.
    checked_outcome(py, unsafe { function(slf, argument.as_ptr()) })
}

/// `tp_call` of a class without vectorcall, such as that of the steps of asyncio's own tasks.
///
/// CPython would count a level of recursion around the call. Without that, recursion ends all the
/// same: it passes through a Python function or through another call by CPython.
#[inline(always)]
fn call_slot(callable: &Bound<'_, PyAny>) -> Option<ffi::ternaryfunc> {
    // SAFETY: a live object has a live class, of which two fields are read.
    unsafe {
        let class = ffi::Py_TYPE(callable.as_ptr());
        let has_vectorcall = ffi::PyType_HasFeature(class, ffi::Py_TPFLAGS_HAVE_VECTORCALL) != 0;
        (*class).tp_call.filter(|_| !has_vectorcall)
    }
}

/// The C function of `callable` and the object to pass to it first, if `callable` is a builtin that
/// takes exactly one argument, such as `future.set_result` or the wake-up of asyncio's own tasks.
/// For recursion see [`call_slot`].
#[inline(always)]
fn function_of_one_argument(
    callable: &Bound<'_, PyAny>,
) -> Option<(ffi::PyCFunction, *mut ffi::PyObject)> {
    // SAFETY: a live object, whose type is checked; it keeps its definition alive. The function
    // pointer is not null, and is only used for the flags of its type.
    unsafe {
        if ffi::Py_TYPE(callable.as_ptr()) != &raw mut ffi::PyCFunction_Type {
            return None;
        }
        let callable = &*callable.as_ptr().cast::<ffi::PyCFunctionObject>();
        let definition = &*callable.m_ml;
        let function = definition.ml_meth.PyCFunction;
        (definition.ml_flags == ffi::METH_O).then_some((function, callable.m_self))
    }
}

/// `callable(*arguments)`.
#[inline(always)]
pub fn call_tuple<'py>(
    callable: &Bound<'py, PyAny>,
    arguments: &Bound<'py, PyTuple>,
) -> PyOutcome<'py, Bound<'py, PyAny>> {
    thread_exit::protect();
    // SAFETY: live objects, attached; no keyword arguments.
    outcome(callable.py(), unsafe {
        ffi::PyObject_Call(callable.as_ptr(), arguments.as_ptr(), std::ptr::null_mut())
    })
}

/// `receiver.name(*arguments)` without building a tuple.
#[inline]
pub fn call_method<'py, const N: usize>(
    receiver: &Bound<'py, PyAny>,
    name: &Bound<'py, pyo3::types::PyString>,
    arguments: [&Bound<'py, PyAny>; N],
) -> PyOutcome<'py, Bound<'py, PyAny>> {
    let mut stack = smallest_stack(receiver.as_ptr());
    for (slot, argument) in stack[1..].iter_mut().zip(arguments) {
        *slot = argument.as_ptr();
    }
    thread_exit::protect();
    // SAFETY: the first `N + 1` entries are live objects (`N` is at most 3, checked below).
    outcome(receiver.py(), unsafe {
        let count = const {
            assert!(N <= 3, "call_method takes at most three arguments");
            N + 1
        };
        ffi::PyObject_VectorcallMethod(name.as_ptr(), stack.as_ptr(), count, std::ptr::null_mut())
    })
}

/// `function(receiver, *arguments)` without building a tuple.
#[inline]
pub fn call_unbound<'py, const N: usize>(
    function: &Bound<'py, PyAny>,
    receiver: &Bound<'py, PyAny>,
    arguments: [&Bound<'py, PyAny>; N],
) -> PyOutcome<'py, Bound<'py, PyAny>> {
    let mut stack = smallest_stack(receiver.as_ptr());
    for (slot, argument) in stack[1..].iter_mut().zip(arguments) {
        *slot = argument.as_ptr();
    }
    thread_exit::protect();
    // SAFETY: the first `N + 1` entries are live objects (`N` is at most 3, checked below).
    outcome(receiver.py(), unsafe {
        ffi::PyObject_Vectorcall(
            function.as_ptr(),
            stack.as_ptr(),
            const {
                assert!(N <= 3, "call_unbound takes at most three arguments");
                N + 1
            },
            std::ptr::null_mut(),
        )
    })
}

/// `receiver.name(argument, context=context)` without building a tuple or a dict.
#[inline]
pub fn call_method_in_context<'py>(
    receiver: &Bound<'py, PyAny>,
    name: &Bound<'py, pyo3::types::PyString>,
    argument: &Bound<'py, PyAny>,
    context: &Bound<'py, PyAny>,
) -> PyOutcome<'py, Bound<'py, PyAny>> {
    static KEYWORDS: PyOnceLock<Py<PyTuple>> = PyOnceLock::new();
    let py = receiver.py();
    let keywords = KEYWORDS
        .get_or_try_init(py, || PyTuple::new(py, [intern!(py, "context")]).map(Bound::unbind))
        .or_raise(py)?;
    let stack = [receiver.as_ptr(), argument.as_ptr(), context.as_ptr()];
    thread_exit::protect();
    // SAFETY: live objects: two positional ones, then the value of the one keyword.
    outcome(py, unsafe {
        ffi::PyObject_VectorcallMethod(name.as_ptr(), stack.as_ptr(), 2, keywords.as_ptr())
    })
}

const fn smallest_stack(receiver: *mut ffi::PyObject) -> [*mut ffi::PyObject; 4] {
    [receiver, std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut()]
}
