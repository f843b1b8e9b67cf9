//! Fast paths of methods that are called for each future in a loop, as by `asyncio.wait()` and
//! `gather()`. The methods in `methods.rs` serve all other calls.

use std::ffi::CStr;

use pyo3::PyTypeInfo;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyString, PyType};

use super::{Callback, Future};
use crate::ffi::fast_path::{self, FastPath, FastResult, GetterFastPath, Original};
use crate::ffi::keyword::CONTEXT;
use crate::ffi::layout::context;
use crate::ffi::method::Arguments;
use crate::ffi::objects::object;
use crate::interop::imports;

/// Installs the fast paths of `Future`.
pub fn install(py: Python<'_>) -> PyResult<()> {
    fast_path::install::<AddDoneCallback>(py)?;
    fast_path::install::<RemoveDoneCallback>(py)?;
    fast_path::install::<Cancel>(py)?;
    fast_path::install_getter::<AsyncioClass>(py)
}

/// `add_done_callback(fn)` and `add_done_callback(fn, context=context)` of a pending future.
struct AddDoneCallback;

impl FastPath for AddDoneCallback {
    type Class = Future;
    const NAME: &'static CStr = c"add_done_callback";

    fn original() -> &'static Original {
        static ORIGINAL: Original = Original::new();
        &ORIGINAL
    }

    #[inline(always)]
    fn call<'py>(slf: &Bound<'py, Future>, arguments: &Arguments<'_, 'py>) -> FastResult<'py> {
        let py = slf.py();
        let this = slf.get();
        if arguments.len() != 1 || !this.event_loop.is_some(py) || this.is_done(py) {
            return None;
        }
        let given = arguments.only_keyword(&CONTEXT);
        if given.is_none() && arguments.has_keywords() {
            return None;
        }
        let callback = arguments.get(0)?.to_owned();
        let context = match given.filter(|context| !context.is_none()) {
            Some(context) => Ok(context.to_owned()),
            None => context::copy_current(py),
        };
        let added = context.and_then(|context| {
            Future::add_callback(slf, Callback::Python(callback.unbind(), context.unbind()))
        });
        Some(added.map(|()| py.None().into_bound(py)))
    }
}

/// `remove_done_callback(fn)` if no callback has to be compared.
struct RemoveDoneCallback;

impl FastPath for RemoveDoneCallback {
    type Class = Future;
    const NAME: &'static CStr = c"remove_done_callback";

    fn original() -> &'static Original {
        static ORIGINAL: Original = Original::new();
        &ORIGINAL
    }

    #[inline(always)]
    fn call<'py>(slf: &Bound<'py, Future>, arguments: &Arguments<'_, 'py>) -> FastResult<'py> {
        let py = slf.py();
        let this = slf.get();
        if arguments.len() != 1 || arguments.has_keywords() || !this.event_loop.is_some(py) {
            return None;
        }
        let count = this.remove_only_callback(py, &*arguments.get(0)?)?;
        Some(count.into_pyobject(py).map(Bound::into_any).map_err(PyErr::from))
    }
}

/// `cancel()` of a pending future without callbacks.
struct Cancel;

impl FastPath for Cancel {
    type Class = Future;
    const NAME: &'static CStr = c"cancel";

    fn original() -> &'static Original {
        static ORIGINAL: Original = Original::new();
        &ORIGINAL
    }

    #[inline(always)]
    fn call<'py>(slf: &Bound<'py, Future>, arguments: &Arguments<'_, 'py>) -> FastResult<'py> {
        let py = slf.py();
        let plain = arguments.is_empty() && !arguments.has_keywords();
        (plain && slf.get().cancel_without_callbacks(py))
            .then(|| Ok(PyBool::new(py, true).to_owned().into_any()))
    }
}

/// `__class__`.
struct AsyncioClass;

impl GetterFastPath for AsyncioClass {
    type Class = Future;
    const NAME: &'static CStr = c"__class__";

    fn original() -> &'static Original {
        static ORIGINAL: Original = Original::new();
        &ORIGINAL
    }

    #[inline(always)]
    fn get<'py>(slf: &Bound<'py, Future>) -> FastResult<'py> {
        static NAME: ModuleName = ModuleName::new("Future", imports::names_in_futures);
        class_of_exact(slf, &NAME)
    }
}

/// A name in one of asyncio's modules.
pub struct ModuleName {
    name: &'static str,
    module: fn(Python<'_>) -> PyResult<&Bound<'_, PyAny>>,
    entry: PyOnceLock<(Py<PyDict>, Py<PyString>)>,
}

impl ModuleName {
    /// The name in the module whose dict `module` returns.
    pub const fn new(
        name: &'static str,
        module: fn(Python<'_>) -> PyResult<&Bound<'_, PyAny>>,
    ) -> Self {
        Self { name, module, entry: PyOnceLock::new() }
    }

    /// The current value.
    #[inline(always)]
    fn get<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let (names, name) = self.entry.get_or_try_init(py, || self.find(py))?;
        names.bind(py).get_item(name)
    }

    #[cold]
    fn find(&self, py: Python<'_>) -> PyResult<(Py<PyDict>, Py<PyString>)> {
        let names = (self.module)(py)?.cast::<PyDict>()?.clone();
        Ok((names.unbind(), PyString::intern(py, self.name).unbind()))
    }
}

/// `__class__` of an instance of exactly `T`, if `name` refers to a class.
#[inline(always)]
pub fn class_of_exact<'py, T: PyTypeInfo>(
    object: &Bound<'py, T>,
    name: &ModuleName,
) -> FastResult<'py> {
    if !object::is_exactly::<T>(object.as_any()) {
        return None;
    }
    let class = name.get(object.py()).ok()??;
    class.is_instance_of::<PyType>().then_some(Ok(class))
}
