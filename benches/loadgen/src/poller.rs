//! Level-triggered epoll.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// The events that are watched for a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Wake when it is writable, in addition to when it is readable.
    pub write: bool,
}

impl Interest {
    fn flags(self) -> u32 {
        let write = if self.write { libc::EPOLLOUT } else { 0 };
        (libc::EPOLLIN | write) as u32
    }
}

/// An epoll descriptor and the buffer for its events.
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Poller {
    /// A new poller that watches nothing.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the flag is valid; the result is checked before it is used.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: fd was just opened and has no other owner.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        let events = vec![libc::epoll_event { events: 0, u64: 0 }; 256];
        Ok(Self { epoll, events })
    }

    /// Watch `fd`; its events carry `index`.
    pub fn add(&self, fd: RawFd, index: usize, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, index, interest)
    }

    /// Change the events that are watched for `fd`.
    pub fn modify(&self, fd: RawFd, index: usize, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, index, interest)
    }

    fn control(&self, what: i32, fd: RawFd, index: usize, interest: Interest) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest.flags(), u64: index as u64 };
        // SAFETY: the event outlives the call; a wrong fd only causes an error.
        let status = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), what, fd, &mut event) };
        if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Wait for events; appends the indices of those that are ready to `ready`.
    pub fn wait(&mut self, milliseconds: i32, ready: &mut Vec<usize>) -> io::Result<()> {
        // SAFETY: the pointer and the length describe `events`, which we hold exclusively.
        let count = unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as i32,
                milliseconds,
            )
        };
        if count < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::Interrupted => Ok(()),
                _ => Err(error),
            };
        }
        let events = &self.events[..count as usize];
        ready.extend(events.iter().map(|event| event.u64 as usize));
        Ok(())
    }
}
