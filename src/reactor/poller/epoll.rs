//! The poller on Linux: system calls on mio's epoll descriptor.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use mio::Interest;

use super::{Readiness, Waker};
use crate::reactor::Token;
use crate::sys::fork::OwnerProcess;
use crate::sys::poll::{self, EPOLLIN, EPOLLOUT, Event};

/// Initial number of events that one poll can report.
const INITIAL_EVENTS: usize = 256;
/// Limit up to which that number grows when polls fill the buffer.
const MAXIMUM_EVENTS: usize = 16_384;

/// Waits for events; see the head of `poller/mod.rs`.
#[derive(Debug)]
pub struct Poller {
    selector: Arc<Selector>,
    events: Vec<Event>,
    woken: bool,
    extra: Option<RawFd>,
    extra_ready: bool,
}

/// State shared by the poller and its registrars.
#[derive(Debug)]
struct Selector {
    epoll: mio::Poll,
    waker: Arc<Waker>,
    /// The process whose epoll it is.
    owner: OwnerProcess,
}

impl Selector {
    fn is_inherited(&self) -> bool {
        !self.owner.is_current()
    }

    fn fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

impl Poller {
    /// Creates a poller with no descriptors registered.
    pub fn new() -> io::Result<Poller> {
        let epoll = mio::Poll::new()?;
        let waker = Arc::new(Waker::new(epoll.registry())?);
        let selector = Arc::new(Selector { epoll, waker, owner: OwnerProcess::current() });
        let events = Vec::with_capacity(INITIAL_EVENTS);
        Ok(Poller { selector, events, woken: false, extra: None, extra_ready: false })
    }

    /// A registrar for this poller.
    pub fn registrar(&self) -> Registrar {
        Registrar { selector: Arc::clone(&self.selector) }
    }

    /// A descriptor that is readable while events are pending.
    pub fn fd(&self) -> RawFd {
        self.selector.fd()
    }

    /// The waker of this poller.
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.selector.waker)
    }

    /// Waits until a descriptor is ready, the waker is called or `timeout` has passed: without
    /// limit if `None`, not at all if zero. Without events it never returns before the timeout,
    /// except for a signal ([`io::ErrorKind::Interrupted`]) and timeouts above 24 days. After an
    /// error there are no events.
    ///
    /// # Errors
    /// The kernel's; and in a forked child, before [`Registrar::renew`].
    pub fn poll(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.woken = false;
        self.extra_ready = false;
        if self.selector.is_inherited() {
            return Err(io::Error::other("the poller is the parent process's"));
        }
        if self.events.len() == self.events.capacity() && self.events.len() < MAXIMUM_EVENTS {
            self.events.reserve(self.events.len() * 2);
        }
        let epoll = self.selector.fd();
        match self.extra {
            None => poll::wait(epoll, &mut self.events, timeout)?,
            Some(fd) => {
                self.extra_ready = poll::wait_with_extra(epoll, fd, &mut self.events, timeout)?;
            }
        }
        if let Some(index) = self.events.iter().position(|event| token(event) == Token::WAKER) {
            self.events.remove(index);
            self.woken = true;
            self.selector.waker.acknowledge();
        }
        Ok(())
    }

    /// Whether the last poll saw a wake-up.
    #[inline]
    pub fn was_woken(&self) -> bool {
        self.woken
    }

    /// Makes polls also end when `fd` is readable: for a descriptor that the kernel cannot register
    /// for lack of memory or quota. Costs a system call per poll.
    pub fn set_extra(&mut self, fd: Option<RawFd>) {
        self.extra = fd;
    }

    /// Whether the last poll found the descriptor of [`Poller::set_extra`] readable, or could not
    /// tell.
    #[inline]
    pub fn was_extra_ready(&self) -> bool {
        self.extra_ready
    }

    /// The number of events that the last poll reported, excluding wake-ups.
    #[inline]
    pub fn event_count(&self) -> usize {
        self.events.len()
    }

    /// The events of the last poll. The registration of an event may have been removed since.
    #[inline]
    pub fn events(&self) -> impl ExactSizeIterator<Item = (Token, Readiness)> {
        self.events.iter().map(|event| (token(event), readiness(event)))
    }
}

/// Registers descriptors with a [`Poller`]. Errors are the kernel's: `EEXIST`, `ENOENT`, `EBADF`,
/// and `EPERM` for files that cannot be polled.
#[derive(Clone, Debug)]
pub struct Registrar {
    selector: Arc<Selector>,
}

impl Registrar {
    /// Whether the poller belongs to the process from which this one was forked. Registering with
    /// it would change the parent's interest list.
    #[inline]
    pub fn is_inherited(&self) -> bool {
        self.selector.is_inherited()
    }

    /// In a forked child: makes the poller, its registrars and its waker the child's own, keeping
    /// their descriptors' numbers. Afterwards no descriptor is registered.
    ///
    /// # Errors
    /// The kernel's, such as being out of descriptors; the call may be repeated.
    pub fn renew(&self) -> io::Result<()> {
        let (epoll, notifier) = (self.selector.fd(), self.selector.waker.descriptor());
        poll::reopen(epoll, notifier, poll::create)?;
        self.selector.waker.renew(self.selector.epoll.registry())?;
        self.selector.owner.take_over();
        Ok(())
    }

    /// Starts to watch `fd`.
    pub fn register(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        poll::add(self.selector.fd(), fd, mask(interest), token.pack())
    }

    /// Changes how `fd` is watched. If it is ready now, that is reported again.
    pub fn reregister(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        poll::modify(self.selector.fd(), fd, mask(interest), token.pack())
    }

    /// Stops watching `fd`. Call it before closing `fd`, since a duplicate would keep it
    /// registered. Events already polled remain.
    pub fn deregister(&self, fd: RawFd) -> io::Result<()> {
        poll::delete(self.selector.fd(), fd)
    }
}

#[inline]
fn token(event: &Event) -> Token {
    Token::unpack(event.u64)
}

fn mask(interest: Interest) -> i32 {
    let mut mask = 0;
    if interest.is_readable() {
        mask |= EPOLLIN;
    }
    if interest.is_writable() {
        mask |= EPOLLOUT;
    }
    mask
}

#[inline]
fn readiness(event: &Event) -> Readiness {
    let mask = event.events as i32;
    let mut flags = 0;
    if mask & !EPOLLOUT != 0 {
        flags |= Readiness::READABLE;
    }
    if mask & !EPOLLIN != 0 {
        flags |= Readiness::WRITABLE;
    }
    Readiness(flags)
}
