//! `contextvars.Context`: copies and compares contexts, and runs code inside one.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;

use crate::ffi::exception::{PyOutcome, Raised};
use crate::ffi::layout::thread_state::{common_offset, words_referring_to};

/// A copy of the current context. Runs no Python code.
#[inline(always)]
pub fn copy_current(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: attached; returns an owned context, or null with MemoryError set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()) }
}

/// A copy of `context`, which must be one. Runs no Python code.
#[inline(always)]
pub fn copy<'py>(context: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: attached; for a wrong type the call raises TypeError.
    unsafe { Bound::from_owned_ptr_or_err(context.py(), ffi::PyContext_Copy(context.as_ptr())) }
}

/// Whether `object` is a context that [`run_in`] can enter directly.
#[inline(always)]
pub fn is_context(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: only the object's type is read.
    unsafe { ffi::PyContext_CheckExact(object.as_ptr()) != 0 }
}

/// Runs `body` inside `context`, as `context.run(body)` does.
///
/// Runs Python code if `body` does. A context that is already entered raises RuntimeError.
#[inline(always)]
pub fn run_in<'py, R>(
    context: &Bound<'py, PyAny>,
    body: impl FnOnce() -> PyOutcome<'py, R>,
) -> PyOutcome<'py, R> {
    enter(context)?;
    run_entered(context, body)
}

/// As [`run_in`], but inside a copy if `context` is already entered, as it is when Python code that
/// runs in it turns the loop.
pub fn run_in_it_or_copy<'py, R>(
    context: &Bound<'py, PyAny>,
    body: impl FnOnce() -> PyOutcome<'py, R>,
) -> PyOutcome<'py, R> {
    match enter(context) {
        Ok(()) => run_entered(context, body),
        Err(_entered) => {
            let py = context.py();
            let copy = copy(context).map_err(|error| error.into_value(py).into_bound(py))?;
            run_in(&copy, body)
        }
    }
}

#[inline(always)]
fn enter<'py>(context: &Bound<'py, PyAny>) -> PyOutcome<'py, ()> {
    // SAFETY: attached; for a wrong type the call raises TypeError.
    if unsafe { ffi::PyContext_Enter(context.as_ptr()) } != 0 {
        return Err(Raised::take(context.py()));
    }
    Ok(())
}

/// Runs `body` inside `context`, which was just entered, and exits it.
#[inline(always)]
fn run_entered<'py, R>(
    context: &Bound<'py, PyAny>,
    body: impl FnOnce() -> PyOutcome<'py, R>,
) -> PyOutcome<'py, R> {
    let result = body();
    // SAFETY: attached; entered above. No exception is set: `body` returns its own as a value.
    if unsafe { ffi::PyContext_Exit(context.as_ptr()) } != 0 {
        let failure = Raised::take(context.py());
        return result.and(Err(failure));
    }
    result
}

/// Byte offsets of the two words by which contexts are compared: the current context in a thread
/// state, and the variables in a context. 0 if unknown.
static CURRENT: AtomicUsize = AtomicUsize::new(0);
static VARIABLES: AtomicUsize = AtomicUsize::new(0);

/// Number of words of a thread state that [`probe_layout`] searches: fewer than any version has,
/// and more than those up to the context.
#[cfg(not(Py_3_15))]
const WORDS_OF_THREAD: usize = 32;
#[cfg(Py_3_15)]
const WORDS_OF_THREAD: usize = 48;

/// Whether contexts can be compared.
#[inline(always)]
pub fn is_comparable() -> bool {
    VARIABLES.load(Ordering::Relaxed) != 0
}

/// The variables of a context, an immutable mapping that each change replaces. Null if contexts
/// cannot be compared.
#[inline(always)]
fn variables(context: *mut ffi::PyObject) -> *mut ffi::PyObject {
    match VARIABLES.load(Ordering::Relaxed) {
        0 => std::ptr::null_mut(),
        // SAFETY: callers pass a live context; `probe_layout` has found its variables at this
        // offset.
        offset => unsafe { context.byte_add(offset).cast::<*mut ffi::PyObject>().read() },
    }
}

/// Whether `snapshot`, a context, has the variables of the current one: then it equals a copy made
/// now. False if unknown. Runs no Python code.
#[inline(always)]
pub fn equals_current(snapshot: &Bound<'_, PyAny>) -> bool {
    current(snapshot.py()).is_some_and(|current| variables(current) == variables(snapshot.as_ptr()))
}

/// The current context, borrowed from the thread state. `None` in a thread that has not used any
/// yet, or if unknown.
#[inline(always)]
fn current(_py: Python<'_>) -> Option<*mut ffi::PyObject> {
    let offset = CURRENT.load(Ordering::Relaxed);
    if offset == 0 {
        return None;
    }
    // SAFETY: attached, so there is a thread state, in which `probe_layout` has found the current
    // context at this offset: a live one, or null in a thread that has not used any yet.
    let current = unsafe {
        let thread = ffi::PyThreadState_Get();
        thread.byte_add(offset).cast::<*mut ffi::PyObject>().read()
    };
    (!current.is_null()).then_some(current)
}

/// Whether `context` is the current one. False if unknown.
#[inline(always)]
pub fn is_current(context: &Bound<'_, PyAny>) -> bool {
    current(context.py()) == Some(context.as_ptr())
}

/// Whether two contexts have the same variables. False if unknown.
#[inline(always)]
pub fn are_equal(one: &Bound<'_, PyAny>, other: &Bound<'_, PyAny>) -> bool {
    let variables_of_one = variables(one.as_ptr());
    !variables_of_one.is_null() && variables_of_one == variables(other.as_ptr())
}

/// The reference count of the variables of a context.
#[inline(always)]
pub fn count_of_variables(context: &Bound<'_, PyAny>) -> isize {
    let variables = variables(context.as_ptr());
    // SAFETY: a context owns its variables; only their reference count is read.
    if variables.is_null() { 0 } else { unsafe { ffi::Py_REFCNT(variables) } }
}

/// Finds the offsets of what [`equals_current`] and [`are_equal`] compare. If they are not found,
/// contexts are copied instead of compared.
///
/// # Errors
/// MemoryError.
pub fn probe_layout(py: Python<'_>) -> PyResult<()> {
    let (first, second) = (new_context(py)?, new_context(py)?);
    let Some(in_thread) = offset_of_current(&first, &second) else { return Ok(()) };
    let Some(in_context) = offset_of_variables(&first)? else { return Ok(()) };
    CURRENT.store(in_thread, Ordering::Relaxed);
    VARIABLES.store(in_context, Ordering::Relaxed);
    Ok(())
}

fn new_context(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: attached; returns an owned context, or null with MemoryError set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_New()) }
}

/// The offset at which the thread state refers to the current context.
fn offset_of_current(first: &Bound<'_, PyAny>, second: &Bound<'_, PyAny>) -> Option<usize> {
    let places = |context: &Bound<'_, PyAny>| {
        // SAFETY: a thread state has more than `WORDS_OF_THREAD` words.
        run_in(context, || Ok(unsafe { words_referring_to(context, WORDS_OF_THREAD) }))
            .unwrap_or_default()
    };
    common_offset(&places(first), &places(second))
}

/// The offset at which a context refers to its only referent, before and after a variable is set.
fn offset_of_variables(context: &Bound<'_, PyAny>) -> PyResult<Option<usize>> {
    let py = context.py();
    let word = size_of::<usize>();
    let place = |referent: usize| {
        // SAFETY: the words before the last are fields of a live context.
        unsafe {
            let size = (*ffi::Py_TYPE(context.as_ptr())).tp_basicsize.unsigned_abs();
            let fields =
                std::slice::from_raw_parts(context.as_ptr().cast::<usize>(), size / word - 1);
            fields.iter().position(|&field| field == referent)
        }
    };
    let Some(empty) = only_referent(context) else { return Ok(None) };
    let before = place(empty);
    let set = run_in(context, || {
        // SAFETY: attached; a name, no default, and an owned variable or an error.
        let variable = unsafe {
            let made = ffi::PyContextVar_New(c"ferroloop".as_ptr(), std::ptr::null_mut());
            Bound::from_owned_ptr_or_opt(py, made).ok_or_else(|| Raised::take(py))?
        };
        // SAFETY: attached; a variable and a value; an owned token or an error.
        unsafe {
            let token = ffi::PyContextVar_Set(variable.as_ptr(), ffi::Py_None());
            Bound::from_owned_ptr_or_opt(py, token).ok_or_else(|| Raised::take(py)).map(drop)
        }
    });
    set?;
    let after = only_referent(context).filter(|&after| after != empty).and_then(place);
    Ok(before.filter(|_| before == after).map(|index| index * word))
}

/// The address of the object that a context reports to the garbage collector, if it is only one.
fn only_referent(context: &Bound<'_, PyAny>) -> Option<usize> {
    extern "C" fn record(referent: *mut ffi::PyObject, referents: *mut c_void) -> c_int {
        // SAFETY: `referents` is the vector passed to `traverse`.
        unsafe { (*referents.cast::<Vec<usize>>()).push(referent as usize) };
        0
    }
    let mut referents: Vec<usize> = Vec::new();
    // SAFETY: a live object and its type's own function, which calls `record` for each referent.
    unsafe {
        let traverse = (*ffi::Py_TYPE(context.as_ptr())).tp_traverse?;
        traverse(context.as_ptr(), record, (&raw mut referents).cast());
    }
    match referents[..] {
        [only] => Some(only),
        _ => None,
    }
}
