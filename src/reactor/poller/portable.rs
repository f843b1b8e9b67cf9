//! The poller on Unix systems without epoll: mio's selector, which is edge-triggered.
//!
//! Level-triggered behaviour is emulated: after each event, the descriptor is re-registered before
//! the next wait, so that the selector reports it again if it is still ready.

use std::collections::HashMap;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use mio::Interest;
use mio::event::Event;
use mio::unix::SourceFd;
use parking_lot::Mutex;

use super::{Readiness, Waker};
use crate::reactor::Token;
use crate::sys::fork::Generation;

#[cfg(not(target_pointer_width = "64"))]
compile_error!("mio's tokens are too small for a descriptor and its generation");

/// Maximum number of events in one poll.
const EVENTS: usize = 1024;

/// Waits for events; see the head of `poller/mod.rs`.
#[derive(Debug)]
pub struct Poller {
    selector: mio::Poll,
    watched: Arc<Watched>,
    waker: Arc<Waker>,
    events: mio::Events,
    /// The last poll's events, excluding wake-ups.
    reported: Vec<(Token, Readiness)>,
    woken: bool,
}

/// State shared by the poller and its registrars.
#[derive(Debug)]
struct Watched {
    registry: mio::Registry,
    /// The process whose selector it is.
    owner: Generation,
    /// The registered descriptors. Locked during system calls too, so that the poller does not
    /// re-register a descriptor that another thread deregisters at that moment.
    registered: Mutex<HashMap<RawFd, (Token, Interest)>>,
}

impl Poller {
    /// Creates a poller with no descriptors registered.
    pub fn new() -> io::Result<Poller> {
        let selector = mio::Poll::new()?;
        let waker = Arc::new(Waker::new(selector.registry())?);
        let watched = Arc::new(Watched {
            registry: selector.registry().try_clone()?,
            owner: Generation::current(),
            registered: Mutex::new(HashMap::new()),
        });
        let events = mio::Events::with_capacity(EVENTS);
        Ok(Poller { selector, watched, waker, events, reported: Vec::new(), woken: false })
    }

    /// A registrar for this poller.
    pub fn registrar(&self) -> Registrar {
        Registrar { watched: Arc::clone(&self.watched) }
    }

    /// A descriptor that is readable while events are pending.
    pub fn fd(&self) -> RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.selector)
    }

    /// The waker of this poller.
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Waits until a descriptor is ready, the waker is called or `timeout` has passed: without
    /// limit if `None`, not at all if zero. Without events it never returns before the timeout,
    /// except for a signal ([`io::ErrorKind::Interrupted`]) and timeouts that mio cannot
    /// represent. After an error there are no events.
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

    /// Does nothing: selectors other than epoll refuse a descriptor only when they are out of
    /// memory.
    pub fn set_extra(&mut self, _fd: Option<RawFd>) {}

    /// Whether the last poll found the descriptor of [`Poller::set_extra`] readable: never here.
    #[inline]
    pub fn was_extra_ready(&self) -> bool {
        false
    }

    /// The number of events that the last poll reported, excluding wake-ups.
    #[inline]
    pub fn event_count(&self) -> usize {
        self.reported.len()
    }

    /// The events of the last poll; one token may have an event each for reading and writing. The
    /// registration of an event may have been removed since.
    #[inline]
    pub fn events(&self) -> impl ExactSizeIterator<Item = (Token, Readiness)> {
        self.reported.iter().copied()
    }

    /// Re-registers the descriptors that the last poll reported, so that the
    /// selector reports those that are still ready.
    fn rearm(&self) -> io::Result<()> {
        let registered = self.watched.registered.lock();
        for (token, _) in &self.reported {
            let fd = token.fd();
            let registration = registered.get(&fd).filter(|(current, _)| current == token);
            if let Some((_, interest)) = registration {
                let source = SourceFd(&fd);
                match self.watched.reregister(source, *token, *interest) {
                    // The owner closed it without deregistering: the selector has dropped it too.
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
    /// Whether the poller belongs to the process from which this one was forked.
    #[inline]
    pub fn is_inherited(&self) -> bool {
        !self.watched.owner.is_current()
    }

    /// Unsupported here: after `fork` the child must create a new poller.
    ///
    /// # Errors
    /// Always [`io::ErrorKind::Unsupported`].
    pub fn renew(&self) -> io::Result<()> {
        let text = "an event loop cannot be used after a fork on this platform: make a new one";
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    }

    /// Starts to watch `fd`.
    pub fn register(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        let mut registered = self.watched.registered.lock();
        self.watched.registry.register(&mut SourceFd(&fd), mio_token(token), interest)?;
        registered.insert(fd, (token, interest));
        Ok(())
    }

    /// Changes how `fd` is watched. If it is ready now, that is reported again.
    pub fn reregister(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        let mut registered = self.watched.registered.lock();
        self.watched.reregister(SourceFd(&fd), token, interest)?;
        registered.insert(fd, (token, interest));
        Ok(())
    }

    /// Stops watching `fd`. Call it before closing `fd`. Events already polled remain.
    pub fn deregister(&self, fd: RawFd) -> io::Result<()> {
        let mut registered = self.watched.registered.lock();
        registered.remove(&fd);
        self.watched.registry.deregister(&mut SourceFd(&fd))
    }
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
    Readiness(flags)
}
