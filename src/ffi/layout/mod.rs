//! What depends on the memory layout of a CPython release: the list of what the next release can
//! break.
//!
//! The rest of `ffi/` uses the documented C API. Offsets are probed when the module is initialised;
//! one that is not found is not used, and `probed_offsets()` reports it.
//!
//! * `thread_state.rs`: finds words of the thread state, for the next three;
//! * `context.rs`: the current context, and comparing contexts;
//! * `running_task.rs`: the current task (Python 3.14);
//! * `critical_section.rs`: the innermost critical section, without a GIL;
//! * `task_object.rs`: what tools read of a task, and `task_list.rs`: the lists of tasks (3.14);
//! * `task_number.rs`: the counter of automatic task names;
//! * `instruction.rs`: the instruction that the innermost frame executes;
//! * `class_version.rs`: version tags of classes;
//! * `c_future.rs`: attributes and methods of asyncio's C futures;
//! * `socket.rs`: the descriptor of a socket object;
//! * `ssl_socket.rs`: the `SSL*` of `_ssl`'s objects.

pub mod c_future;
pub mod class_version;
pub mod context;
#[cfg(Py_GIL_DISABLED)]
pub mod critical_section;
pub mod instruction;
#[cfg(Py_3_14)]
pub mod running_task;
pub mod socket;
pub mod ssl_socket;
#[cfg(published_tasks)]
pub mod task_list;
pub mod task_number;
#[cfg(published_tasks)]
pub mod task_object;
mod thread_state;
