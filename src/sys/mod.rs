//! The only module that makes raw operating-system calls. Contains no Python.
//!
//! Each function is a safe wrapper of one call, or of the smallest group of calls that has one
//! meaning on every platform. Errors are [`std::io::Error`]s with their `errno`, `EINTR` included:
//! the caller decides whether to repeat an interrupted call.
//!
//! What a platform must supply:
//!
//! | file | Linux, Android | other Unix |
//! |---|---|---|
//! | `socket.rs`, `address.rs` | `accept4`, or `accept` and `fcntl` where a sandbox refuses it; `MSG_DONTWAIT` | `accept`, `fcntl` |
//! | `segmentation.rs` | `UDP_SEGMENT`, `UDP_GRO` | `ENOPROTOOPT`; datagrams are received singly |
//! | `pipe.rs` | `read`, `write`, `writev` of non-blocking files | the same |
//! | `resolve.rs` | `getaddrinfo` | the same |
//! | `time.rs` | `CLOCK_MONOTONIC`, `CLOCK_MONOTONIC_COARSE` | the clock of Python's `time.monotonic()` |
//! | `thread_usage.rs` | a thread's CPU time, and `/proc/self/task` | nothing is known |
//! | `fork.rs` | `pthread_atfork` | the same |
//! | `process.rs` | `pidfd_open`, `waitid` on it or `waitpid` | `open` fails: a thread waits for each child |
//! | `sync/` | locks that a forked child may take; no system call | the same |
//! | `poll.rs` | `epoll_ctl`, `epoll_wait` with nanosecond timeouts, `eventfd`, `dup3` | nothing: mio alone is used |
#![allow(unsafe_code)]

pub(crate) mod address;
pub(crate) mod fork;
pub(crate) mod pipe;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) mod poll;
pub(crate) mod process;
pub(crate) mod resolve;
pub(crate) mod segmentation;
pub(crate) mod socket;
pub(crate) mod sync;
pub(crate) mod thread_usage;
pub(crate) mod time;

/// Whether the call should be repeated once the descriptor is ready.
pub(crate) fn is_not_ready(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted)
}
