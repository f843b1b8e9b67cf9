//! asyncio's own handles in our queue. asyncio's code creates them while a tool has replaced one of
//! its methods; programs create them, too.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::ffi::call;
use crate::ffi::exception::{OrRaise, PyOutcome};
use crate::interop::imports;
use crate::scheduler::{QueueEntry, Queued, RunnableKind, Scheduler, Timer};

/// How the ready queue and the timers run a handle of asyncio.
pub static FOREIGN_HANDLE: RunnableKind = RunnableKind::of::<ForeignHandle>();

struct ForeignHandle;

impl Queued for ForeignHandle {
    type Object = PyAny;

    fn run<'py>(
        scheduler: &Bound<'py, Scheduler>,
        entry: QueueEntry<'py, PyAny>,
    ) -> PyOutcome<'py, ()> {
        let py = scheduler.py();
        let handle = entry.object;
        let is_cancelled =
            handle.getattr(intern!(py, "_cancelled")).and_then(|cancelled| cancelled.is_truthy());
        if is_cancelled.or_raise(py)? {
            return Ok(());
        }
        let run = handle.getattr(intern!(py, "_run")).or_raise(py)?;
        call::call0(&run).map(drop)
    }

    fn is_cancelled(handle: &Bound<'_, PyAny>) -> bool {
        is_flag_set(handle, "_cancelled")
    }

    fn left_timers(timer: &Bound<'_, PyAny>) {
        if is_plain(timer) {
            let unscheduled = timer.setattr(intern!(timer.py(), "_scheduled"), false);
            debug_assert!(unscheduled.is_ok(), "a slot of the class");
        }
    }
}

/// Whether the class is exactly one of asyncio's, so that its attributes are slots and reading them
/// runs no Python code.
fn is_plain(object: &Bound<'_, PyAny>) -> bool {
    let (py, class) = (object.py(), object.get_type());
    [imports::asyncio_handle(py), imports::asyncio_timer_handle(py)]
        .into_iter()
        .any(|plain| plain.is_ok_and(|plain| class.is(plain)))
}

fn is_flag_set(object: &Bound<'_, PyAny>, name: &str) -> bool {
    is_plain(object)
        && object.getattr(name).and_then(|value| value.is_truthy()).is_ok_and(|value| value)
}

/// Whether the timers can tell that this handle is cancelled, so that the loop must count it.
pub(super) fn is_asyncio_timer(timer: &Bound<'_, PyAny>) -> bool {
    is_plain(timer)
}

/// Moves timers from `loop._scheduled`, to which asyncio's own code and programs add them, to ours.
pub(super) fn arm_timers(
    scheduler: &Bound<'_, Scheduler>,
    scheduled: &Bound<'_, PyList>,
) -> PyResult<()> {
    let py = scheduler.py();
    while !scheduled.is_empty() {
        // Popped from the heap, so that timers with equal deadlines keep their order.
        let timer = imports::heappop(py)?.call1((scheduled,))?;
        let deadline = timer.getattr(intern!(py, "_when"))?.extract::<f64>()?;
        let timer = Timer { kind: &FOREIGN_HANDLE, object: timer.unbind() };
        scheduler.get().add_timer(py, deadline, timer);
    }
    Ok(())
}
