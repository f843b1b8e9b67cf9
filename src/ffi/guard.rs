//! Methods of a native class that shadow methods of a Python class further on in the method
//! resolution order, and check, before they run, whether a tool has replaced the shadowed ones.
//!
//! A tool that replaces a method of the Python class, or the code of its function, expects to see
//! the calls that arrive here. Detecting that costs three comparisons per call.

use std::cell::UnsafeCell;
use std::ffi::c_int;
#[cfg(Py_GIL_DISABLED)]
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::prelude::*;
use pyo3::types::{PyFunction, PyString};
use pyo3::{Borrowed, PyClass, ffi, intern};

use crate::ffi::attach::with_attached;
use crate::ffi::method::{hold, return_to_c};
use crate::ffi::objects::process_state::Pointer;

/// Maximum number of guarded methods.
pub(in crate::ffi) const SLOTS: usize = 64;

/// Decides whether a guarded method runs itself.
pub trait Guard: 'static {
    /// The native class.
    type Class: PyClass;

    /// Whether no class has changed since the last [`Guard::replacement`]. Runs no Python code.
    fn is_current(slf: &Bound<'_, Self::Class>) -> bool;

    /// What to call instead of the method in the slot; `None` if the method runs itself.
    fn replacement<'py>(
        slf: &Bound<'py, Self::Class>,
        slot: usize,
    ) -> PyResult<Option<Bound<'py, PyAny>>>;
}

/// A guarded method.
struct Slot {
    method: Option<ffi::PyMethodDefPointer>,
    /// The shadowed function and its code object; owned.
    function: Pointer<ffi::PyFunctionObject>,
    code: Pointer<ffi::PyObject>,
}

impl Slot {
    const fn empty() -> Self {
        Self { method: None, function: Pointer::null(), code: Pointer::null() }
    }
}

struct Slots(UnsafeCell<[Slot; SLOTS]>);

// SAFETY: the methods are written when the module is initialised, the rest is atomic.
unsafe impl Sync for Slots {}

static TABLE: Slots = Slots(UnsafeCell::new([const { Slot::empty() }; SLOTS]));

#[inline(always)]
fn slot(index: usize) -> *mut Slot {
    // SAFETY: every index comes from a constant below `SLOTS`, or was checked.
    unsafe { TABLE.0.get().cast::<Slot>().add(index) }
}

/// Guards the methods of these names, which get slots in this order. Names that the class does not
/// have are left out. Called when the module is initialised; a second call does nothing.
pub fn install<G: Guard>(py: Python<'_>, names: &[&'static str]) -> PyResult<()> {
    assert!(names.len() <= SLOTS, "more methods than slots");
    // SAFETY: the GIL is held.
    if unsafe { (*slot(0)).method.is_some() } {
        return Ok(()); // the module is initialised again, but the classes already exist
    }
    let class = py.get_type::<G::Class>();
    let methods = class.getattr(intern!(py, "__dict__"))?;
    for (index, name) in names.iter().enumerate() {
        let descriptor = methods.get_item(*name)?;
        // SAFETY: the type is checked; only `PyDescr_NewMethod` creates objects of this type, and a
        // definition of ours is never freed.
        let definition = unsafe {
            assert!(
                ffi::Py_IS_TYPE(descriptor.as_ptr(), &raw mut ffi::PyMethodDescr_Type) != 0,
                "{name} is a method"
            );
            *(*descriptor.as_ptr().cast::<ffi::PyMethodDescrObject>()).d_method
        };
        // SAFETY: `index` is below `SLOTS`; the GIL is held.
        unsafe { (*slot(index)).method = Some(definition.ml_meth) };
        let function = trampoline::<G>(index, definition.ml_flags);
        let guarded = Box::leak(Box::new(ffi::PyMethodDef { ml_meth: function, ..definition }));
        // SAFETY: the definition is leaked, so it outlives the descriptor; a live type.
        let descriptor = unsafe {
            Bound::from_owned_ptr_or_err(py, ffi::PyDescr_NewMethod(class.as_type_ptr(), guarded))?
        };
        class.setattr(PyString::new(py, name), descriptor)?;
    }
    Ok(())
}

/// Sets the function that the method in the slot shadows, with the code that it has now.
pub fn set_shadowed(index: usize, function: &Bound<'_, PyFunction>) {
    assert!(index < SLOTS);
    let py = function.py();
    // SAFETY: a live function, which owns its code. Read as by `function.__code__`, which would
    // also raise an audit event.
    let code: Bound<'_, PyAny> = unsafe {
        let function = function.as_ptr().cast::<ffi::PyFunctionObject>();
        Bound::from_borrowed_ptr(py, (*function).func_code)
    };
    // SAFETY: `index` is below `SLOTS`.
    let slot = unsafe { &*slot(index) };
    if slot.function.get(py).cast() == function.as_ptr() && slot.code.get(py) == code.as_ptr() {
        return;
    }
    // SAFETY: the slot owned both, or they are null.
    let old = unsafe {
        let old_code = slot.code.replace(py, code.into_ptr());
        let function = function.clone().into_ptr().cast::<ffi::PyFunctionObject>();
        let old_function = slot.function.replace(py, function);
        [old_code, old_function.cast()].map(|old| Bound::from_owned_ptr_or_opt(py, old))
    };
    if cfg!(Py_GIL_DISABLED) {
        // Another thread may be reading them. Few functions are ever replaced.
        std::mem::forget(old);
    }
}

/// Whether all shadowed functions still have their original code.
pub fn has_all_code(py: Python<'_>) -> bool {
    has_code_from(py, 0)
}

/// As [`has_all_code`], for the slots from `first` on, up to the first one without a function.
#[inline]
pub fn has_code_from(py: Python<'_>, first: usize) -> bool {
    // SAFETY: no reference to a slot is mutable once the module is initialised.
    let slots = unsafe { &*TABLE.0.get() };
    let mut known = slots[first..].iter().take_while(|slot| !slot.function.get(py).is_null());
    known.all(|slot| has_code(py, slot))
}

/// Whether the function in the slot still has its original code.
#[inline(always)]
pub fn has_code_of(py: Python<'_>, index: usize) -> bool {
    assert!(index < SLOTS);
    // SAFETY: `index` is below `SLOTS`.
    let slot = unsafe { &*slot(index) };
    slot.function.get(py).is_null() || has_code(py, slot)
}

#[inline(always)]
fn has_code(py: Python<'_>, slot: &Slot) -> bool {
    let function = slot.function.get(py);
    #[cfg(not(Py_GIL_DISABLED))]
    // SAFETY: a function that the slot owns; the GIL is held.
    let code = unsafe { (*function).func_code };
    #[cfg(Py_GIL_DISABLED)]
    // SAFETY: a function that was in the slot, which is never released; its code is an atomic.
    let code =
        unsafe { AtomicPtr::from_ptr(&raw mut (*function).func_code).load(Ordering::Relaxed) };
    code == slot.code.get(py)
}

/// Whether the method in slot `N` may run itself, by the quick checks.
///
/// # Safety
/// `slf` must be an instance of `G::Class`, and the thread attached.
#[inline(always)]
unsafe fn is_current<G: Guard, const N: usize>(slf: *mut ffi::PyObject) -> bool {
    // SAFETY: guaranteed by the caller.
    unsafe { may_run::<G>(slf, N) }
}

/// As [`is_current`], for a slot that is known only at run time and is below [`SLOTS`].
///
/// # Safety
/// As for [`is_current`].
#[inline(always)]
pub(in crate::ffi) unsafe fn may_run<G: Guard>(slf: *mut ffi::PyObject, index: usize) -> bool {
    debug_assert!(index < SLOTS);
    // SAFETY: guaranteed by the caller; once a loop has run the checks, every slot has a function.
    unsafe {
        let py = Python::assume_attached();
        G::is_current(&Borrowed::from_ptr(py, slf).cast_unchecked::<G::Class>())
            && has_code(py, &*slot(index))
    }
}

/// Calls the replacement of the method; `None` if the method must run itself.
///
/// # Safety
/// As for [`is_current`].
unsafe fn divert<G: Guard>(
    slf: *mut ffi::PyObject,
    index: usize,
    call: &mut dyn FnMut(*mut ffi::PyObject) -> *mut ffi::PyObject,
) -> Option<*mut ffi::PyObject> {
    let mut diverted = true;
    let enter = |py: Python<'_>| {
        return_to_c(py, || {
            // SAFETY: guaranteed by the caller.
            let slf = unsafe { Borrowed::from_ptr(py, slf).cast_unchecked::<G::Class>() };
            match G::replacement(&slf, index)? {
                // SAFETY: the result of a call: owned, or null with an exception set.
                Some(target) => unsafe { Bound::from_owned_ptr_or_err(py, call(target.as_ptr())) },
                None => {
                    diverted = false;
                    Ok(py.None().into_bound(py))
                }
            }
        })
    };
    // SAFETY: the caller guarantees that the thread is attached.
    let result = unsafe { with_attached(enter) };
    // The None from above is an owned reference, dropped here.
    if diverted {
        return Some(result);
    }
    // SAFETY: owned, and the thread is attached.
    unsafe { ffi::Py_XDECREF(result) };
    None
}

/// All arguments of a vectorcall.
///
/// # Safety
/// They must be those that CPython has passed.
unsafe fn vector<'a>(
    values: *const *mut ffi::PyObject,
    positional: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> &'a [*mut ffi::PyObject] {
    // SAFETY: the vectorcall convention: `names` is null or a tuple, and there are as many valid
    // pointers at `values` as positional arguments and names.
    unsafe {
        let named = if names.is_null() { 0 } else { ffi::PyTuple_GET_SIZE(names) };
        match positional + named {
            0 => &[],
            total => std::slice::from_raw_parts(values, total.unsigned_abs()),
        }
    }
}

/// Declares the function of a calling convention, and separately its slow path, so that the quick
/// path needs no stack frame.
macro_rules! conventions {
    ($(
        $quick:ident, $slow:ident, $pointer:ident, ($($name:ident: $type:ty),*), $vector:expr,
        |$target:ident| $call:expr;
    )*) => {$(
        unsafe extern "C" fn $quick<G: Guard, const N: usize>(
            slf: *mut ffi::PyObject,
            $($name: $type),*
        ) -> *mut ffi::PyObject {
            // SAFETY: the descriptor checked `slf`; the slot's method has the flags of this
            // function, and gets what this function got.
            unsafe {
                if !is_current::<G, N>(slf) {
                    return $slow::<G, N>(slf, $($name),*);
                }
                ((*slot(N)).method.unwrap_unchecked().$pointer)(slf, $($name),*)
            }
        }

        #[cold]
        #[inline(never)]
        unsafe extern "C" fn $slow<G: Guard, const N: usize>(
            slf: *mut ffi::PyObject,
            $($name: $type),*
        ) -> *mut ffi::PyObject {
            // SAFETY: as above.
            unsafe {
                // See `Arguments::hold`.
                let _held = hold(Python::assume_attached(), $vector);
                let mut call = |$target: *mut ffi::PyObject| $call;
                match divert::<G>(slf, N, &mut call) {
                    Some(result) => result,
                    None => ((*slot(N)).method.unwrap_unchecked().$pointer)(slf, $($name),*),
                }
            }
        }
    )*};
}

conventions! {
    fast, slow_fast, PyCFunctionFastWithKeywords,
    (values: *const *mut ffi::PyObject, positional: ffi::Py_ssize_t, names: *mut ffi::PyObject),
    vector(values, positional, names),
    |target| ffi::PyObject_Vectorcall(target, values, positional.unsigned_abs(), names);

    packed, slow_packed, PyCFunctionWithKeywords,
    (values: *mut ffi::PyObject, keywords: *mut ffi::PyObject),
    &[],
    |target| ffi::PyObject_Call(target, values, keywords);

    bare, slow_bare, PyCFunction,
    (_unused: *mut ffi::PyObject),
    &[],
    |target| ffi::PyObject_CallNoArgs(target);
}

/// The C function of a slot, for a calling convention.
fn trampoline<G: Guard>(index: usize, flags: c_int) -> ffi::PyMethodDefPointer {
    macro_rules! functions {
        ($($index:literal)*) => {
            match (index, flags) {
                $(
                    ($index, ffi::METH_NOARGS) => {
                        ffi::PyMethodDefPointer { PyCFunction: bare::<G, $index> }
                    }
                    ($index, FAST) => ffi::PyMethodDefPointer {
                        PyCFunctionFastWithKeywords: fast::<G, $index>,
                    },
                    ($index, PACKED) => ffi::PyMethodDefPointer {
                        PyCFunctionWithKeywords: packed::<G, $index>,
                    },
                )*
                _ => panic!("no trampoline for slot {index} and flags {flags}"),
            }
        };
    }
    const FAST: c_int = ffi::METH_FASTCALL | ffi::METH_KEYWORDS;
    const PACKED: c_int = ffi::METH_VARARGS | ffi::METH_KEYWORDS;
    functions!(
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
        32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61
        62 63
    )
}
