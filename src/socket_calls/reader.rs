//! Readiness of a socket for reading, for `sock_recv()` and the other receiving operations.
//!
//! A descriptor stays registered from one operation to the next, which saves two system calls per
//! message. It is deregistered when data arrives while no operation waits. The program may close
//! its socket in between and another socket may reuse the number: a weak reference to the socket
//! object detects that.

#![forbid(unsafe_code)]

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use crate::ffi::exception::{OrRaise, PyOutcome};
use crate::ffi::objects::cell::{AttachedCell, Traverse};
use crate::interop::error::os_error;
use crate::scheduler::watch::Direction;
use crate::scheduler::{QueueEntry, Queued, Runnable, RunnableKind, Scheduler};
use crate::socket_calls::SocketOperation;

static READABLE: RunnableKind = RunnableKind::of::<SocketReader>();

impl Queued for SocketReader {
    type Object = Self;

    fn run<'py>(
        scheduler: &Bound<'py, Scheduler>,
        entry: QueueEntry<'py, Self>,
    ) -> PyOutcome<'py, ()> {
        Self::readable(scheduler, &entry.object).or_raise(scheduler.py())
    }
}

/// The operation that uses a registered socket.
#[derive(Default)]
enum CurrentOperation {
    /// No operation uses the socket.
    #[default]
    None,
    /// An operation that waits.
    Waiting(Py<SocketOperation>),
    /// An operation that was woken and has not read yet.
    Woken(Py<SocketOperation>),
}

impl Traverse for CurrentOperation {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::None => Ok(()),
            Self::Waiting(operation) | Self::Woken(operation) => visit.call(operation),
        }
    }
}

/// A socket that is registered for reading, and the operation that uses it.
#[pyclass(frozen, module = "ferroloop._ferroloop")]
pub struct SocketReader {
    socket: Py<PyWeakrefReference>,
    fd: i32,
    operation: AttachedCell<CurrentOperation>,
}

/// Whether a watch is only kept for the next operation, so that it is invisible to the program.
pub fn is_idle_reader(py: Python<'_>, runnable: &Runnable) -> bool {
    runnable.object.bind(py).cast::<SocketReader>().is_ok_and(|reader| {
        reader
            .get()
            .operation
            .inspect(py, |current| !matches!(current, CurrentOperation::Waiting(_)))
    })
}

impl SocketReader {
    /// Arranges for `operation` to be woken when its socket, with the descriptor `fd`, is readable.
    pub fn wait<'py>(
        scheduler: &Bound<'py, Scheduler>,
        socket: &Bound<'py, PyAny>,
        fd: i32,
        operation: &Bound<'py, SocketOperation>,
    ) -> PyResult<Bound<'py, Self>> {
        let py = scheduler.py();
        let current = scheduler.get().watcher(py, fd, Direction::Read);
        let waiting = CurrentOperation::Waiting(operation.clone().unbind());
        let current = current.and_then(|(_, object)| object.cast_into::<Self>().ok());
        let same_socket = current.as_ref().filter(|reader| {
            reader.get().socket.bind(py).upgrade().is_some_and(|known| known.is(socket))
        });
        if let Some(current) = same_socket {
            // Another operation that waits on the same socket is never woken, as in asyncio.
            let before = current.get().operation.replace(py, waiting);
            drop(before);
            return Ok(current.clone());
        }
        let reader = Self {
            socket: PyWeakrefReference::new(socket)?.unbind(),
            fd,
            operation: AttachedCell::new(waiting),
        };
        let reader = Bound::new(py, reader)?;
        let runnable = Runnable::new(&READABLE, reader.clone());
        let replaced = scheduler
            .get()
            .watch(py, fd, Direction::Read, runnable)
            .map_err(|refused| os_error(py, &refused.error))?;
        drop(replaced);
        if let Some(current) = current {
            // The socket of the waiting operation was closed: its call will fail.
            Self::wake(&current)?;
        }
        Ok(reader)
    }

    fn readable(scheduler: &Bound<'_, Scheduler>, slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let has_operation =
            slf.get().operation.inspect(py, |current| !matches!(current, CurrentOperation::None));
        if has_operation {
            return Self::wake(slf);
        }
        let fd = slf.get().fd;
        drop(scheduler.get().unwatch_of(fd, Direction::Read, slf));
        Ok(())
    }

    fn wake(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        match slf.get().operation.take(py) {
            CurrentOperation::None => Ok(()),
            CurrentOperation::Waiting(operation) => {
                let woken = SocketOperation::wake(operation.bind(py));
                drop(slf.get().operation.replace(py, CurrentOperation::Woken(operation)));
                woken
            }
            woken @ CurrentOperation::Woken(_) => {
                drop(slf.get().operation.replace(py, woken));
                Ok(())
            }
        }
    }

    /// Called when `operation` no longer waits.
    pub fn release(&self, operation: &Bound<'_, SocketOperation>) {
        let py = operation.py();
        let is_current = self.operation.inspect(py, |current| match current {
            CurrentOperation::None => false,
            CurrentOperation::Waiting(current) | CurrentOperation::Woken(current) => {
                current.is(operation)
            }
        });
        if is_current {
            drop(self.operation.take(py));
        }
    }
}

#[pymethods]
impl SocketReader {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.socket)?;
        self.operation.visit_with(&visit)
    }

    fn __clear__(&self) {
        Python::attach(|py| drop(self.operation.take(py)));
    }
}
