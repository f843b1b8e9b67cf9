//! The poller on Unix systems without epoll: mio's selector, which reports edges.
//!
//! Level semantics are made of them by re-registering a descriptor, before the next wait, after
//! each event for it: the selector then reports what is still ready.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use mio::Interest;
use mio::event::Event;
use mio::unix::SourceFd;
use parking_lot::Mutex;

use super::{Readiness, Trigger, Waker};
use crate::reactor::Token;
use crate::sys::fork::Generation;

#[cfg(not(target_pointer_width = "64"))]
compile_error!("mio's tokens are too small for a descriptor and its generation");

/// How many events one poll may report.
const EVENTS: usize = 1024;

/// Waits for events; see the module's head.
#[derive(Debug)]
pub struct Poller {
    selector: mio::Poll,
    watched: Arc<Watched>,
    waker: Arc<Waker>,
    events: mio::Events,
    /// The last poll's events without wake-ups.
    reported: Vec<(Token, Readiness)>,
    woken: bool,
}

/// What the poller and its registrars share.
#[derive(Debug)]
struct Watched {
    registry: mio::Registry,
    /// Whose selector it is.
    owner: Generation,
    /// The descriptors with level semantics. Locked for system calls too, so that the poller
    /// re-registers no descriptor that is deregistered meanwhile.
    level: Mutex<HashMap<RawFd, (Token, Interest)>>,
}

impl Poller {
    /// A poller with no descriptors.
    pub fn new() -> io::Result<Poller> {
        let selector = mio::Poll::new()?;
        let waker = Arc::new(Waker::new(selector.registry())?);
        let watched = Arc::new(Watched {
            registry: selector.registry().try_clone()?,
            owner: Generation::current(),
            level: Mutex::new(HashMap::new()),
        });
        let events = mio::Events::with_capacity(EVENTS);
        Ok(Poller { selector, watched, waker, events, reported: Vec::new(), woken: false })
    }

    /// What registers descriptors with this poller.
    pub fn registrar(&self) -> Registrar {
        Registrar { watched: Arc::clone(&self.watched) }
    }

    /// A descriptor that is readable while there are events.
    pub fn fd(&self) -> RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.selector)
    }

    /// What wakes this poller.
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Waits until something is ready, the waker is called or `timeout` has passed: for ever if
    /// `None`, not at all if zero. Without events it never returns before the time-out, save
    /// for a signal ([`io::ErrorKind::Interrupted`]) and what mio can't represent. An error
    /// leaves no events.
    pub fn poll(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.woken = false;
        let result = self.rearm();
        self.reported.clear();
        result?;
        self.selector.poll(&mut self.events, timeout)?;
        for event in &self.events {
            if event.token().0 == Token::WAKER_DATA {
                self.woken = true;
            } else {
                let token = Token::unpack(event.token().0 as u64);
                self.reported.push((token, readiness(event)));
            }
        }
        if self.woken {
            self.waker.acknowledge();
        }
        Ok(())
    }

    /// Whether the last poll saw a wake-up.
    #[inline]
    pub fn was_woken(&self) -> bool {
        self.woken
    }

    /// Does nothing: mio's selectors other than epoll are out of room for a descriptor when they
    /// are out of memory.
    pub fn set_beside(&mut self, _fd: Option<RawFd>) {}

    /// Whether the last poll found the descriptor of [`Poller::set_beside`] readable: never.
    #[inline]
    pub fn was_beside_ready(&self) -> bool {
        false
    }

    /// How many events the last poll reported, wake-ups not included.
    #[inline]
    pub fn event_count(&self) -> usize {
        self.reported.len()
    }

    /// The event number `index` of the last poll: for callers that can't keep the poller
    /// borrowed while they handle an event.
    #[inline]
    pub fn event(&self, index: usize) -> Option<(Token, Readiness)> {
        self.reported.get(index).copied()
    }

    /// The events of the last poll; reading and writing may come as two events of one token.
    /// An event may be for a registration that is gone by now.
    #[inline]
    pub fn events(&self) -> impl ExactSizeIterator<Item = (Token, Readiness)> {
        self.reported.iter().copied()
    }

    /// Makes the selector report the descriptors with level semantics that it has reported
    /// before, if they are still registered and still ready.
    fn rearm(&self) -> io::Result<()> {
        let level = self.watched.level.lock();
        for (token, _) in &self.reported {
            if let Some((current, interest)) = level.get(&token.fd())
                && current == token
            {
                let fd = token.fd();
                let registered = SourceFd(&fd);
                match self.watched.reregister(registered, *token, *interest) {
                    // Closed by its owner without being deregistered: the selector has
                    // forgotten it as well.
                    Err(error) if is_gone(&error) => {}
                    result => result?,
                }
            }
        }
        Ok(())
    }
}

impl Watched {
    fn reregister(&self, mut fd: SourceFd<'_>, token: Token, interest: Interest) -> io::Result<()> {
        self.registry.reregister(&mut fd, mio_token(token), interest)
    }
}

/// Registers descriptors with a [`Poller`]. Errors are the system's.
#[derive(Clone, Debug)]
pub struct Registrar {
    watched: Arc<Watched>,
}

impl Registrar {
    /// Whether the poller is that of the process this one was forked from.
    #[inline]
    pub fn is_inherited(&self) -> bool {
        !self.watched.owner.is_current()
    }

    /// Not to be had here: a forked child must make a new poller.
    pub fn renew(&self) -> io::Result<()> {
        let text = "an event loop cannot be used after a fork on this platform: make a new one";
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    }

    /// Starts to watch `fd`.
    pub fn register(
        &self,
        fd: RawFd,
        token: Token,
        interest: Interest,
        trigger: Trigger,
    ) -> io::Result<()> {
        let mut level = self.watched.level.lock();
        self.watched.registry.register(&mut SourceFd(&fd), mio_token(token), interest)?;
        remember(&mut level, token, interest, trigger);
        Ok(())
    }

    /// Changes how `fd` is watched. What is ready at this time is reported once more.
    pub fn reregister(
        &self,
        fd: RawFd,
        token: Token,
        interest: Interest,
        trigger: Trigger,
    ) -> io::Result<()> {
        let mut level = self.watched.level.lock();
        self.watched.reregister(SourceFd(&fd), token, interest)?;
        remember(&mut level, token, interest, trigger);
        Ok(())
    }

    /// Stops watching `fd`; to be called before it is closed. Events that were polled already
    /// stay.
    pub fn deregister(&self, fd: RawFd) -> io::Result<()> {
        let mut level = self.watched.level.lock();
        level.remove(&fd);
        self.watched.registry.deregister(&mut SourceFd(&fd))
    }
}

fn remember(
    level: &mut HashMap<RawFd, (Token, Interest)>,
    token: Token,
    interest: Interest,
    trigger: Trigger,
) {
    match trigger {
        Trigger::Level => level.insert(token.fd(), (token, interest)),
        Trigger::Edge => level.remove(&token.fd()),
    };
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADF | libc::ENOENT))
}

fn mio_token(token: Token) -> mio::Token {
    mio::Token(token.pack() as usize)
}

fn readiness(event: &Event) -> Readiness {
    let other = event.is_error() || event.is_read_closed() && event.is_write_closed();
    let mut flags = 0;
    if event.is_readable() || event.is_read_closed() || other {
        flags |= Readiness::READABLE;
    }
    if event.is_writable() || event.is_write_closed() || other {
        flags |= Readiness::WRITABLE;
    }
    if event.is_error() {
        flags |= Readiness::ERROR;
    }
    if event.is_read_closed() {
        flags |= Readiness::READ_CLOSED;
    }
    if event.is_read_closed() && event.is_write_closed() {
        flags |= Readiness::HANG_UP;
    }
    Readiness(flags)
}
