//! Watched descriptors: which runnable is queued when a descriptor becomes readable or writable.

use std::io;
use std::os::fd::RawFd;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::Runnable;
use crate::reactor::{Interest, Readiness, Registrar, Registration, Registrations, Token};

/// A direction of readiness.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Data, a connection, the end of the stream or an error can be read.
    Read,
    /// Data can be written, or a connection attempt has ended.
    Write,
}

impl Direction {
    fn opposite(self) -> Self {
        match self {
            Self::Read => Self::Write,
            Self::Write => Self::Read,
        }
    }

    fn interest(self) -> Interest {
        match self {
            Self::Read => Interest::READABLE,
            Self::Write => Interest::WRITABLE,
        }
    }
}

/// The runnables of one descriptor.
#[derive(Default)]
pub struct Watch {
    on_read: Option<Runnable>,
    on_write: Option<Runnable>,
}

impl Watch {
    fn slot(&mut self, direction: Direction) -> &mut Option<Runnable> {
        match direction {
            Direction::Read => &mut self.on_read,
            Direction::Write => &mut self.on_write,
        }
    }

    fn interest(&self) -> Option<Interest> {
        match (self.on_read.is_some(), self.on_write.is_some()) {
            (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
            (true, false) => Some(Interest::READABLE),
            (false, true) => Some(Interest::WRITABLE),
            (false, false) => None,
        }
    }
}

/// The kernel refused to watch a descriptor. Holds the runnable, which must not be dropped while
/// the watches are borrowed, since that may run Python code.
pub struct WatchRefused {
    /// The kernel's error.
    pub error: io::Error,
    _runnable: Runnable,
}

/// Runnables that are no longer registered; the caller drops them where no cell is borrowed. They
/// are told then, unless the caller has taken them out.
#[must_use = "drop it where no cell is borrowed"]
#[derive(Default)]
pub struct Replaced {
    /// The previous one of the same direction.
    pub same: Option<Runnable>,
    /// The one of the other direction, if it belonged to a file that was closed while it was
    /// watched.
    pub stale: Option<Runnable>,
}

impl Drop for Replaced {
    fn drop(&mut self) {
        if self.same.is_some() || self.stale.is_some() {
            Python::attach(|py| {
                for lost in [self.same.take(), self.stale.take()].into_iter().flatten() {
                    (lost.kind.lost_watch)(lost.object.bind(py));
                }
            });
        }
    }
}

/// All watched descriptors of a loop, kept in step with the kernel's interest list.
///
/// Replaced or removed runnables are returned to the caller, since dropping them may run Python
/// code.
pub struct Watches {
    registrar: Option<Registrar>,
    entries: Registrations<Watch>,
    /// How often [`Watches::set`] was called.
    changes: u64,
    /// How many of them do not force a poll while callbacks are ready.
    background: usize,
    /// The kernel had no room for all of them in a forked child's poller.
    incomplete: bool,
}

impl Watches {
    /// No watched descriptors.
    pub fn new(registrar: Registrar) -> Self {
        Self {
            registrar: Some(registrar),
            entries: Registrations::new(),
            changes: 0,
            background: 0,
            incomplete: false,
        }
    }

    /// In a forked child, gives the loop its own poller, which watches what the parent's did; the
    /// parent's is not touched. To be called before the poller is used.
    ///
    /// # Errors
    /// The kernel's, when it is out of descriptors or has no room for the watches; the next call
    /// tries again.
    #[inline]
    pub fn ensure_own_poller(&mut self) -> io::Result<()> {
        match &self.registrar {
            Some(registrar) if self.incomplete || registrar.is_inherited() => self.renew(),
            _ => Ok(()),
        }
    }

    #[cold]
    fn renew(&mut self) -> io::Result<()> {
        let Some(registrar) = &self.registrar else { return Ok(()) };
        if registrar.is_inherited() {
            registrar.renew()?;
        }
        let mut refused = None;
        for entry in self.entries.iter() {
            let fd = entry.fd();
            match registrar.register(fd, entry.token(), entry.interest) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::ENOMEM)) => {
                    refused = Some(error);
                }
                Err(error) => {
                    // As for any descriptor that is closed while it is watched: no event follows.
                    tracing::debug!(target: "ferroloop::loop", fd, %error, "descriptor was closed while it was watched");
                }
            }
        }
        self.incomplete = refused.is_some();
        refused.map_or(Ok(()), Err)
    }

    /// Whether a descriptor is watched that forces a poll while callbacks are ready.
    pub fn is_worth_polling(&self) -> bool {
        self.entries.len() > self.background
    }

    /// How often the program has begun to watch something.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Watches the signal pipe permanently. It alone does not force a poll while callbacks are
    /// ready.
    ///
    /// # Errors
    /// As for [`Watches::set`].
    pub fn set_background(
        &mut self,
        fd: RawFd,
        runnable: Runnable,
    ) -> Result<Replaced, WatchRefused> {
        let replaced = self.set(fd, Direction::Read, runnable)?;
        self.background = 1;
        Ok(replaced)
    }

    /// Queues `runnable` whenever `fd` is ready (level-triggered). Returns the runnables that it
    /// replaces. If the kernel refuses, nothing changes.
    ///
    /// The descriptor is registered with the kernel each time: it may have been closed since, and
    /// its number may belong to another file.
    ///
    /// # Errors
    /// The kernel's: EPERM for a regular file, EBADF for a closed descriptor.
    pub fn set(
        &mut self,
        fd: RawFd,
        direction: Direction,
        runnable: Runnable,
    ) -> Result<Replaced, WatchRefused> {
        self.changes += 1;
        match self.register(fd, direction, &runnable) {
            Ok(is_another_file) => {
                let Some(entry) = self.entries.get_mut(fd) else { return Ok(Replaced::default()) };
                let watch = &mut entry.payload;
                let stale =
                    if is_another_file { watch.slot(direction.opposite()).take() } else { None };
                let same = watch.slot(direction).replace(runnable);
                entry.interest = watch.interest().unwrap_or(entry.interest);
                Ok(Replaced { same, stale })
            }
            Err(error) => Err(WatchRefused { error, _runnable: runnable }),
        }
    }

    /// Registers one more direction of `fd` with the kernel and ensures that it has an entry.
    /// Returns whether the entry's other direction belonged to another file: one that the kernel
    /// has dropped, watched for another object.
    fn register(
        &mut self,
        fd: RawFd,
        direction: Direction,
        runnable: &Runnable,
    ) -> io::Result<bool> {
        self.ensure_own_poller()?;
        let Some(registrar) = &self.registrar else {
            return Err(io::Error::other("the poller is closed"));
        };
        if let Some(entry) = self.entries.get_mut(fd) {
            let token = entry.token();
            let interest = entry.interest | direction.interest();
            return match registrar.reregister(fd, token, interest) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let other = entry.payload.slot(direction.opposite());
                    let ours = other.as_ref().is_none_or(|it| it.object.is(&runnable.object));
                    let interest = if ours { interest } else { direction.interest() };
                    register_exactly(registrar, fd, token, interest).map(|()| !ours)
                }
                other => other.map(|()| false),
            };
        }
        let Ok(token) = self.entries.insert(fd, direction.interest(), Watch::default()) else {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        };
        let interest = direction.interest();
        let registered = register_exactly(registrar, fd, token, interest);
        if registered.is_err() {
            // The entry is empty: nothing is dropped.
            self.entries.remove(fd);
        }
        registered.map(|()| false)
    }

    /// Whether the kernel has stopped watching `fd`, since the file was closed: the number may belong
    /// to another file.
    pub fn is_stale(&mut self, fd: RawFd) -> bool {
        if self.ensure_own_poller().is_err() {
            return false;
        }
        let (Some(registrar), Some(entry)) = (&self.registrar, self.entries.get(fd)) else {
            return true;
        };
        let watched = registrar.reregister(fd, entry.token(), entry.interest);
        matches!(watched, Err(error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// The runnable to be queued when `fd` is ready in a direction.
    pub fn get(&mut self, fd: RawFd, direction: Direction) -> Option<&Runnable> {
        self.entries.get_mut(fd)?.payload.slot(direction).as_ref()
    }

    /// Stops watching one direction of `fd`. Returns the removed runnable.
    pub fn unset(&mut self, fd: RawFd, direction: Direction) -> Option<Runnable> {
        let entry = self.entries.get_mut(fd)?;
        let removed = entry.payload.slot(direction).take()?;
        self.drop_unused_interest(fd);
        Some(removed)
    }

    /// As [`Watches::unset`], but only if the runnable is one of `object`: the number may belong to
    /// another file by now, which another object watches.
    pub fn unset_of<T>(
        &mut self,
        fd: RawFd,
        direction: Direction,
        object: &Bound<'_, T>,
    ) -> Option<Runnable> {
        let runnable = self.entries.get_mut(fd)?.payload.slot(direction).as_ref()?;
        if runnable.object.is(object) { self.unset(fd, direction) } else { None }
    }

    /// Reduces the kernel's interest in `fd` to the directions that still have a runnable.
    fn drop_unused_interest(&mut self, fd: RawFd) {
        let Some(entry) = self.entries.get_mut(fd) else { return };
        let left = entry.payload.interest();
        if let Some(interest) = left {
            entry.interest = interest;
        }
        // A forked child that only drops what it inherited needs no poller.
        if let Some(registrar) = self.registrar.as_ref().filter(|it| !it.is_inherited()) {
            let changed = match left {
                Some(interest) => registrar
                    .reregister(fd, entry.token(), interest)
                    .or_else(|_| register_exactly(registrar, fd, entry.token(), interest)),
                None => registrar.deregister(fd),
            };
            if let Err(error) = changed {
                // The kernel drops closed descriptors by itself.
                tracing::debug!(target: "ferroloop::loop", fd, %error, "descriptor was closed while it was watched");
            }
        }
        if left.is_none() {
            self.entries.remove(fd);
        }
    }

    /// The descriptor that has a runnable with exactly this object as its argument.
    pub fn find_argument(&self, object: &Bound<'_, PyAny>) -> Option<RawFd> {
        let has_it = |runnable: &Option<Runnable>| {
            let argument = runnable.as_ref().and_then(|runnable| runnable.argument.as_ref());
            argument.is_some_and(|argument| argument.is(object))
        };
        let mut entries = self.entries.iter();
        let found = entries.find(|it| has_it(&it.payload.on_read) || has_it(&it.payload.on_write));
        found.map(Registration::fd)
    }

    /// The descriptors that are watched.
    pub fn descriptors(&self) -> Vec<RawFd> {
        self.entries.iter().map(|entry| entry.fd()).collect()
    }

    /// Whether a direction of `fd` is watched.
    pub fn is_set(&self, fd: RawFd, direction: Direction) -> bool {
        self.entries.get(fd).is_some_and(|entry| match direction {
            Direction::Read => entry.payload.on_read.is_some(),
            Direction::Write => entry.payload.on_write.is_some(),
        })
    }

    /// Calls `due` with a copy of each runnable that `readiness` makes due.
    #[inline]
    pub fn deliver(
        &mut self,
        py: Python<'_>,
        token: Token,
        readiness: Readiness,
        mut due: impl FnMut(Runnable),
    ) {
        let Some(entry) = self.entries.lookup(token) else { return self.deregister_stale(token) };
        let mut is_due = false;
        if readiness.is_readable() {
            if let Some(runnable) = &entry.payload.on_read {
                is_due = true;
                due(runnable.clone_ref(py));
            }
        }
        if readiness.is_writable() {
            if let Some(runnable) = &entry.payload.on_write {
                is_due = true;
                due(runnable.clone_ref(py));
            }
        }
        if !is_due {
            self.drop_unused_interest(token.fd());
        }
    }

    /// Handles an event for a descriptor that is no longer watched: it was polled before, or the
    /// kernel refused to deregister the descriptor and would report it forever.
    #[cold]
    fn deregister_stale(&self, token: Token) {
        if self.entries.get(token.fd()).is_some() {
            return;
        }
        let Some(registrar) = &self.registrar else { return };
        if let Err(error) = registrar.deregister(token.fd()) {
            let fd = token.fd();
            tracing::trace!(target: "ferroloop::loop", fd, %error, "an event came late");
        }
    }

    /// Removes and returns everything; the caller drops it.
    pub fn clear(&mut self) -> Vec<Registration<Watch>> {
        self.background = 0;
        self.entries.take_all()
    }

    /// As [`Watches::clear`], and releases the poller.
    pub fn close(&mut self) -> Vec<Registration<Watch>> {
        self.registrar = None;
        self.clear()
    }

    /// Reports the runnables to the garbage collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        for entry in self.entries.iter() {
            for runnable in [&entry.payload.on_read, &entry.payload.on_write].into_iter().flatten()
            {
                runnable.traverse(visit)?;
            }
        }
        Ok(())
    }
}

/// Registers `fd` for exactly `interest`, whatever it is registered for.
fn register_exactly(
    registrar: &Registrar,
    fd: RawFd,
    token: Token,
    interest: Interest,
) -> io::Result<()> {
    match registrar.register(fd, token, interest) {
        // The kernel refused to change the registration, or to remove it before.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            registrar.deregister(fd)?;
            registrar.register(fd, token, interest)
        }
        other => other,
    }
}
