//! Readiness of a descriptor.
//!
//! The poller is level-triggered: a direction stays watched as long as somebody waits for it
//! each time it becomes ready, so a stream that is read until it would block costs no system call
//! per wait. Readiness that nobody waits for ends the watch.

#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, RawFd};
use std::task::{Context, Poll, Waker};

use pyo3::prelude::*;

use crate::api::futures::running;
use crate::ffi::exception::PyOutcome;
use crate::ffi::objects::cell::AttachedCell;
use crate::scheduler::runnable::{describe_object, never_cancelled, nothing_to_note};
pub use crate::scheduler::watch::Direction;
use crate::scheduler::{Runnable, RunnableKind, Scheduler};

/// A descriptor whose readiness can be awaited on the loop of this thread.
///
/// One task at a time can wait for a direction; the one that came last is woken.
///
/// The descriptor must be non-blocking, or [`AsyncFd::poll_io`] may block the loop. Not for regular
/// files, which are always ready and which epoll refuses.
///
/// ```
/// use ferroloop::{AsyncFd, Direction};
/// use std::io::{self, Read};
/// use std::os::unix::net::UnixStream;
///
/// async fn first_byte(stream: UnixStream) -> io::Result<u8> {
///     stream.set_nonblocking(true)?;
///     let stream = AsyncFd::new(stream)?;
///     let mut byte = [0];
///     stream.io(Direction::Read, |mut stream| stream.read_exact(&mut byte)).await?;
///     Ok(byte[0])
/// }
/// ```
pub struct AsyncFd<T: AsRawFd> {
    // Deregistered before the descriptor is closed: fields are dropped in this order.
    registration: Registration,
    inner: T,
}

impl<T: AsRawFd> AsyncFd<T> {
    /// Takes a descriptor. Nothing is registered until somebody waits.
    ///
    /// # Errors
    /// If no loop of ferroloop runs in this thread.
    pub fn new(inner: T) -> io::Result<Self> {
        Ok(Self { registration: Registration::new(inner.as_raw_fd())?, inner })
    }

    /// What was taken.
    pub fn get_ref(&self) -> &T {
        &self.inner
    }

    /// Gives the descriptor back.
    pub fn into_inner(self) -> T {
        self.inner
    }

    /// Calls `operation` until it does not answer [`io::ErrorKind::WouldBlock`], and waits in
    /// between.
    ///
    /// # Errors
    /// What the operation answers; what the kernel answers to watching the descriptor.
    pub fn poll_io<R>(
        &self,
        context: &mut Context<'_>,
        direction: Direction,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        loop {
            match operation(&self.inner) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return match self.registration.watch(direction, context.waker()) {
                        Ok(()) => Poll::Pending,
                        Err(error) => Poll::Ready(Err(error)),
                    };
                }
                other => return Poll::Ready(other),
            }
        }
    }

    /// As [`AsyncFd::poll_io`], as a future.
    ///
    /// # Errors
    /// As there.
    pub async fn io<R>(
        &self,
        direction: Direction,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> io::Result<R> {
        poll_fn(|context| self.poll_io(context, direction, &mut operation)).await
    }

    /// Waits until the descriptor is ready. Use it for what is not a call that can be tried.
    ///
    /// # Errors
    /// What the kernel answers to watching the descriptor.
    pub async fn ready(&self, direction: Direction) -> io::Result<()> {
        let seen = self.registration.notifications(direction);
        poll_fn(|context| {
            if self.registration.notifications(direction) != seen {
                return Poll::Ready(Ok(()));
            }
            self.registration.watch(direction, context.waker())?;
            Poll::Pending
        })
        .await
    }
}

/// One descriptor on the poller of one loop.
struct Registration {
    scheduler: Py<Scheduler>,
    waiters: Py<Waiters>,
    fd: RawFd,
    /// Belongs to the loop's thread.
    _local: PhantomData<*const ()>,
}

impl Registration {
    fn new(fd: RawFd) -> io::Result<Self> {
        Python::attach(|py| {
            let scheduler = running(py)?.unbind();
            let waiters = Py::new(py, Waiters { fd, read: Side::new(), write: Side::new() })?;
            Ok(Self { scheduler, waiters, fd, _local: PhantomData })
        })
        .map_err(|error: PyErr| io::Error::other(error))
    }

    /// How often the direction was seen to be ready while it was watched.
    fn notifications(&self, direction: Direction) -> u64 {
        Python::attach(|py| self.waiters.get().side(direction).notifications.get(py))
    }

    /// Has the waker called when the direction is ready.
    fn watch(&self, direction: Direction, waker: &Waker) -> io::Result<()> {
        Python::attach(|py| {
            let side = self.waiters.get().side(direction);
            drop(side.waker.replace(py, Some(waker.clone())));
            if side.watched.get(py) {
                return Ok(());
            }
            let scheduler = self.scheduler.get();
            if scheduler.check_open(py).is_err() {
                return Err(io::Error::other("the event loop is closed"));
            }
            let kind = match direction {
                Direction::Read => &READABLE,
                Direction::Write => &WRITABLE,
            };
            let runnable = Runnable::new(kind, self.waiters.bind(py).clone());
            let set = scheduler.watches.with(py, |w| w.set(self.fd, direction, runnable));
            match set {
                Ok(replaced) => {
                    side.watched.set(py, true);
                    drop(replaced);
                    Ok(())
                }
                Err(refused) => {
                    drop(side.waker.take(py));
                    Err(refused.error)
                }
            }
        })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // While the interpreter ends there is nothing to watch.
        let _ = Python::try_attach(|py| {
            for direction in [Direction::Read, Direction::Write] {
                let side = self.waiters.get().side(direction);
                drop(side.waker.take(py));
                Waiters::unwatch(self.waiters.bind(py), self.scheduler.get(), direction);
            }
        });
    }
}

/// Who waits for one descriptor: what the poller queues.
#[pyclass(frozen, module = "ferroloop._ferroloop", name = "_Waiters")]
struct Waiters {
    fd: RawFd,
    read: Side,
    write: Side,
}

/// One direction.
struct Side {
    waker: AttachedCell<Option<Waker>>,
    watched: AttachedCell<bool>,
    notifications: AttachedCell<u64>,
}

impl Side {
    fn new() -> Self {
        Self {
            waker: AttachedCell::new(None),
            watched: AttachedCell::new(false),
            notifications: AttachedCell::new(0),
        }
    }
}

impl Waiters {
    fn side(&self, direction: Direction) -> &Side {
        match direction {
            Direction::Read => &self.read,
            Direction::Write => &self.write,
        }
    }

    fn unwatch(slf: &Bound<'_, Self>, scheduler: &Scheduler, direction: Direction) {
        let (py, this) = (slf.py(), slf.get());
        if !this.side(direction).watched.get(py) {
            return;
        }
        this.side(direction).watched.set(py, false);
        // `add_reader()`, for one, may have taken the descriptor over.
        let removed =
            scheduler.watches.with(py, |watches| watches.unset_of(this.fd, direction, slf));
        drop(removed);
    }
}

const READABLE: RunnableKind = RunnableKind {
    run: |scheduler, runnable| run(scheduler, &runnable, Direction::Read),
    cancelled: never_cancelled,
    sets_current_task: false,
    show: nothing_to_note,
    describe: describe_object,
    left_timers: nothing_to_note,
};

const WRITABLE: RunnableKind = RunnableKind {
    run: |scheduler, runnable| run(scheduler, &runnable, Direction::Write),
    ..READABLE
};

fn run<'py>(
    scheduler: &Bound<'py, Scheduler>,
    runnable: &Runnable,
    direction: Direction,
) -> PyOutcome<'py, ()> {
    let py = scheduler.py();
    let Ok(waiters) = runnable.object.bind(py).cast::<Waiters>() else { return Ok(()) };
    let side = waiters.get().side(direction);
    side.notifications.set(py, side.notifications.get(py).wrapping_add(1));
    match side.waker.take(py) {
        Some(waker) => waker.wake(),
        // Level-triggered: it would be queued in every turn.
        None => Waiters::unwatch(waiters, scheduler.get(), direction),
    }
    Ok(())
}
