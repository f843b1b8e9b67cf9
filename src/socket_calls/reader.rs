//! Readiness of a socket for `loop.sock_recv()` and its like.
//!
//! A descriptor stays registered from one operation to the next, which spares two system calls a
//! message. It is let go when something arrives that nobody waits for. A program may close its
//! socket in between and the number may come back as another socket: a weak reference tells.

#![forbid(unsafe_code)]

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use crate::ffi::exception::PyOutcome;
use crate::ffi::objects::cell::{AttachedCell, Traverse};
use crate::interop::error::os_error;
use crate::scheduler::report::outcome;
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
        outcome(scheduler.py(), Self::readable(scheduler, &entry.object))
    }
}

/// Who uses a registered socket.
#[derive(Default)]
enum User {
    /// Nobody at the moment.
    #[default]
    None,
    /// An operation that waits.
    Waiting(Py<SocketOperation>),
    /// An operation that was woken and has not read yet.
    Woken(Py<SocketOperation>),
}

impl Traverse for User {
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
    user: AttachedCell<User>,
}

/// Whether a watch is only kept for the next operation, so that Python sees none.
pub fn is_parked(py: Python<'_>, runnable: &Runnable) -> bool {
    runnable
        .object
        .bind(py)
        .cast::<SocketReader>()
        .is_ok_and(|reader| reader.get().user.inspect(py, |user| !matches!(user, User::Waiting(_))))
}

impl SocketReader {
    /// Has `operation` woken when its socket, with the descriptor `fd`, is readable.
    pub fn wait<'py>(
        scheduler: &Bound<'py, Scheduler>,
        socket: &Bound<'py, PyAny>,
        fd: i32,
        operation: &Bound<'py, SocketOperation>,
    ) -> PyResult<Bound<'py, Self>> {
        let py = scheduler.py();
        let watches = &scheduler.get().watches;
        let current = watches.with(py, |watches| {
            let runnable = watches.get(fd, Direction::Read)?;
            Some(runnable.object.bind(py).clone())
        });
        let waiting = User::Waiting(operation.clone().unbind());
        let current = current.and_then(|object| object.cast_into::<Self>().ok());
        if let Some(current) = &current
            && current.get().socket.bind(py).upgrade().is_some_and(|known| known.is(socket))
        {
            // Another operation on the same socket is forgotten, as in asyncio.
            let before = current.get().user.replace(py, waiting);
            drop(before);
            return Ok(current.clone());
        }
        let reader = Self {
            socket: PyWeakrefReference::new(socket)?.unbind(),
            fd,
            user: AttachedCell::new(waiting),
        };
        let reader = Bound::new(py, reader)?;
        let runnable = Runnable::new(&READABLE, reader.clone());
        let replaced = watches
            .with(py, |watches| watches.set(fd, Direction::Read, runnable))
            .map_err(|refused| os_error(py, &refused.error))?;
        drop(replaced);
        if let Some(current) = current {
            // Its socket was closed under the operation that waits: let that see for itself.
            Self::wake(&current)?;
        }
        Ok(reader)
    }

    fn readable(scheduler: &Bound<'_, Scheduler>, slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let is_used = slf.get().user.inspect(py, |user| !matches!(user, User::None));
        if is_used {
            return Self::wake(slf);
        }
        let fd = slf.get().fd;
        let watches = &scheduler.get().watches;
        let removed = watches.with(py, |watches| watches.unset_of(fd, Direction::Read, slf));
        drop(removed);
        Ok(())
    }

    fn wake(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        match slf.get().user.take(py) {
            User::None => Ok(()),
            User::Waiting(operation) => {
                let woken = SocketOperation::wake(operation.bind(py));
                drop(slf.get().user.replace(py, User::Woken(operation)));
                woken
            }
            woken @ User::Woken(_) => {
                drop(slf.get().user.replace(py, woken));
                Ok(())
            }
        }
    }

    /// `operation` waits no longer.
    pub fn release(&self, operation: &Bound<'_, SocketOperation>) {
        let py = operation.py();
        let is_user = self.user.inspect(py, |user| match user {
            User::None => false,
            User::Waiting(user) | User::Woken(user) => user.is(operation),
        });
        if is_user {
            drop(self.user.take(py));
        }
    }
}

#[pymethods]
impl SocketReader {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.socket)?;
        self.user.visit_with(&visit)
    }

    fn __clear__(&self) {
        Python::attach(|py| drop(self.user.take(py)));
    }
}
