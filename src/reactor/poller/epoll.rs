//! The poller on Linux: system calls on mio's epoll descriptor.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use mio::Interest;

use super::{Readiness, Trigger, Waker};
use crate::reactor::Token;
use crate::sys::fork::Owner;
use crate::sys::poll::{self, EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, Event};

/// How many events one poll may report at first.
const INITIAL_EVENTS: usize = 256;
/// How far that number grows when polls report as many as they may.
const MAXIMUM_EVENTS: usize = 16_384;

/// Waits for events; see the module's head.
#[derive(Debug)]
pub struct Poller {
    selector: Arc<Selector>,
    events: Vec<Event>,
    woken: bool,
    beside: Option<RawFd>,
    beside_ready: bool,
}

/// What the poller and its registrars share.
#[derive(Debug)]
struct Selector {
    epoll: mio::Poll,
    waker: Arc<Waker>,
    /// Whose epoll it is.
    owner: Owner,
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
    /// A poller with no descriptors.
    pub fn new() -> io::Result<Poller> {
        let epoll = mio::Poll::new()?;
        let waker = Arc::new(Waker::new(epoll.registry())?);
        let selector = Arc::new(Selector { epoll, waker, owner: Owner::current() });
        let events = Vec::with_capacity(INITIAL_EVENTS);
        Ok(Poller { selector, events, woken: false, beside: None, beside_ready: false })
    }

    /// What registers descriptors with this poller.
    pub fn registrar(&self) -> Registrar {
        Registrar { selector: Arc::clone(&self.selector) }
    }

    /// A descriptor that is readable while there are events.
    pub fn fd(&self) -> RawFd {
        self.selector.fd()
    }

    /// What wakes this poller.
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.selector.waker)
    }

    /// Waits until something is ready, the waker is called or `timeout` has passed: for ever if
    /// `None`, not at all if zero. Without events it never returns before the time-out, save
    /// for a signal ([`io::ErrorKind::Interrupted`]) and time-outs above 24 days. An error
    /// leaves no events. A forked child must have its registrar renewed first.
    pub fn poll(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.woken = false;
        self.beside_ready = false;
        if self.selector.is_inherited() {
            return Err(io::Error::other("the poller is the parent process's"));
        }
        if self.events.len() == self.events.capacity() && self.events.len() < MAXIMUM_EVENTS {
            self.events.reserve(self.events.len() * 2);
        }
        let epoll = self.selector.fd();
        match self.beside {
            None => poll::wait(epoll, &mut self.events, timeout)?,
            Some(fd) => {
                self.beside_ready = poll::wait_beside(epoll, fd, &mut self.events, timeout)?;
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

    /// Has polls end as soon as `fd` is readable too: for a descriptor that the kernel refuses to
    /// register, since it is out of memory or of the user's quota. It costs a system call a poll.
    pub fn set_beside(&mut self, fd: Option<RawFd>) {
        self.beside = fd;
    }

    /// Whether the last poll found the descriptor of [`Poller::set_beside`] readable.
    #[inline]
    pub fn was_beside_ready(&self) -> bool {
        self.beside_ready
    }

    /// How many events the last poll reported, wake-ups not included.
    #[inline]
    pub fn event_count(&self) -> usize {
        self.events.len()
    }

    /// The event number `index` of the last poll: for callers that can't keep the poller
    /// borrowed while they handle an event.
    #[inline]
    pub fn event(&self, index: usize) -> Option<(Token, Readiness)> {
        self.events.get(index).map(|event| (token(event), readiness(event)))
    }

    /// The events of the last poll. An event may be for a registration that is gone by now.
    #[inline]
    pub fn events(&self) -> impl ExactSizeIterator<Item = (Token, Readiness)> {
        self.events.iter().map(|event| (token(event), readiness(event)))
    }
}

/// Registers descriptors with a [`Poller`]. Errors are the system's: `EEXIST`, `ENOENT`, `EBADF`,
/// `EPERM` for what can't be polled.
#[derive(Clone, Debug)]
pub struct Registrar {
    selector: Arc<Selector>,
}

impl Registrar {
    /// Whether the poller is that of the process this one was forked from. Registering with it
    /// would act on the parent's.
    #[inline]
    pub fn is_inherited(&self) -> bool {
        self.selector.is_inherited()
    }

    /// In a forked child: makes the poller, its registrars and its waker the child's own, under
    /// the same descriptors. It watches nothing then.
    pub fn renew(&self) -> io::Result<()> {
        let (epoll, notifier) = (self.selector.fd(), self.selector.waker.descriptor());
        poll::exchange(epoll, notifier, poll::create)?;
        self.selector.waker.renew(self.selector.epoll.registry())?;
        self.selector.owner.take_over();
        Ok(())
    }

    /// Starts to watch `fd`.
    pub fn register(
        &self,
        fd: RawFd,
        token: Token,
        interest: Interest,
        trigger: Trigger,
    ) -> io::Result<()> {
        poll::add(self.selector.fd(), fd, mask(interest, trigger), token.pack())
    }

    /// Changes how `fd` is watched. What is ready at this time is reported once more.
    pub fn reregister(
        &self,
        fd: RawFd,
        token: Token,
        interest: Interest,
        trigger: Trigger,
    ) -> io::Result<()> {
        poll::modify(self.selector.fd(), fd, mask(interest, trigger), token.pack())
    }

    /// Stops watching `fd`; to be called before it is closed, since a duplicate would keep it
    /// registered. Events that were polled already stay.
    pub fn deregister(&self, fd: RawFd) -> io::Result<()> {
        poll::delete(self.selector.fd(), fd)
    }
}

#[inline]
fn token(event: &Event) -> Token {
    Token::unpack(event.u64)
}

fn mask(interest: Interest, trigger: Trigger) -> i32 {
    let mut mask = 0;
    if interest.is_readable() {
        mask |= EPOLLIN;
    }
    if interest.is_writable() {
        mask |= EPOLLOUT;
    }
    if trigger == Trigger::Edge {
        mask |= EPOLLET;
        if interest.is_readable() {
            mask |= EPOLLRDHUP;
        }
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
    if mask & !(EPOLLIN | EPOLLRDHUP) != 0 {
        flags |= Readiness::WRITABLE;
    }
    if mask & EPOLLERR != 0 {
        flags |= Readiness::ERROR;
    }
    if mask & (EPOLLRDHUP | EPOLLHUP) != 0 {
        flags |= Readiness::READ_CLOSED;
    }
    if mask & EPOLLHUP != 0 {
        flags |= Readiness::HANG_UP;
    }
    Readiness(flags)
}
