//! C methods that look like the Python functions that they replace.
//!
//! asyncio's loop is written in Python, so its methods are bound methods of functions: `inspect`
//! reads their signatures, `iscoroutinefunction()` checks their code, `WeakMethod` and mocks take
//! them apart. A [`FunctionLike`] has the attributes of such a function, its *model*, and is called
//! directly: the interpreter passes `self` to it as to a function.

use std::ffi::{c_char, c_int, c_void};
use std::mem::offset_of;
use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyType};
use pyo3::{Borrowed, PyClass};

use crate::ffi::guard::{self, Guard};
use crate::ffi::method::VectorCall;
use crate::ffi::objects::immortal::make_immortal;
use crate::ffi::objects::process_state::Pointer;

// Not declared by PyO3.
unsafe extern "C" {
    fn PyMethod_New(function: *mut ffi::PyObject, slf: *mut ffi::PyObject) -> *mut ffi::PyObject;
    #[cfg(Py_GIL_DISABLED)]
    fn PyUnstable_Object_EnableDeferredRefcount(object: *mut ffi::PyObject) -> c_int;
}

/// The vectorcall function of a method.
pub type VectorcallEntry = ffi::vectorcallfunc;

/// The object. There is one for each method; none is ever freed.
#[repr(C)]
pub struct FunctionLike {
    base: ffi::PyObject,
    vectorcall: Option<ffi::vectorcallfunc>,
    weak_references: *mut ffi::PyObject,
    /// The original method descriptor of the class, which also raises the errors.
    method: *mut ffi::PyObject,
    /// asyncio's function.
    model: *mut ffi::PyObject,
    /// The class that `self` must be an instance of.
    class: *mut ffi::PyTypeObject,
    /// The first subclass of which an instance was seen, kept alive: most instances are of it.
    common_class: Pointer<ffi::PyTypeObject>,
    /// The slot of the method's guard, below [`guard::SLOTS`], if `vectorcall` is the method's own
    /// entry.
    slot: usize,
}

/// The attributes taken from the model. The docstring is the method's.
const ATTRIBUTES: [&str; 8] = [
    "__annotations__",
    "__code__",
    "__defaults__",
    "__kwdefaults__",
    "__module__",
    "__name__",
    "__qualname__",
    "__type_params__",
];

/// Replaces the method `name` of class `T` by a [`FunctionLike`], if `model` has a Python function
/// of that name. `direct` is the method's own entry, if it has one, and the slot of its guard.
pub fn install<T: PyClass>(
    name: &Bound<'_, PyString>,
    model: &Bound<'_, PyType>,
    direct: Option<(VectorcallEntry, usize)>,
) -> PyResult<()> {
    install_in(&name.py().get_type::<T>(), name, model, direct)
}

/// As [`install`], in a class that need not be native.
pub fn install_in(
    class: &Bound<'_, PyType>,
    name: &Bound<'_, PyString>,
    model: &Bound<'_, PyType>,
    direct: Option<(VectorcallEntry, usize)>,
) -> PyResult<()> {
    let py = name.py();
    let method = class.getattr(name)?;
    let Some(model) = model.getattr_opt(name)? else { return Ok(()) };
    let (entry, slot) = direct.unwrap_or((forward, 0));
    assert!(slot < guard::SLOTS);
    // SAFETY: attached, with live objects. The new object is initialised before other code can see
    // it, and owns a reference to each object that it points to.
    let object = unsafe {
        let is_method = ffi::Py_TYPE(method.as_ptr()) == &raw mut ffi::PyMethodDescr_Type;
        if !is_method || ffi::PyFunction_Check(model.as_ptr()) == 0 {
            return Ok(());
        }
        let this = ffi::PyType_GenericAlloc(method_class(py)?, 0).cast::<FunctionLike>();
        let object = Bound::from_owned_ptr_or_err(py, this.cast())?;
        (*this).vectorcall = Some(entry);
        (*this).slot = slot;
        (*this).weak_references = ptr::null_mut();
        (*this).method = method.into_ptr();
        (*this).model = model.into_ptr();
        (*this).class = class.clone().into_ptr().cast();
        (&raw mut (*this).common_class).write(Pointer::null());
        object
    };
    // Without a GIL the interpreter specialises the lookup of a method only if its references are
    // counted by deferral, as those of functions are.
    // SAFETY: attached, with a live object that no other thread has.
    #[cfg(Py_GIL_DISABLED)]
    unsafe {
        PyUnstable_Object_EnableDeferredRefcount(object.as_ptr());
    }
    make_immortal(&object);
    class.setattr(name, object.clone())?;
    std::mem::forget(object);
    Ok(())
}

/// Only objects that the collector knows can have deferred references. What this one refers to is
/// never freed, like itself, so the collector need not see it.
#[cfg(Py_GIL_DISABLED)]
unsafe extern "C" fn traverse(
    _object: *mut ffi::PyObject,
    _visit: ffi::visitproc,
    _data: *mut c_void,
) -> c_int {
    0
}

/// The entry of a hand-written method.
pub fn direct<M: VectorCall, G: Guard<Class = M::Class>>() -> VectorcallEntry {
    call::<M, G>
}

/// The class of [`FunctionLike`] objects.
fn method_class(py: Python<'_>) -> PyResult<*mut ffi::PyTypeObject> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let class = CLASS.get_or_try_init(py, || make_type(py))?;
    Ok(class.as_ptr().cast())
}

fn make_type(py: Python<'_>) -> PyResult<Py<PyType>> {
    let offset = |name: &'static std::ffi::CStr, offset: usize| ffi::PyMemberDef {
        name: name.as_ptr(),
        type_code: ffi::Py_T_PYSSIZET,
        offset: offset as ffi::Py_ssize_t,
        flags: ffi::Py_READONLY,
        doc: ptr::null(),
    };
    let members = Box::leak(Box::new([
        offset(c"__vectorcalloffset__", offset_of!(FunctionLike, vectorcall)),
        offset(c"__weaklistoffset__", offset_of!(FunctionLike, weak_references)),
        ffi::PyMemberDef::default(),
    ]));
    let slot = |slot: c_int, pfunc: *mut c_void| ffi::PyType_Slot { slot, pfunc };
    let mut slots = [
        slot(ffi::Py_tp_call, ffi::PyVectorcall_Call as *mut c_void),
        slot(ffi::Py_tp_descr_get, bind as *mut c_void),
        slot(ffi::Py_tp_getattro, get_attribute as *mut c_void),
        slot(ffi::Py_tp_members, members.as_mut_ptr().cast()),
        #[cfg(Py_GIL_DISABLED)]
        slot(ffi::Py_tp_traverse, traverse as *mut c_void),
        ffi::PyType_Slot::default(),
    ];
    let flags = ffi::Py_TPFLAGS_DEFAULT
        | ffi::Py_TPFLAGS_HAVE_VECTORCALL
        | ffi::Py_TPFLAGS_METHOD_DESCRIPTOR
        | ffi::Py_TPFLAGS_IMMUTABLETYPE
        | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION;
    #[cfg(Py_GIL_DISABLED)]
    let flags = flags | ffi::Py_TPFLAGS_HAVE_GC;
    let mut spec = ffi::PyType_Spec {
        name: c"ferroloop._ferroloop.LoopMethod".as_ptr().cast::<c_char>(),
        basicsize: size_of::<FunctionLike>() as c_int,
        itemsize: 0,
        flags: flags as u32,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: attached; CPython copies the specification except for the members, which are leaked.
    let class = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&raw mut spec))? };
    Ok(class.cast_into::<PyType>()?.unbind())
}

/// Calls the original method descriptor.
unsafe extern "C" fn forward(
    callable: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: usize,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: `callable` is a [`FunctionLike`], and the rest is passed on unchanged.
    unsafe {
        let method = (*callable.cast::<FunctionLike>()).method;
        ffi::PyObject_Vectorcall(method, arguments, count, names)
    }
}

unsafe extern "C" fn call<M: VectorCall, G: Guard<Class = M::Class>>(
    callable: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: usize,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: `callable` is a [`FunctionLike`], called by the vectorcall convention. The first
    // argument is passed on as `self` only if it is an instance of the class.
    unsafe {
        let this = callable.cast::<FunctionLike>();
        let positional = ffi::PyVectorcall_NARGS(count);
        if positional > 0 {
            let class = ffi::Py_TYPE(*arguments);
            if (class == (*this).common_class.get(Python::assume_attached())
                || accepts_class(this, class))
                && guard::may_run::<G>(*arguments, (*this).slot)
            {
                let answer = M::vectorcall(*arguments, arguments.add(1), positional - 1, names);
                if let Some(answer) = answer {
                    return answer;
                }
            }
        }
        forward(callable, arguments, count, names)
    }
}

/// Whether `class` is a subclass of the method's class. Remembers the first one.
#[cold]
unsafe fn accepts_class(this: *mut FunctionLike, class: *mut ffi::PyTypeObject) -> bool {
    // SAFETY: live types, attached.
    unsafe {
        if ffi::PyType_IsSubtype(class, (*this).class) == 0 {
            return false;
        }
        let py = Python::assume_attached();
        if (*this).common_class.get(py).is_null() {
            ffi::Py_INCREF(class.cast());
            // Not null if two threads get here: then one class is kept alive for nothing.
            (*this).common_class.replace(py, class);
        }
        true
    }
}

/// `tp_descr_get`: `loop.method` and `Class.method`, as for a function.
unsafe extern "C" fn bind(
    callable: *mut ffi::PyObject,
    instance: *mut ffi::PyObject,
    _class: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: CPython passes live objects and gets a new reference.
    unsafe {
        if instance.is_null() || instance == ffi::Py_None() {
            return ffi::Py_NewRef(callable);
        }
        PyMethod_New(callable, instance)
    }
}

unsafe extern "C" fn get_attribute(
    callable: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: CPython calls slots attached, with a [`FunctionLike`] and a string.
    unsafe {
        let py = Python::assume_attached();
        let this = callable.cast::<FunctionLike>();
        let attribute: Borrowed<'_, '_, PyAny> = Borrowed::from_ptr(py, name);
        let text = match attribute.cast::<PyString>() {
            Ok(text) => text.to_string_lossy().into_owned(),
            Err(_) => String::new(),
        };
        match text.as_str() {
            "__doc__" => ffi::PyObject_GetAttr((*this).method, name),
            text if ATTRIBUTES.contains(&text) => ffi::PyObject_GetAttr((*this).model, name),
            _ => ffi::PyObject_GenericGetAttr(callable, name),
        }
    }
}
