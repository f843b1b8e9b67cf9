//! The layout of asyncio's `Task`, of which `_asyncio` publishes some offsets to tools from Python 3.14
//! on: `python -m asyncio ps`, sampling profilers and the interpreter's own `all_tasks()` read the
//! memory of every object in the lists of tasks as if it had this layout.
//!
//! `Task` of this crate has the same layout, as far as it is published. [`probe`] compares: it makes
//! tasks of asyncio and looks where their memory has what is known of them. Only if all of it is
//! where `Task` has it do our tasks go to the interpreter's lists (`task_list.rs`).

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;

use crate::ffi::layout::task_list::{self, FINALIZING, TaskNode};

/// Byte offsets in a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskOffsets {
    /// The object, or the set of objects, that await the task.
    pub awaited_by: usize,
    /// An `int` of C which debug builds of CPython expect to be 0 in a list of tasks.
    pub state: usize,
    /// A byte that tells a task, 1, from a future, 0.
    pub is_task: usize,
    /// A byte that tells whether `awaited_by` is a set.
    pub awaited_by_is_set: usize,
    /// The coroutine.
    pub coroutine: usize,
    /// The name, a str, or an int that stands for `Task-N`.
    pub name: usize,
    /// The place in the list of tasks.
    pub node: usize,
}

impl TaskOffsets {
    /// The offsets for which `Task` is made: those of 3.14 and 3.15 where a pointer has 8 bytes.
    pub const EXPECTED: Self = Self {
        awaited_by: 96,
        state: 104,
        is_task: 108,
        awaited_by_is_set: 109,
        coroutine: 128,
        name: 136,
        node: 152,
    };
}

/// The size of asyncio's task object: tools read so many bytes.
const SIZE: usize = 168;

/// The bytes of a thread state in which the head of its list is looked for: up to the end of the
/// head.
#[cfg(not(Py_3_15))]
const THREAD_STATE: usize = 896;
#[cfg(Py_3_15)]
const THREAD_STATE: usize = 1064;

/// A task of asyncio's C module.
struct CTask<'py>(Bound<'py, PyAny>);

impl<'py> CTask<'py> {
    /// `task`, if objects of its class have the expected size.
    fn of(task: Bound<'py, PyAny>) -> Option<Self> {
        // SAFETY: a live object; only the size in its type is read.
        let size = unsafe { (*ffi::Py_TYPE(task.as_ptr())).tp_basicsize };
        (size.unsigned_abs() == SIZE).then_some(Self(task))
    }

    /// The word at `offset`.
    fn word(&self, offset: usize) -> usize {
        assert!(offset + size_of::<usize>() <= SIZE, "inside of the task");
        // SAFETY: the word is inside of the object, which CPython zeroes when it makes it.
        unsafe { self.0.as_ptr().byte_add(offset).cast::<usize>().read() }
    }

    /// The bytes of the word that contains `offset`, from there on.
    fn bytes(&self, offset: usize) -> Vec<u8> {
        let start = offset - offset % size_of::<usize>();
        self.word(start).to_ne_bytes()[offset - start..].to_vec()
    }

    fn holds(&self, offset: usize, object: &Bound<'_, PyAny>) -> bool {
        self.word(offset) == object.as_ptr().addr()
    }

    /// The address of its node, and those to which its links lead.
    fn links(&self) -> (usize, usize, usize) {
        let node = TaskOffsets::EXPECTED.node;
        let here = self.0.as_ptr().addr() + node;
        (here, self.word(node), self.word(node + size_of::<usize>()))
    }
}

/// Whether asyncio's tasks have at the expected places what is known of them, except for the node.
fn has_expected_fields(
    tasks: &[CTask<'_>; 3],
    name: &Bound<'_, PyAny>,
    module: &Bound<'_, PyModule>,
) -> PyResult<bool> {
    let py = name.py();
    let offsets = TaskOffsets::EXPECTED;
    let [task, second, third] = tasks;
    let coroutine = task.0.call_method0(intern!(py, "get_coro"))?;
    let fields = task.holds(offsets.name, name)
        && task.holds(offsets.coroutine, &coroutine)
        && task.bytes(offsets.state).starts_with(&[0; 4])
        && task.bytes(offsets.is_task).starts_with(&[1, 0])
        && task.word(offsets.awaited_by) == 0;
    let add = module.getattr(intern!(py, "future_add_to_awaited_by"))?;
    add.call1((&task.0, &second.0))?;
    let one = task.holds(offsets.awaited_by, &second.0)
        && task.bytes(offsets.awaited_by_is_set).first() == Some(&0);
    add.call1((&task.0, &third.0))?;
    let several = task.bytes(offsets.awaited_by_is_set).first() == Some(&1);
    Ok(fields && one && several)
}

/// The offset of the head in the state of this thread, if the last three tasks of its list are these.
fn find_head(_py: Python<'_>, [first, second, third]: &[CTask<'_>; 3]) -> Option<usize> {
    let (first, second, third) = (first.links(), second.links(), third.links());
    let consecutive =
        (first.1, second.2) == (second.0, first.0) && (second.1, third.2) == (third.0, second.0);
    // SAFETY: attached, so there is a thread state.
    let thread = unsafe { ffi::PyThreadState_Get() };
    let (last, head) = (third.0, third.1);
    let offset = head.checked_sub(thread.addr())?;
    let inside = offset > 0 && offset + size_of::<TaskNode>() <= THREAD_STATE;
    if !consecutive || !inside || offset % size_of::<usize>() != 0 {
        return None;
    }
    // SAFETY: both links of the head are inside of the thread state.
    let previous = unsafe { thread.byte_add(offset).cast::<[usize; 2]>().read() }[1];
    (previous == last).then_some(offset)
}

/// Whether a thread state tells that it is being cleared.
fn tells_its_end(_py: Python<'_>) -> bool {
    // SAFETY: attached; a new thread state of this interpreter that no thread uses. Clearing it leaves
    // it readable.
    unsafe {
        let thread = ffi::PyThreadState_New(ffi::PyInterpreterState_Get());
        if thread.is_null() {
            return false;
        }
        let before = task_list::status(thread);
        ffi::PyThreadState_Clear(thread);
        let after = task_list::status(thread);
        ffi::PyThreadState_Delete(thread);
        before & FINALIZING == 0 && after & FINALIZING != 0
    }
}

/// Compares the layout of asyncio's tasks with [`TaskOffsets::EXPECTED`], which `ours` must equal, and
/// looks for the lists of tasks. `make` makes a task of `module` of the given name that never runs.
/// Returns whether the tasks of this crate will be in the interpreter's lists.
pub fn probe(
    module: &Bound<'_, PyModule>,
    make: &Bound<'_, PyAny>,
    ours: &TaskOffsets,
) -> PyResult<bool> {
    let py = module.py();
    if *ours != TaskOffsets::EXPECTED {
        return Ok(false);
    }
    let name = "a task".into_pyobject(py)?.into_any();
    let make = || Ok::<_, PyErr>(CTask::of(make.call1((&name,))?));
    let (Some(first), Some(second), Some(third)) = (make()?, make()?, make()?) else {
        return Ok(false);
    };
    let tasks = [first, second, third];
    let head = find_head(py, &tasks);
    let known = has_expected_fields(&tasks, &name, module)? && tells_its_end(py);
    if let Some(head) = head.filter(|_| known) {
        // SAFETY: found in this thread, and thread states are alike; the tasks of this crate have
        // the offsets of asyncio's.
        unsafe { task_list::set_head(head) };
    }
    Ok(task_list::is_known())
}

/// Whether tools can read the frames of `coroutine`: whether it is an object of the interpreter's own.
#[inline(always)]
pub fn has_readable_frames(coroutine: &Bound<'_, PyAny>) -> bool {
    // SAFETY: a live object; only its type pointer is read.
    unsafe {
        ffi::PyCoro_CheckExact(coroutine.as_ptr()) != 0
            || ffi::PyGen_CheckExact(coroutine.as_ptr()) != 0
    }
}
