//! The running loop's current task, which Python 3.14 keeps in the thread state.
//!
//! asyncio's functions for it cost more than the rest of a task switch. They are used where these
//! words were not found, and for all errors.

use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;

use crate::ffi::layout::thread_state::{common_offset, words_referring_to};

/// Byte offsets in a thread state; 0 if unknown.
static RUNNING_LOOP: AtomicUsize = AtomicUsize::new(0);
static RUNNING_TASK: AtomicUsize = AtomicUsize::new(0);

/// Number of words of a thread state that [`probe_layout`] searches: those up to the head of the
/// thread's list of tasks, which follows the two.
#[cfg(not(Py_3_15))]
const WORDS: usize = 112;
#[cfg(Py_3_15)]
const WORDS: usize = 131;

/// A pointer to the current task's word, if `event_loop` runs in this thread and the offset is
/// known.
#[inline(always)]
fn task_slot(event_loop: &Bound<'_, PyAny>) -> Option<*mut *mut ffi::PyObject> {
    let offset = RUNNING_TASK.load(Ordering::Relaxed);
    if offset == 0 {
        return None;
    }
    // SAFETY: attached, so there is a thread state, in which `probe_layout` has found both words.
    unsafe {
        let thread = ffi::PyThreadState_Get();
        let running = thread.byte_add(RUNNING_LOOP.load(Ordering::Relaxed));
        let runs_here = running.cast::<*mut ffi::PyObject>().read() == event_loop.as_ptr();
        runs_here.then(|| thread.byte_add(offset).cast())
    }
}

/// Makes `task` the current one of `event_loop` if there is none. Returns false, and does nothing,
/// if there is one or if the offset is unknown.
#[inline(always)]
pub fn enter(event_loop: &Bound<'_, PyAny>, task: &Bound<'_, PyAny>) -> bool {
    let Some(slot) = task_slot(event_loop) else { return false };
    // SAFETY: the word is null or owns a reference; if null, it gets an owned reference.
    unsafe {
        let free = slot.read().is_null();
        if free {
            slot.write(ffi::Py_NewRef(task.as_ptr()));
        }
        free
    }
}

/// Replaces the current task of `event_loop` by `task`. Returns false, and does nothing, if the
/// offset is unknown. Runs Python code only by dropping the previous task.
#[inline(always)]
pub fn replace(event_loop: &Bound<'_, PyAny>, task: Option<&Bound<'_, PyAny>>) -> bool {
    let Some(slot) = task_slot(event_loop) else { return false };
    let task = task.map_or(std::ptr::null_mut(), |task| task.clone().into_ptr());
    // SAFETY: the word is null or owns a reference, which is dropped after the word has the new
    // one.
    unsafe { ffi::Py_XDECREF(slot.replace(task)) };
    true
}

/// The current task of `event_loop`; `None` if the offset is unknown.
#[inline(always)]
pub fn get<'py>(event_loop: &Bound<'py, PyAny>) -> Option<Option<Bound<'py, PyAny>>> {
    let slot = task_slot(event_loop)?;
    // SAFETY: the word is null or owns a reference, so the object is alive.
    Some(unsafe { Bound::from_borrowed_ptr_or_opt(event_loop.py(), slot.read()) })
}

/// Whether the offset of the current task is known.
pub fn is_known() -> bool {
    RUNNING_TASK.load(Ordering::Relaxed) != 0
}

/// Finds the offsets of the running loop and its current task.
///
/// # Errors
/// MemoryError.
pub fn probe_layout(py: Python<'_>) -> PyResult<()> {
    // Without the C module, asyncio keeps current tasks elsewhere.
    let Ok(asyncio) = py.import("_asyncio") else { return Ok(()) };
    let (first, second) = (new_object(py)?, new_object(py)?);
    let set_running_loop = asyncio.getattr("_set_running_loop")?;
    let swap_current_task = asyncio.getattr("_swap_current_task")?;
    // A task may be importing this module: its loop and the task itself are restored.
    let outer_loop = asyncio.getattr("_get_running_loop")?.call0()?;
    let outer_task = asyncio.getattr("current_task")?.call1((&outer_loop,));
    let outer_task = outer_task.unwrap_or_else(|_| py.None().into_bound(py));
    let probe = |running: &Bound<'_, PyAny>, task: &Bound<'_, PyAny>, target: &Bound<'_, PyAny>| {
        set_running_loop.call1((running,))?;
        let swapped = swap_current_task.call1((running, task));
        // SAFETY: a thread state has at least `WORDS` words.
        let places = unsafe { words_referring_to(target, WORDS) };
        let back = swap_current_task.call1((running, &outer_task));
        set_running_loop.call1((&outer_loop,))?;
        swapped.and(back).map(|_| places)
    };
    let loops = (probe(&first, &second, &first)?, probe(&second, &first, &second)?);
    let tasks = (probe(&first, &second, &second)?, probe(&second, &first, &first)?);
    let running_loop = common_offset(&loops.0, &loops.1);
    let running_task = common_offset(&tasks.0, &tasks.1);
    if let (Some(running_loop), Some(running_task)) = (running_loop, running_task) {
        RUNNING_LOOP.store(running_loop, Ordering::Relaxed);
        RUNNING_TASK.store(running_task, Ordering::Relaxed);
    }
    Ok(())
}

fn new_object(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.get_type::<PyAny>().call0()
}
