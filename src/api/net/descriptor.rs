//! Readiness of a descriptor.
//!
//! The poller is level-triggered. A direction stays watched as long as a task waits for it each
//! time it becomes ready, so a task that reads until the call would block needs no further system
//! call to wait. If no task waits when the direction is ready, the watch ends.

use std::future::poll_fn;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, RawFd};
use std::task::{Context, Poll, Waker, ready};

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;

use crate::api::futures::{budget, running_loop, wake, wake_catching};
use crate::ffi::exception::PyOutcome;
use crate::ffi::objects::cell::AttachedCell;
use crate::ffi::panic::drop_catching;
use crate::ffi::section;
pub use crate::scheduler::watch::Direction;
use crate::scheduler::{QueueEntry, Queued, Runnable, RunnableKind, Scheduler};
use crate::socket_calls::is_idle_reader;

/// A descriptor whose readiness can be awaited on the loop of this thread.
///
/// One task at a time can wait for a direction: [`AsyncFd::ready`] and [`AsyncFd::io`] fail in a
/// second one with [`io::ErrorKind::ResourceBusy`]. So does every wait for a descriptor that a
/// transport, `add_reader()` or another `AsyncFd` uses.
///
/// The descriptor must be non-blocking, or [`AsyncFd::poll_io`] may block the loop. Regular files
/// do not work: epoll does not accept them.
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
    /// Takes ownership of a descriptor. It is registered when a task first waits for it.
    ///
    /// # Errors
    /// If no loop of ferroloop runs in this thread.
    pub fn new(inner: T) -> io::Result<Self> {
        Ok(Self { registration: Registration::new(inner.as_raw_fd())?, inner })
    }

    /// The owner of the descriptor that was passed to [`AsyncFd::new`].
    pub fn get_ref(&self) -> &T {
        &self.inner
    }

    /// Deregisters the descriptor and returns its owner.
    pub fn into_inner(self) -> T {
        self.inner
    }

    /// Calls `operation`, again if it is interrupted. If it fails with
    /// [`io::ErrorKind::WouldBlock`], waits until the descriptor is ready; the next poll calls it
    /// again. If several tasks poll a direction, only the last one is woken.
    ///
    /// # Errors
    /// Errors of the operation, and of registering the descriptor with the poller.
    pub fn poll_io<R>(
        &self,
        context: &mut Context<'_>,
        direction: Direction,
        operation: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        ready!(budget::poll_left(context));
        if let Some(done) = self.attempt(operation) {
            return Poll::Ready(done);
        }
        self.registration.check_unclaimed(direction)?;
        self.registration.watch(direction, context.waker())?;
        Poll::Pending
    }

    /// Calls `operation`, again if it is interrupted. None if it would block.
    fn attempt<R>(&self, mut operation: impl FnMut(&T) -> io::Result<R>) -> Option<io::Result<R>> {
        loop {
            match operation(&self.inner) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                other => {
                    budget::spend();
                    return Some(other);
                }
            }
        }
    }

    /// [`AsyncFd::poll_io`] as a future.
    ///
    /// # Errors
    /// Errors of the operation, and of registering the descriptor with the poller.
    pub async fn io<R>(
        &self,
        direction: Direction,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> io::Result<R> {
        let mut claim = None;
        poll_fn(|context| {
            ready!(budget::poll_left(context));
            if let Some(done) = self.attempt(&mut operation) {
                return Poll::Ready(done);
            }
            self.registration.claim(direction, &mut claim)?;
            self.registration.watch(direction, context.waker())?;
            Poll::Pending
        })
        .await
    }

    /// Waits until the descriptor is ready, for operations that cannot simply be tried, as
    /// [`AsyncFd::io`] does.
    ///
    /// # Errors
    /// Errors of registering the descriptor with the poller.
    pub async fn ready(&self, direction: Direction) -> io::Result<()> {
        let before = self.registration.notifications(direction);
        let mut claim = None;
        poll_fn(|context| {
            ready!(budget::poll_left(context));
            if self.registration.notifications(direction) != before {
                budget::spend();
                return Poll::Ready(Ok(()));
            }
            self.registration.claim(direction, &mut claim)?;
            self.registration.watch(direction, context.waker())?;
            Poll::Pending
        })
        .await
    }
}

/// The registration of one descriptor with the poller of one loop.
struct Registration {
    scheduler: Py<Scheduler>,
    wakers: Py<DescriptorWakers>,
    fd: RawFd,
    /// Not `Send`: it belongs to the loop's thread.
    _local: PhantomData<*const ()>,
}

impl Registration {
    fn new(fd: RawFd) -> io::Result<Self> {
        Python::attach(|py| {
            let scheduler = running_loop(py)?.unbind();
            let wakers = Py::new(
                py,
                DescriptorWakers { fd, read: DirectionState::new(), write: DirectionState::new() },
            )?;
            Ok(Self { scheduler, wakers, fd, _local: PhantomData })
        })
        .map_err(|error: PyErr| io::Error::other(error))
    }

    /// Calls `body` attached, in the section of the loop.
    fn attach<R>(&self, body: impl FnOnce(Python<'_>) -> R) -> R {
        Python::attach(|py| section::enter(self.scheduler.bind(py), || body(py)))
    }

    /// As [`Registration::attach`], for what is dropped: does nothing while the interpreter shuts
    /// down.
    fn try_attach(&self, body: impl FnOnce(Python<'_>)) {
        let _ = Python::try_attach(|py| section::enter(self.scheduler.bind(py), || body(py)));
    }

    /// How often the poller has reported the direction as ready.
    fn notifications(&self, direction: Direction) -> u64 {
        self.attach(|py| self.wakers.get().side(direction).notifications.get(py))
    }

    /// # Errors
    /// If a future waits for the direction.
    fn check_unclaimed(&self, direction: Direction) -> io::Result<()> {
        let claimed = self.attach(|py| self.wakers.get().side(direction).claimed.get(py));
        if claimed { Err(used_by_another_task(self.fd)) } else { Ok(()) }
    }

    /// Reserves a direction for one future, which keeps the claim while it waits.
    ///
    /// # Errors
    /// If another future has reserved it.
    fn claim<'a>(&'a self, direction: Direction, claim: &mut Option<Claim<'a>>) -> io::Result<()> {
        if claim.is_none() {
            self.check_unclaimed(direction)?;
            self.attach(|py| self.wakers.get().side(direction).claimed.set(py, true));
            *claim = Some(Claim(self, direction));
        }
        Ok(())
    }

    /// Arranges for `waker` to be called when the direction is ready.
    fn watch(&self, direction: Direction, waker: &Waker) -> io::Result<()> {
        self.attach(|py| {
            let side = self.wakers.get().side(direction);
            if side.watched.get(py) {
                drop_catching(side.waker.replace(py, Some(waker.clone())));
                return Ok(());
            }
            let scheduler = self.scheduler.get();
            if scheduler.check_open(py).is_err() {
                return Err(io::Error::other("the event loop is closed"));
            }
            self.check_unused(py, direction)?;
            drop_catching(side.waker.replace(py, Some(waker.clone())));
            let kind = match direction {
                Direction::Read => &READABLE,
                Direction::Write => &WRITABLE,
            };
            let runnable = Runnable::new(kind, self.wakers.bind(py).clone());
            let set = scheduler.watch(py, self.fd, direction, runnable);
            match set {
                Ok(replaced) => {
                    side.watched.set(py, true);
                    drop(replaced);
                    Ok(())
                }
                Err(refused) => {
                    drop_catching(side.waker.take(py));
                    Err(refused.error)
                }
            }
        })
    }
}

impl Registration {
    /// Refuses a descriptor that another owner watches, as asyncio does.
    ///
    /// # Errors
    /// RuntimeError as an [`io::Error`].
    fn check_unused(&self, py: Python<'_>, direction: Direction) -> io::Result<()> {
        let refuse = |error: PyErr| io::Error::new(io::ErrorKind::ResourceBusy, error);
        let scheduler = self.scheduler.bind(py);
        let ensure_no_transport = intern!(py, "_ensure_fd_no_transport");
        scheduler.call_method1(ensure_no_transport, (self.fd,)).map_err(refuse)?;
        let Some(owner) = scheduler.get().live_watch(py, self.fd, direction) else {
            return Ok(());
        };
        let object = owner.object.bind(py);
        if let Ok(wakers) = object.cast::<DescriptorWakers>() {
            let waits = wakers.get().side(direction).waker.inspect(py, Option::is_some);
            return if waits { Err(used_by_another_task(self.fd)) } else { Ok(()) };
        }
        if (owner.kind.cancelled)(object) || is_idle_reader(py, &owner) {
            return Ok(());
        }
        let owner = object.repr().map_err(refuse)?;
        let message = format!("File descriptor {} is used by {owner}", self.fd);
        Err(refuse(PyRuntimeError::new_err(message)))
    }
}

#[cold]
fn used_by_another_task(fd: RawFd) -> io::Error {
    let message = format!("Another task waits for file descriptor {fd}");
    io::Error::new(io::ErrorKind::ResourceBusy, PyRuntimeError::new_err(message))
}

/// The right of one future to wait for a direction.
struct Claim<'a>(&'a Registration, Direction);

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // While the interpreter shuts down no future waits any more.
        self.0.try_attach(|py| {
            let side = self.0.wakers.get().side(self.1);
            side.claimed.set(py, false);
            drop_catching(side.waker.take(py));
        });
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // While the interpreter shuts down no loop watches anything.
        self.try_attach(|py| {
            for direction in [Direction::Read, Direction::Write] {
                let side = self.wakers.get().side(direction);
                drop_catching(side.waker.take(py));
                DescriptorWakers::unwatch(self.wakers.bind(py), self.scheduler.get(), direction);
            }
        });
    }
}

/// The wakers of one descriptor: the object that the poller queues.
#[pyclass(frozen, module = "ferroloop._ferroloop", name = "_Waiters")]
struct DescriptorWakers {
    fd: RawFd,
    read: DirectionState,
    write: DirectionState,
}

/// The state of one direction.
struct DirectionState {
    waker: AttachedCell<Option<Waker>>,
    watched: AttachedCell<bool>,
    /// Whether a future of [`AsyncFd::ready`] or [`AsyncFd::io`] waits.
    claimed: AttachedCell<bool>,
    notifications: AttachedCell<u64>,
}

impl DirectionState {
    fn new() -> Self {
        Self {
            waker: AttachedCell::new(None),
            watched: AttachedCell::new(false),
            claimed: AttachedCell::new(false),
            notifications: AttachedCell::new(0),
        }
    }
}

impl DescriptorWakers {
    fn side(&self, direction: Direction) -> &DirectionState {
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
        // Another owner, for example `add_reader()`, may have replaced the watch.
        drop(scheduler.unwatch_of(this.fd, direction, slf));
    }
}

static READABLE: RunnableKind = RunnableKind::of::<Readable>();
static WRITABLE: RunnableKind = RunnableKind::of::<Writable>();

struct Readable;
struct Writable;

impl Queued for Readable {
    type Object = DescriptorWakers;

    fn run<'py>(
        scheduler: &Bound<'py, Scheduler>,
        entry: QueueEntry<'py, DescriptorWakers>,
    ) -> PyOutcome<'py, ()> {
        DescriptorWakers::notify(&entry.object, scheduler, Direction::Read)
    }

    fn lost_watch(object: &Bound<'_, DescriptorWakers>) {
        DescriptorWakers::lost_watch(object, Direction::Read);
    }
}

impl Queued for Writable {
    type Object = DescriptorWakers;

    fn run<'py>(
        scheduler: &Bound<'py, Scheduler>,
        entry: QueueEntry<'py, DescriptorWakers>,
    ) -> PyOutcome<'py, ()> {
        DescriptorWakers::notify(&entry.object, scheduler, Direction::Write)
    }

    fn lost_watch(object: &Bound<'_, DescriptorWakers>) {
        DescriptorWakers::lost_watch(object, Direction::Write);
    }
}

impl DescriptorWakers {
    fn notify<'py>(
        slf: &Bound<'py, Self>,
        scheduler: &Bound<'py, Scheduler>,
        direction: Direction,
    ) -> PyOutcome<'py, ()> {
        let py = slf.py();
        let side = slf.get().side(direction);
        side.notifications.set(py, side.notifications.get(py).wrapping_add(1));
        match side.waker.take(py) {
            Some(waker) => return wake(scheduler, waker),
            // Level-triggered: otherwise it would be queued in every turn.
            None => Self::unwatch(slf, scheduler.get(), direction),
        }
        Ok(())
    }
    /// Another owner has taken the descriptor over. The task that waits tries again, and finds it.
    fn lost_watch(slf: &Bound<'_, Self>, direction: Direction) {
        let py = slf.py();
        let side = slf.get().side(direction);
        side.watched.set(py, false);
        if let Some(waker) = side.waker.take(py) {
            if let Err(error) = wake_catching(waker) {
                error.write_unraisable(py, Some(slf));
            }
        }
    }
}
