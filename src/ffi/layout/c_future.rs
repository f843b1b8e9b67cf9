//! asyncio's own `Future` and `Task`, in C: the operations of a task that awaits one, without
//! lookups by name. The classes are immutable, so what was looked up once remains valid.

use std::ffi::c_int;
use std::ptr::NonNull;

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple, PyType};

use crate::ffi::exception::{PyOutcome, Raised};
use crate::ffi::thread_exit;

/// The calling convention of `add_done_callback()`.
#[cfg(Py_3_12)]
const ADD_DONE_CALLBACK_FLAGS: c_int = ffi::METH_METHOD | ffi::METH_FASTCALL | ffi::METH_KEYWORDS;
#[cfg(not(Py_3_12))]
const ADD_DONE_CALLBACK_FLAGS: c_int = ffi::METH_FASTCALL | ffi::METH_KEYWORDS;

/// One of the two classes.
pub struct CFutureClass {
    class: Py<PyType>,
    blocking: Attribute,
    event_loop: Attribute,
    add_done_callback: Method,
    result: Method,
    /// `("context",)`.
    keywords: Py<PyTuple>,
}

/// The C functions of an attribute.
struct Attribute(NonNull<ffi::PyGetSetDef>);

// SAFETY: points to a definition that the class, which is kept alive, never changes.
unsafe impl Send for Attribute {}
// SAFETY: as above.
unsafe impl Sync for Attribute {}

impl Attribute {
    /// The attribute `name` of `class` or of a base, if C functions get and set it.
    fn find(class: &Bound<'_, PyType>, name: &Bound<'_, PyString>) -> Option<Self> {
        let descriptor = class.getattr(name).ok()?;
        // SAFETY: the type is checked, and the descriptor lives as long as the class that inherits
        // it.
        let found = unsafe {
            if ffi::Py_TYPE(descriptor.as_ptr()) != &raw mut ffi::PyGetSetDescr_Type {
                return None;
            }
            let descriptor = descriptor.as_ptr().cast::<ffi::PyGetSetDescrObject>();
            NonNull::new((*descriptor).d_getset)?
        };
        Some(Self(found))
    }

    #[inline(always)]
    fn get<'py>(&self, object: &Bound<'py, PyAny>) -> PyOutcome<'py, Bound<'py, PyAny>> {
        let py = object.py();
        // SAFETY: attached; the class's own function, called with an instance of the class. It
        // returns an owned reference, or null with an exception set.
        let value = unsafe {
            let definition = self.0.as_ref();
            let value = definition
                .get
                .map_or(std::ptr::null_mut(), |get| get(object.as_ptr(), definition.closure));
            Bound::from_owned_ptr_or_opt(py, value)
        };
        value.ok_or_else(|| Raised::take(py))
    }

    #[inline(always)]
    fn set<'py>(
        &self,
        object: &Bound<'py, PyAny>,
        value: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ()> {
        // SAFETY: as for `get`; the function steals no reference.
        let done = unsafe {
            let definition = self.0.as_ref();
            definition
                .set
                .map_or(-1, |set| set(object.as_ptr(), value.as_ptr(), definition.closure))
        };
        if done == 0 { Ok(()) } else { Err(Raised::take(object.py())) }
    }
}

/// The C function of a method.
struct Method {
    definition: NonNull<ffi::PyMethodDef>,
    /// The class that defines it, which some calling conventions pass.
    #[cfg_attr(not(Py_3_12), expect(dead_code, reason = "passed from 3.12 on"))]
    class: NonNull<ffi::PyTypeObject>,
}

// SAFETY: points to a definition that the class, which is kept alive, never changes.
unsafe impl Send for Method {}
// SAFETY: as above.
unsafe impl Sync for Method {}

impl Method {
    /// The method `name` of `class` or of a base, if it is a C function with the calling convention
    /// of `flags`.
    fn find(class: &Bound<'_, PyType>, name: &Bound<'_, PyString>, flags: c_int) -> Option<Self> {
        let descriptor = class.getattr(name).ok()?;
        // SAFETY: the type is checked, and the descriptor lives as long as the class that inherits
        // it.
        unsafe {
            if ffi::Py_TYPE(descriptor.as_ptr()) != &raw mut ffi::PyMethodDescr_Type {
                return None;
            }
            let descriptor = descriptor.as_ptr().cast::<ffi::PyMethodDescrObject>();
            let definition = NonNull::new((*descriptor).d_method)?;
            let class = NonNull::new((*descriptor).d_common.d_type)?;
            (definition.as_ref().ml_flags == flags).then_some(Self { definition, class })
        }
    }
}

impl CFutureClass {
    /// Inspects `class`; `None` if it is not one of the two, as where asyncio runs without its C
    /// module.
    pub fn of(class: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        let py = class.py();
        let class = class.cast::<PyType>()?;
        // SAFETY: a live type; only its flags are read.
        let flags = unsafe { ffi::PyType_GetFlags(class.as_type_ptr()) };
        let immutable = flags & ffi::Py_TPFLAGS_IMMUTABLETYPE != 0;
        let of_asyncio = class.module()?.to_str()? == "_asyncio";
        let blocking = Attribute::find(class, intern!(py, "_asyncio_future_blocking"));
        let event_loop = Attribute::find(class, intern!(py, "_loop"));
        let (Some(blocking), Some(event_loop)) = (blocking, event_loop) else { return Ok(None) };
        let add = Method::find(class, intern!(py, "add_done_callback"), ADD_DONE_CALLBACK_FLAGS);
        let result = Method::find(class, intern!(py, "result"), ffi::METH_NOARGS);
        let (Some(add_done_callback), Some(result)) = (add, result) else { return Ok(None) };
        if !immutable || !of_asyncio {
            return Ok(None);
        }
        Ok(Some(Self {
            class: class.clone().unbind(),
            blocking,
            event_loop,
            add_done_callback,
            result,
            keywords: PyTuple::new(py, [intern!(py, "context")])?.unbind(),
        }))
    }

    /// Whether `object` is exactly of this class.
    #[inline(always)]
    pub fn is_class_of(&self, object: &Bound<'_, PyAny>) -> bool {
        // SAFETY: a live object; only its type pointer is read.
        unsafe { ffi::Py_TYPE(object.as_ptr()).cast() == self.class.as_ptr() }
    }

    /// `future._asyncio_future_blocking`. Like all methods below, only for instances of this class.
    #[inline(always)]
    pub fn is_blocking<'py>(&self, future: &Bound<'py, PyAny>) -> PyOutcome<'py, bool> {
        debug_assert!(self.is_class_of(future), "not an instance of this class");
        let blocking = self.blocking.get(future)?;
        // SAFETY: a live object, compared by address.
        Ok(unsafe { blocking.as_ptr() == ffi::Py_True() })
    }

    /// `future._asyncio_future_blocking = False`.
    #[inline(always)]
    pub fn set_not_blocking<'py>(&self, future: &Bound<'py, PyAny>) -> PyOutcome<'py, ()> {
        debug_assert!(self.is_class_of(future), "not an instance of this class");
        // SAFETY: False is never freed.
        let no = unsafe { Bound::from_borrowed_ptr(future.py(), ffi::Py_False()) };
        self.blocking.set(future, &no)
    }

    /// `future._loop`.
    #[inline(always)]
    pub fn event_loop<'py>(&self, future: &Bound<'py, PyAny>) -> PyOutcome<'py, Bound<'py, PyAny>> {
        debug_assert!(self.is_class_of(future), "not an instance of this class");
        self.event_loop.get(future)
    }

    /// `future.add_done_callback(callback, context=context)`. Runs Python code: if the future is
    /// done, it calls the loop's `call_soon()`.
    #[inline(always)]
    pub fn add_done_callback<'py>(
        &self,
        future: &Bound<'py, PyAny>,
        callback: &Bound<'py, PyAny>,
        context: &Bound<'py, PyAny>,
    ) -> PyOutcome<'py, ()> {
        let py = future.py();
        debug_assert!(self.is_class_of(future), "not an instance of this class");
        let values = [callback.as_ptr(), context.as_ptr()];
        // SAFETY: attached; the class's own function, called with an instance of the class, one
        // positional argument and the value of the one keyword. It returns an owned reference, or
        // null with an exception set.
        let called = unsafe {
            let function = self.add_done_callback.definition.as_ref().ml_meth;
            let (slf, keywords) = (future.as_ptr(), self.keywords.as_ptr());
            #[cfg(Py_3_12)]
            let done = {
                let class = self.add_done_callback.class.as_ptr();
                (function.PyCMethod)(slf, class, values.as_ptr(), 1, keywords)
            };
            #[cfg(not(Py_3_12))]
            let done = (function.PyCFunctionFastWithKeywords)(slf, values.as_ptr(), 1, keywords);
            Bound::from_owned_ptr_or_opt(py, done)
        };
        called.map(drop).ok_or_else(|| Raised::take(py))
    }

    /// `future.result()`. Runs no Python code except to create a CancelledError.
    #[inline(always)]
    pub fn result<'py>(&self, future: &Bound<'py, PyAny>) -> PyOutcome<'py, Bound<'py, PyAny>> {
        debug_assert!(self.is_class_of(future), "not an instance of this class");
        let py = future.py();
        thread_exit::protect();
        // SAFETY: as for `add_done_callback`; the function ignores its second argument.
        let result = unsafe {
            let function = self.result.definition.as_ref().ml_meth.PyCFunction;
            Bound::from_owned_ptr_or_opt(py, function(future.as_ptr(), std::ptr::null_mut()))
        };
        result.ok_or_else(|| Raised::take(py))
    }
}
