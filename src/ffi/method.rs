//! Hand-written methods for the hottest entry points.
//!
//! PyO3 packs `*args` into a tuple and parses keywords generically; a [`FastMethod`] gets the
//! interpreter's argument vector. It replaces the `#[pymethods]` entry of the same name.

use std::ffi::CStr;
use std::marker::PhantomData;

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};
use pyo3::{Borrowed, PyClass};

use crate::ffi::attach::with_attached;
use crate::ffi::keyword::KeywordName;
use crate::ffi::panic;
use crate::ffi::section::{self, Owned};

/// The arguments of one call, borrowed from the caller.
pub struct Arguments<'a, 'py> {
    py: Python<'py>,
    method: &'static CStr,
    values: &'a [*mut ffi::PyObject],
    positional: usize,
    names: Option<Borrowed<'a, 'py, PyTuple>>,
}

impl<'a, 'py> Arguments<'a, 'py> {
    /// The arguments of a function for `METH_FASTCALL | METH_KEYWORDS`.
    ///
    /// # Safety
    /// They must be those that CPython passes, and be alive during the call.
    #[inline(always)]
    pub(in crate::ffi) unsafe fn from_vectorcall(
        py: Python<'py>,
        method: &'static CStr,
        values: *const *mut ffi::PyObject,
        positional: ffi::Py_ssize_t,
        names: *mut ffi::PyObject,
    ) -> Self {
        let positional = positional.unsigned_abs();
        // SAFETY: `names` is null or a tuple that lives as long as the call.
        let names = unsafe { Borrowed::from_ptr_or_opt(py, names) }
            // SAFETY: CPython passes a tuple of strings.
            .map(|names| unsafe { names.cast_unchecked::<PyTuple>() });
        let total = positional + names.map_or(0, |names| names.len());
        let values = if total == 0 {
            &[]
        } else {
            // SAFETY: the vectorcall convention: `total` valid pointers at `values`.
            unsafe { std::slice::from_raw_parts(values, total) }
        };
        Self { py, method, values, positional, names }
    }

    /// Proof of attachment.
    #[inline(always)]
    pub fn py(&self) -> Python<'py> {
        self.py
    }

    /// The name of the called method.
    pub fn method(&self) -> &'static str {
        self.method.to_str().unwrap_or_default()
    }

    /// Number of positional arguments.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.positional
    }

    /// Whether there are keyword arguments.
    #[inline(always)]
    pub fn has_keywords(&self) -> bool {
        self.names.is_some_and(|names| !names.is_empty())
    }

    /// The keyword arguments.
    pub fn keywords(&self) -> PyResult<Bound<'py, PyDict>> {
        let keywords = PyDict::new(self.py);
        self.for_each_keyword(|name, value| keywords.set_item(name, value))?;
        Ok(keywords)
    }

    /// Whether there are no positional arguments.
    pub fn is_empty(&self) -> bool {
        self.positional == 0
    }

    /// The positional argument at `index`.
    #[inline(always)]
    pub fn get(&self, index: usize) -> Option<Borrowed<'a, 'py, PyAny>> {
        if index >= self.positional {
            return None;
        }
        // SAFETY: the caller of a vectorcall function keeps its arguments alive during the call.
        Some(unsafe { Borrowed::from_ptr(self.py, self.values[index]) })
    }

    /// New references to all arguments, for use while Python code runs: CPython before 3.12.8 and
    /// 3.13.1 passes references that are borrowed from a future, from which that code may remove
    /// them (gh-125984).
    #[cold]
    pub fn hold(&self) -> Vec<Bound<'py, PyAny>> {
        // SAFETY: as in `get`, as long as no Python code has run.
        unsafe { hold(self.py, self.values) }
    }

    /// The positional arguments from `start` on, as a tuple.
    pub fn tuple_from(&self, start: usize) -> PyResult<Bound<'py, PyTuple>> {
        let rest: Vec<_> = (start..self.positional).filter_map(|index| self.get(index)).collect();
        PyTuple::new(self.py, rest)
    }

    /// The value of the only keyword argument, if there is exactly one and it is `name`.
    #[inline(always)]
    pub fn only_keyword(&self, name: &KeywordName) -> Option<Borrowed<'a, 'py, PyAny>> {
        let names = self.names.filter(|names| names.len() == 1)?;
        // SAFETY: the tuple has one item, a string, and outlives the call.
        let keyword: Borrowed<'a, 'py, PyString> = unsafe {
            Borrowed::from_ptr(self.py, names.get_borrowed_item_unchecked(0).as_ptr())
                .cast_unchecked()
        };
        // SAFETY: keyword values follow the positional ones, as many as there are names.
        name.is(keyword)
            .then(|| unsafe { Borrowed::from_ptr(self.py, self.values[self.positional]) })
    }

    /// Calls `body` with each keyword argument.
    #[inline(always)]
    pub fn for_each_keyword(
        &self,
        mut body: impl FnMut(Borrowed<'a, 'py, PyString>, Borrowed<'a, 'py, PyAny>) -> PyResult<()>,
    ) -> PyResult<()> {
        let Some(names) = self.names else { return Ok(()) };
        for index in 0..names.len() {
            let name = names.get_borrowed_item(index)?;
            // SAFETY: the names tuple outlives the call, and so do its strings.
            let name: Borrowed<'a, 'py, PyString> =
                unsafe { Borrowed::from_ptr(self.py, name.as_ptr()).cast_unchecked() };
            // SAFETY: keyword values follow the positional ones, as many as there are names.
            let value =
                unsafe { Borrowed::from_ptr(self.py, self.values[self.positional + index]) };
            body(name, value)?;
        }
        Ok(())
    }
}

/// New references to arguments.
///
/// # Safety
/// All of them must be live objects.
pub(in crate::ffi) unsafe fn hold<'py>(
    py: Python<'py>,
    arguments: &[*mut ffi::PyObject],
) -> Vec<Bound<'py, PyAny>> {
    // SAFETY: guaranteed by the caller.
    arguments.iter().map(|argument| unsafe { Bound::from_borrowed_ptr(py, *argument) }).collect()
}

/// A method that takes the interpreter's argument vector.
pub trait FastMethod {
    /// The class of the method.
    type Class: Owned;
    /// The method's name.
    const NAME: &'static CStr;
    /// The docstring, with the signature line that `inspect` reads.
    const DOC: &'static CStr;
    /// Whether PyO3 counts the call as an entry. Without that, references that are dropped as `Py`
    /// in a thread unknown to PyO3 wait for its next entry; so only for methods that drop `Bound`s.
    const COUNTED: bool = true;

    /// Whether it runs in the section of the loop. If not, it uses no cell of it.
    const IN_SECTION: bool = true;

    /// The method itself.
    fn call<'py>(
        slf: &Bound<'py, Self::Class>,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>>;
}

/// Adds the method to its class. Called once, when the module is initialised.
pub fn install<M: FastMethod>(py: Python<'_>) -> PyResult<()> {
    let function = ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: trampoline::<M> };
    let flags = ffi::METH_FASTCALL | ffi::METH_KEYWORDS;
    // SAFETY: a function for these flags.
    unsafe { install_method::<M::Class>(py, M::NAME, M::DOC, function, flags) }
}

/// # Safety
/// `function` must have the calling convention of `flags`.
unsafe fn install_method<T: PyClass>(
    py: Python<'_>,
    name: &'static CStr,
    doc: &'static CStr,
    function: ffi::PyMethodDefPointer,
    flags: std::ffi::c_int,
) -> PyResult<()> {
    // SAFETY: guaranteed by the caller.
    unsafe { install_on_class(&py.get_type::<T>(), name, doc, function, flags) }
}

/// # Safety
/// `function` must have the calling convention of `flags`, and accept all instances of `class`.
pub(in crate::ffi) unsafe fn install_on_class(
    class: &Bound<'_, PyType>,
    name: &'static CStr,
    doc: &'static CStr,
    function: ffi::PyMethodDefPointer,
    flags: std::ffi::c_int,
) -> PyResult<()> {
    let py = class.py();
    let definition = Box::leak(Box::new(ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: function,
        ml_flags: flags,
        ml_doc: doc.as_ptr(),
    }));
    // SAFETY: the definition is leaked, so it outlives the descriptor; the class is a live type.
    let descriptor = unsafe {
        Bound::from_owned_ptr_or_err(py, ffi::PyDescr_NewMethod(class.as_type_ptr(), definition))?
    };
    class.setattr(PyString::from_bytes(py, name.to_bytes())?, descriptor)
}

unsafe extern "C" fn trampoline<M: FastMethod>(
    slf: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    positional: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let enter = |py: Python<'_>| {
        return_to_c(py, || {
            // SAFETY: the method descriptor checked that `slf` is an instance of `M::Class`; the
            // arguments are those of a vectorcall.
            let (slf, arguments) = unsafe {
                let slf = Borrowed::from_ptr(py, slf).cast_unchecked::<M::Class>();
                (slf, Arguments::from_vectorcall(py, M::NAME, values, positional, names))
            };
            if M::IN_SECTION {
                section::enter_of(&slf, || M::call(&slf, &arguments))
            } else {
                M::call(&slf, &arguments)
            }
        })
    };
    // SAFETY: CPython calls methods attached.
    unsafe { if M::COUNTED { with_attached(enter) } else { enter(Python::assume_attached()) } }
}

/// A method without arguments that returns a bool and reads only its own state: called so often, in
/// loops over futures, that the cost of entering through PyO3 shows.
pub trait Predicate {
    /// The class of the method.
    type Class: Owned;
    /// The method's name.
    const NAME: &'static CStr;
    /// The docstring, with the signature line that `inspect` reads.
    const DOC: &'static CStr;

    /// Whether it runs in the section of the loop. If not, it uses no cell of it.
    const IN_SECTION: bool = true;

    /// The result. Runs no Python code and drops nothing.
    fn holds(slf: &Bound<'_, Self::Class>) -> bool;
}

/// Adds the method to its class. Called once, when the module is initialised.
pub fn install_predicate<M: Predicate>(py: Python<'_>) -> PyResult<()> {
    let function = ffi::PyMethodDefPointer { PyCFunction: predicate::<M> };
    // SAFETY: a function for `METH_NOARGS`.
    unsafe { install_method::<M::Class>(py, M::NAME, M::DOC, function, ffi::METH_NOARGS) }
}

unsafe extern "C" fn predicate<M: Predicate>(
    slf: *mut ffi::PyObject,
    _arguments: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: CPython calls methods attached, and the descriptor checked that `slf` is an instance
    // of `M::Class`. A panic would abort; there is none.
    unsafe {
        let py = Python::assume_attached();
        let slf = Borrowed::from_ptr(py, slf).cast_unchecked::<M::Class>();
        let holds =
            if M::IN_SECTION { section::enter_of(&slf, || M::holds(&slf)) } else { M::holds(&slf) };
        ffi::Py_NewRef(if holds { ffi::Py_True() } else { ffi::Py_False() })
    }
}

/// A method without arguments. PyO3 does not count the call: see [`FastMethod::COUNTED`].
pub trait NoArguments {
    /// The class of the method.
    type Class: Owned;
    /// The method's name.
    const NAME: &'static CStr;
    /// The docstring, with the signature line that `inspect` reads.
    const DOC: &'static CStr;

    /// The method itself.
    fn call<'py>(slf: &Bound<'py, Self::Class>) -> PyResult<Bound<'py, PyAny>>;
}

/// Adds the method to its class. Called once, when the module is initialised.
pub fn install_without_arguments<M: NoArguments>(py: Python<'_>) -> PyResult<()> {
    let function = ffi::PyMethodDefPointer { PyCFunction: without_arguments::<M> };
    // SAFETY: a function for `METH_NOARGS`.
    unsafe { install_method::<M::Class>(py, M::NAME, M::DOC, function, ffi::METH_NOARGS) }
}

unsafe extern "C" fn without_arguments<M: NoArguments>(
    slf: *mut ffi::PyObject,
    _arguments: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: CPython calls methods attached, and the descriptor checked that `slf` is an instance
    // of `M::Class`.
    unsafe {
        let py = Python::assume_attached();
        let slf = Borrowed::from_ptr(py, slf).cast_unchecked::<M::Class>();
        return_to_c(py, || section::enter_of(&slf, || M::call(&slf)))
    }
}

/// A method with one positional argument that returns None. PyO3 does not count the call: see
/// [`FastMethod::COUNTED`].
pub trait OneArgument {
    /// The class of the method.
    type Class: Owned;
    /// The method's name.
    const NAME: &'static CStr;
    /// The docstring, with the signature line that `inspect` reads.
    const DOC: &'static CStr;

    /// The method itself.
    fn call<'py>(slf: &Bound<'py, Self::Class>, argument: &Bound<'py, PyAny>) -> PyResult<()>;
}

/// Adds the method to its class. Called once, when the module is initialised.
pub fn install_with_one_argument<M: OneArgument>(py: Python<'_>) -> PyResult<()> {
    let function = ffi::PyMethodDefPointer { PyCFunction: with_one_argument::<M> };
    // SAFETY: a function for `METH_O`.
    unsafe { install_method::<M::Class>(py, M::NAME, M::DOC, function, ffi::METH_O) }
}

unsafe extern "C" fn with_one_argument<M: OneArgument>(
    slf: *mut ffi::PyObject,
    argument: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: CPython calls methods attached, the descriptor checked that `slf` is an instance of
    // `M::Class`, and the caller keeps the argument alive.
    unsafe {
        let py = Python::assume_attached();
        let slf = Borrowed::from_ptr(py, slf).cast_unchecked::<M::Class>();
        let argument = Borrowed::from_ptr(py, argument);
        return_to_c(py, || {
            section::enter_of(&slf, || M::call(&slf, &argument)).map(|()| py.None().into_bound(py))
        })
    }
}

/// Runs `body` for a C function: returns an owned object, or null with an exception set.
#[inline(always)]
pub(in crate::ffi) fn return_to_c<'py>(
    py: Python<'py>,
    body: impl FnOnce() -> PyResult<Bound<'py, PyAny>>,
) -> *mut ffi::PyObject {
    match panic::catch(body) {
        Ok(Ok(value)) => value.into_ptr(),
        Ok(Err(error)) => {
            error.restore(py);
            std::ptr::null_mut()
        }
        Err(_message) => {
            PyRuntimeError::new_err("ferroloop: internal error (panic)").restore(py);
            std::ptr::null_mut()
        }
    }
}

/// A method's entry for a caller that has checked the type of `self`.
pub trait VectorCall {
    /// The class of the method.
    type Class: Owned;
    /// Its name.
    const NAME: &'static CStr;

    /// Calls the method. `None` for invalid arguments, about which the method descriptor must raise
    /// the error.
    ///
    /// # Safety
    /// The thread must be attached, `slf` an instance of the class, and the rest as in a
    /// vectorcall.
    unsafe fn vectorcall(
        slf: *mut ffi::PyObject,
        values: *const *mut ffi::PyObject,
        positional: ffi::Py_ssize_t,
        names: *mut ffi::PyObject,
    ) -> Option<*mut ffi::PyObject>;
}

/// The entry of a [`FastMethod`].
pub struct FastEntry<M>(PhantomData<M>);

impl<M: FastMethod> VectorCall for FastEntry<M> {
    type Class = M::Class;
    const NAME: &'static CStr = M::NAME;

    #[inline(always)]
    unsafe fn vectorcall(
        slf: *mut ffi::PyObject,
        values: *const *mut ffi::PyObject,
        positional: ffi::Py_ssize_t,
        names: *mut ffi::PyObject,
    ) -> Option<*mut ffi::PyObject> {
        // SAFETY: guaranteed by the caller.
        Some(unsafe { trampoline::<M>(slf, values, positional, names) })
    }
}

/// The entry of a [`NoArguments`] method.
pub struct NoArgumentsEntry<M>(PhantomData<M>);

impl<M: NoArguments> VectorCall for NoArgumentsEntry<M> {
    type Class = M::Class;
    const NAME: &'static CStr = M::NAME;

    #[inline(always)]
    unsafe fn vectorcall(
        slf: *mut ffi::PyObject,
        _values: *const *mut ffi::PyObject,
        positional: ffi::Py_ssize_t,
        names: *mut ffi::PyObject,
    ) -> Option<*mut ffi::PyObject> {
        // SAFETY: guaranteed by the caller.
        (positional == 0 && names.is_null())
            .then(|| unsafe { without_arguments::<M>(slf, std::ptr::null_mut()) })
    }
}

/// The entry of a [`Predicate`].
pub struct PredicateEntry<M>(PhantomData<M>);

impl<M: Predicate> VectorCall for PredicateEntry<M> {
    type Class = M::Class;
    const NAME: &'static CStr = M::NAME;

    #[inline(always)]
    unsafe fn vectorcall(
        slf: *mut ffi::PyObject,
        _values: *const *mut ffi::PyObject,
        positional: ffi::Py_ssize_t,
        names: *mut ffi::PyObject,
    ) -> Option<*mut ffi::PyObject> {
        // SAFETY: guaranteed by the caller.
        (positional == 0 && names.is_null())
            .then(|| unsafe { predicate::<M>(slf, std::ptr::null_mut()) })
    }
}
