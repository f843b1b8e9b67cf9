//! Readiness of a socket for reading, for `sock_recv()` and the other receiving calls.
//!
//! A descriptor stays registered from one call to the next, which saves two system calls per
//! message. It is deregistered when data arrives while no call waits. The program may close
//! its socket in between and another socket may reuse the number: a weak reference to the socket
//! object detects that.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use crate::ffi::exception::{OrRaise, PyOutcome};
use crate::ffi::objects::cell::{AttachedCell, Traverse};
use crate::ffi::section::attach_unshared;
use crate::interop::error::os_error;
use crate::scheduler::watch::Direction;
use crate::scheduler::{QueueEntry, Queued, Runnable, RunnableKind, Scheduler};
use crate::socket_calls::SocketCall;

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

/// The call that uses a registered socket.
#[derive(Default)]
enum CurrentCall {
    /// No call uses the socket.
    #[default]
    None,
    /// A call that waits.
    Waiting(Py<SocketCall>),
    /// A call that was woken and has not read yet.
    Woken(Py<SocketCall>),
}

impl Traverse for CurrentCall {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::None => Ok(()),
            Self::Waiting(call) | Self::Woken(call) => visit.call(call),
        }
    }
}

/// A socket that is registered for reading, and the call that uses it.
#[pyclass(frozen, module = "ferroloop._ferroloop")]
pub struct SocketReader {
    socket: Py<PyWeakrefReference>,
    fd: i32,
    call: AttachedCell<CurrentCall>,
}

/// Whether a watch is only kept for the next call, so that it is invisible to the program.
pub fn is_idle_reader(py: Python<'_>, runnable: &Runnable) -> bool {
    runnable.object.bind(py).cast::<SocketReader>().is_ok_and(|reader| {
        reader.get().call.inspect(py, |current| !matches!(current, CurrentCall::Waiting(_)))
    })
}

impl SocketReader {
    /// Arranges for `call` to be woken when its socket, with the descriptor `fd`, is readable.
    pub fn wait<'py>(
        scheduler: &Bound<'py, Scheduler>,
        socket: &Bound<'py, PyAny>,
        fd: i32,
        call: &Bound<'py, SocketCall>,
    ) -> PyResult<Bound<'py, Self>> {
        let py = scheduler.py();
        let current = scheduler.get().watcher(py, fd, Direction::Read);
        let waiting = CurrentCall::Waiting(call.clone().unbind());
        let current = current.and_then(|(_, object)| object.cast_into::<Self>().ok());
        let same_socket = current.as_ref().filter(|reader| {
            reader.get().socket.bind(py).upgrade().is_some_and(|known| known.is(socket))
        });
        if let Some(current) = same_socket {
            // Another call that waits on the same socket is never woken, as in asyncio.
            let before = current.get().call.replace(py, waiting);
            drop(before);
            return Ok(current.clone());
        }
        let reader = Self {
            socket: PyWeakrefReference::new(socket)?.unbind(),
            fd,
            call: AttachedCell::new(waiting),
        };
        let reader = Bound::new(py, reader)?;
        let runnable = Runnable::new(&READABLE, reader.clone());
        let replaced = scheduler
            .get()
            .watch(py, fd, Direction::Read, runnable)
            .map_err(|refused| os_error(py, &refused.error))?;
        drop(replaced);
        if let Some(current) = current {
            // The socket of the waiting call was closed: its system call will fail.
            Self::wake(&current)?;
        }
        Ok(reader)
    }

    fn readable(scheduler: &Bound<'_, Scheduler>, slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let has_call = slf.get().call.inspect(py, |current| !matches!(current, CurrentCall::None));
        if has_call {
            return Self::wake(slf);
        }
        let fd = slf.get().fd;
        drop(scheduler.get().unwatch_of(fd, Direction::Read, slf));
        Ok(())
    }

    fn wake(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        match slf.get().call.take(py) {
            CurrentCall::None => Ok(()),
            CurrentCall::Waiting(call) => {
                let woken = SocketCall::wake(call.bind(py));
                drop(slf.get().call.replace(py, CurrentCall::Woken(call)));
                woken
            }
            woken @ CurrentCall::Woken(_) => {
                drop(slf.get().call.replace(py, woken));
                Ok(())
            }
        }
    }

    /// Called when `call` no longer waits.
    pub fn release(&self, call: &Bound<'_, SocketCall>) {
        let py = call.py();
        let is_current = self.call.inspect(py, |current| match current {
            CurrentCall::None => false,
            CurrentCall::Waiting(current) | CurrentCall::Woken(current) => current.is(call),
        });
        if is_current {
            drop(self.call.take(py));
        }
    }
}

#[pymethods]
impl SocketReader {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.socket)?;
        self.call.visit_with(&visit)
    }

    fn __clear__(&self) {
        attach_unshared(|py| drop(self.call.take(py)));
    }
}
