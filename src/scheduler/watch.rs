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

/// What is due for one descriptor.
#[derive(Default)]
pub struct Watch {
    on_read: Option<Runnable>,
    on_write: Option<Runnable>,
    /// The descriptor may have been closed, and its number reused, since its reader was set.
    lasting: bool,
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
    _runnables: [Option<Runnable>; 2],
}

/// All watched descriptors of a loop, and the kernel's view of them kept in step.
///
/// Runnables replaced or removed are handed back, since dropping them may run Python code.
pub struct Watches {
    registrar: Option<Registrar>,
    entries: Registrations<Watch>,
    /// How many of them are no reason to poll while callbacks are ready.
    background: usize,
}

impl Watches {
    /// No descriptors yet.
    pub fn new(registrar: Registrar) -> Self {
        Self { registrar: Some(registrar), entries: Registrations::new(), background: 0 }
    }

    /// To be called before the poller is used. A forked child gets a poller of its own, which
    /// watches what the parent's did; the parent's is left alone.
    ///
    /// # Errors
    /// What the kernel answers when it is out of descriptors.
    #[inline]
    pub fn leave_parent(&mut self) -> io::Result<()> {
        match &self.registrar {
            Some(registrar) if registrar.is_inherited() => self.renew(),
            _ => Ok(()),
        }
    }

    #[cold]
    fn renew(&mut self) -> io::Result<()> {
        let Some(registrar) = &self.registrar else { return Ok(()) };
        registrar.renew()?;
        for entry in self.entries.iter() {
            let fd = entry.fd();
            let registered = registrar.register(fd, entry.token(), entry.interest, Trigger::Level);
            if let Err(error) = registered {
                // As for any descriptor closed behind our back: no event will come.
                tracing::debug!(target: "ferroloop::loop", fd, %error, "descriptor was closed while it was watched");
            }
        }
        Ok(())
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
    pub fn set_background(
        &mut self,
        fd: RawFd,
        runnable: Runnable,
    ) -> Result<Option<Runnable>, Refused> {
        let replaced = self.set(fd, Direction::Read, runnable)?;
        self.background = 1;
        Ok(replaced)
    }

    /// Has `runnable` queued whenever `fd` is ready, as long as it is ready (level-triggered).
    /// Returns the runnable replaced.
    ///
    /// # Errors
    /// What the kernel answers: EPERM for a regular file, EBADF for a closed descriptor.
    pub fn set(
        &mut self,
        fd: RawFd,
        direction: Direction,
        runnable: Runnable,
    ) -> Result<Option<Runnable>, Refused> {
        if let Err(error) = self.leave_parent() {
            return Err(Refused { error, _runnables: [Some(runnable), None] });
        }
        let Some(registrar) = &self.registrar else {
            let error = io::Error::other("the poller is closed");
            return Err(Refused { error, _runnables: [Some(runnable), None] });
        };
        if let Some(entry) = self.entries.get_mut(fd) {
            let replaced = entry.payload.slot(direction).replace(runnable);
            let Some(interest) = entry.payload.interest() else { return Ok(replaced) };
            let lasting = entry.payload.lasting;
            if direction == Direction::Read {
                entry.payload.lasting = false;
            }
            if interest == entry.interest && !lasting {
                return Ok(replaced);
            }
            let changed = match registrar.reregister(fd, entry.token(), interest, Trigger::Level) {
                // The descriptor was closed and its number reused behind our back.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    registrar.register(fd, entry.token(), interest, Trigger::Level)
                }
                other => other,
            };
            return match changed {
                Ok(()) => {
                    entry.interest = interest;
                    Ok(replaced)
                }
                Err(error) => {
                    let refused = entry.payload.slot(direction).take();
                    if entry.payload.interest().is_none() {
                        self.entries.remove(fd);
                    }
                    Err(Refused { error, _runnables: [refused, replaced] })
                }
            };
        }
        let mut watch = Watch::default();
        *watch.slot(direction) = Some(runnable);
        let interest = match direction {
            Direction::Read => Interest::READABLE,
            Direction::Write => Interest::WRITABLE,
        };
        let token = match self.entries.insert(fd, interest, watch) {
            Ok(token) => token,
            Err(mut watch) => {
                let error = io::Error::from_raw_os_error(libc::EBADF);
                let refused = watch.slot(direction).take();
                return Err(Refused { error, _runnables: [refused, None] });
            }
        };
        if let Err(error) = registrar.register(fd, token, interest, Trigger::Level) {
            let removed = self.entries.remove(fd);
            let refused = removed.and_then(|mut entry| entry.payload.slot(direction).take());
            return Err(Refused { error, _runnables: [refused, None] });
        }
        Ok(None)
    }

    /// As [`Watches::set`], for a reader that stays when its owner has no use for it at the
    /// moment and so may outlive the descriptor.
    pub fn set_lasting_reader(
        &mut self,
        fd: RawFd,
        runnable: Runnable,
    ) -> Result<Option<Runnable>, Refused> {
        let replaced = self.set(fd, Direction::Read, runnable)?;
        if let Some(entry) = self.entries.get_mut(fd) {
            entry.payload.lasting = true;
        }
        Ok(replaced)
    }

    /// What is due when `fd` is ready in a direction.
    pub fn get(&mut self, fd: RawFd, direction: Direction) -> Option<&Runnable> {
        self.entries.get_mut(fd)?.payload.slot(direction).as_ref()
    }

    /// Stops watching one direction of `fd`. Returns the runnable removed.
    pub fn unset(&mut self, fd: RawFd, direction: Direction) -> Option<Runnable> {
        let entry = self.entries.get_mut(fd)?;
        let removed = entry.payload.slot(direction).take()?;
        if direction == Direction::Read {
            entry.payload.lasting = false;
        }
        let left = entry.payload.interest();
        if let Some(interest) = left {
            entry.interest = interest;
        }
        // A forked child that only drops what it inherited needs no poller.
        if let Some(registrar) = self.registrar.as_ref().filter(|it| !it.is_inherited()) {
            let changed = match left {
                Some(interest) => registrar.reregister(fd, entry.token(), interest, Trigger::Level),
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
        Some(removed)
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
        let Some(entry) = self.entries.lookup(token) else { return };
        if readiness.is_readable()
            && let Some(runnable) = &entry.payload.on_read
        {
            due(runnable.clone_ref(py));
        }
        if readiness.is_writable()
            && let Some(runnable) = &entry.payload.on_write
        {
            due(runnable.clone_ref(py));
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
