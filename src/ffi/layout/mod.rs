//! What depends on how a release of CPython lays out its memory: the list of what the next one
//! can break.
//!
//! Everything else in `ffi/` uses the documented C API. What is probed here is found by experiment
//! when the module is made; what is not found is not used, and `learned_places()` tells so.

pub mod c_future;
pub mod class_version;
pub mod context;
pub mod instruction;
#[cfg(Py_3_14)]
pub mod running_task;
pub mod socket;
pub mod task_number;
mod thread_state;
