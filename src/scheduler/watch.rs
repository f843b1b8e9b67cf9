//! Watched descriptors: which runnable is due when a descriptor becomes readable or writable.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::RawFd;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::Runnable;
use crate::reactor::{Interest, Readiness, Registrar, Registration, Registrations, Token, Trigger};

/// A direction of readiness.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Data, a connection, end of file or an error can be read.
    Read,
    /// Something can be written, or a connection attempt is over.
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

/// What is due for one descriptor.
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

/// The kernel does not watch a descriptor. Holds what must not be dropped while the watches are
/// lent, since that may run Python code.
pub struct Refused {
    /// What the kernel answered.
    pub error: io::Error,
    _runnable: Runnable,
}

/// Runnables that are due no longer; the caller drops them where no cell is lent.
#[must_use = "drop it where no cell is lent"]
#[derive(Default)]
pub struct Replaced {
    /// What was due in the same direction.
    pub same: Option<Runnable>,
    /// What was due in the other direction, of a file that was closed while it was watched.
    pub stale: Option<Runnable>,
}

/// All watched descriptors of a loop, and the kernel's view of them kept in step.
///
/// Runnables replaced or removed are handed back, since dropping them may run Python code.
pub struct Watches {
    registrar: Option<Registrar>,
    entries: Registrations<Watch>,
    /// How many of them are no reason to poll while callbacks are ready.
    background: usize,
    /// A forked child's poller had no room for all of them.
    incomplete: bool,
}

impl Watches {
    /// No descriptors yet.
    pub fn new(registrar: Registrar) -> Self {
        Self {
            registrar: Some(registrar),
            entries: Registrations::new(),
            background: 0,
            incomplete: false,
        }
    }

    /// To be called before the poller is used. A forked child gets a poller of its own, which
    /// watches what the parent's did; the parent's is left alone.
    ///
    /// # Errors
    /// What the kernel answers when it is out of descriptors, or has no room for the watches, which
    /// are tried again the next time then.
    #[inline]
    pub fn leave_parent(&mut self) -> io::Result<()> {
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
            match registrar.register(fd, entry.token(), entry.interest, Trigger::Level) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::ENOMEM)) => {
                    refused = Some(error);
                }
                Err(error) => {
                    // As for any descriptor that was closed while it was watched: no event comes.
                    tracing::debug!(target: "ferroloop::loop", fd, %error, "descriptor was closed while it was watched");
                }
            }
        }
        self.incomplete = refused.is_some();
        refused.map_or(Ok(()), Err)
    }

    /// Whether a poll may find something that callbacks which are ready should not delay.
    pub fn is_worth_polling(&self) -> bool {
        self.entries.len() > self.background
    }

    /// As [`Watches::set`] for reading, for good, of the descriptor that can wait while callbacks
    /// are ready: the pipe of `signals`, of which there is one.
    ///
    /// # Errors
    /// As there.
    pub fn set_background(&mut self, fd: RawFd, runnable: Runnable) -> Result<Replaced, Refused> {
        let replaced = self.set(fd, Direction::Read, runnable)?;
        self.background = 1;
        Ok(replaced)
    }

    /// Has `runnable` queued whenever `fd` is ready, as long as it is ready (level-triggered).
    /// Returns what is due no longer. Nothing changes if the kernel refuses.
    ///
    /// The kernel is asked each time: a descriptor may have been closed, and its number be another
    /// file's, since it was last asked.
    ///
    /// # Errors
    /// What the kernel answers: EPERM for a regular file, EBADF for a closed descriptor.
    pub fn set(
        &mut self,
        fd: RawFd,
        direction: Direction,
        runnable: Runnable,
    ) -> Result<Replaced, Refused> {
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
            Err(error) => Err(Refused { error, _runnable: runnable }),
        }
    }

    /// Has the kernel watch one more direction of `fd`, for which there is an entry then. Answers
    /// whether the other direction was that of another file: one which the kernel does not know any
    /// more and another object watched.
    fn register(
        &mut self,
        fd: RawFd,
        direction: Direction,
        runnable: &Runnable,
    ) -> io::Result<bool> {
        self.leave_parent()?;
        let Some(registrar) = &self.registrar else {
            return Err(io::Error::other("the poller is closed"));
        };
        if let Some(entry) = self.entries.get_mut(fd) {
            let token = entry.token();
            let interest = entry.interest | direction.interest();
            return match registrar.reregister(fd, token, interest, Trigger::Level) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let other = entry.payload.slot(direction.opposite());
                    let ours = other.as_ref().is_none_or(|it| it.object.is(&runnable.object));
                    let interest = if ours { interest } else { direction.interest() };
                    register_anew(registrar, fd, token, interest).map(|()| !ours)
                }
                other => other.map(|()| false),
            };
        }
        let Ok(token) = self.entries.insert(fd, direction.interest(), Watch::default()) else {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        };
        let interest = direction.interest();
        let registered = register_anew(registrar, fd, token, interest);
        if registered.is_err() {
            // The entry is empty: nothing is dropped.
            self.entries.remove(fd);
        }
        registered.map(|()| false)
    }

    /// What is due when `fd` is ready in a direction.
    pub fn get(&mut self, fd: RawFd, direction: Direction) -> Option<&Runnable> {
        self.entries.get_mut(fd)?.payload.slot(direction).as_ref()
    }

    /// Stops watching one direction of `fd`. Returns the runnable removed.
    pub fn unset(&mut self, fd: RawFd, direction: Direction) -> Option<Runnable> {
        let entry = self.entries.get_mut(fd)?;
        let removed = entry.payload.slot(direction).take()?;
        self.reduce(fd);
        Some(removed)
    }

    /// As [`Watches::unset`], if the runnable is due for `object`: the number may be another file's
    /// by now, which another object has watched.
    pub fn unset_of<T>(
        &mut self,
        fd: RawFd,
        direction: Direction,
        object: &Bound<'_, T>,
    ) -> Option<Runnable> {
        let runnable = self.entries.get_mut(fd)?.payload.slot(direction).as_ref()?;
        if runnable.object.is(object) { self.unset(fd, direction) } else { None }
    }

    /// Brings the kernel's view of `fd` down to what is still due.
    fn reduce(&mut self, fd: RawFd) {
        let Some(entry) = self.entries.get_mut(fd) else { return };
        let left = entry.payload.interest();
        if let Some(interest) = left {
            entry.interest = interest;
        }
        // A forked child that only drops what it inherited needs no poller.
        if let Some(registrar) = self.registrar.as_ref().filter(|it| !it.is_inherited()) {
            let changed = match left {
                Some(interest) => registrar
                    .reregister(fd, entry.token(), interest, Trigger::Level)
                    .or_else(|_| register_anew(registrar, fd, entry.token(), interest)),
                None => registrar.deregister(fd),
            };
            if let Err(error) = changed {
                // The kernel forgets closed descriptors by itself.
                tracing::debug!(target: "ferroloop::loop", fd, %error, "descriptor was closed while it was watched");
            }
        }
        if left.is_none() {
            self.entries.remove(fd);
        }
    }

    /// The descriptor that has a runnable with this very object as its argument.
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
        let Some(entry) = self.entries.lookup(token) else { return self.forget(token) };
        let mut is_due = false;
        if readiness.is_readable()
            && let Some(runnable) = &entry.payload.on_read
        {
            is_due = true;
            due(runnable.clone_ref(py));
        }
        if readiness.is_writable()
            && let Some(runnable) = &entry.payload.on_write
        {
            is_due = true;
            due(runnable.clone_ref(py));
        }
        if !is_due {
            self.reduce(token.fd());
        }
    }

    /// An event came for a descriptor that is watched no longer: it was polled before that, or the
    /// kernel refused to forget the descriptor and would report it for ever.
    #[cold]
    fn forget(&self, token: Token) {
        if self.entries.get(token.fd()).is_none()
            && let Some(registrar) = &self.registrar
            && let Err(error) = registrar.deregister(token.fd())
        {
            let fd = token.fd();
            tracing::trace!(target: "ferroloop::loop", fd, %error, "an event came late");
        }
    }

    /// Forgets everything; the caller drops what comes back.
    pub fn clear(&mut self) -> Vec<Registration<Watch>> {
        self.background = 0;
        self.entries.take_all()
    }

    /// Forgets everything and the poller with it.
    pub fn close(&mut self) -> Vec<Registration<Watch>> {
        self.registrar = None;
        self.clear()
    }

    /// Shows the runnables to the cyclic collector.
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

/// Has the kernel watch `fd` for `interest` alone, whatever it watches it for.
fn register_anew(
    registrar: &Registrar,
    fd: RawFd,
    token: Token,
    interest: Interest,
) -> io::Result<()> {
    match registrar.register(fd, token, interest, Trigger::Level) {
        // The kernel refused to change the registration, or to forget it before.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            registrar.deregister(fd)?;
            registrar.register(fd, token, interest, Trigger::Level)
        }
        other => other,
    }
}
