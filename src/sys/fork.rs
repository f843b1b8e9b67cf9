//! Detects that this process is a forked child, in which only the forking thread exists.

use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

/// Number of forks between the process that loaded the library and this one.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// Identifies the process that created the value, as opposed to its forked children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation(u64);

impl Generation {
    /// This process.
    pub(crate) fn current() -> Self {
        static REGISTERED: Once = Once::new();
        REGISTERED.call_once(|| {
            // SAFETY: the handler only adds to an atomic, which is async-signal-safe. Registration
            // fails only for lack of memory; forks then go undetected.
            unsafe { libc::pthread_atfork(None, None, Some(count_fork)) };
        });
        Self(GENERATION.load(Ordering::Relaxed))
    }

    /// Whether this process is still the one that created the value.
    #[inline]
    pub(crate) fn is_current(self) -> bool {
        self.0 == GENERATION.load(Ordering::Relaxed)
    }
}

/// The process that owns a resource; a forked child may take it over.
#[derive(Debug)]
pub(crate) struct OwnerProcess(AtomicU64);

impl OwnerProcess {
    /// This process.
    pub(crate) fn current() -> Self {
        Self(AtomicU64::new(Generation::current().0))
    }

    /// Whether this process is the owner.
    #[inline]
    pub(crate) fn is_current(&self) -> bool {
        self.0.load(Ordering::SeqCst) == GENERATION.load(Ordering::Relaxed)
    }

    /// Makes this process the owner.
    #[cfg_attr(
        not(any(target_os = "linux", target_os = "android")),
        expect(dead_code, reason = "only epoll needs it")
    )]
    pub(crate) fn take_over(&self) {
        self.0.store(GENERATION.load(Ordering::Relaxed), Ordering::SeqCst);
    }
}

extern "C" fn count_fork() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::Generation;

    #[test]
    fn a_child_is_another_generation() {
        let generation = Generation::current();
        assert!(generation.is_current());
        // SAFETY: the child only compares a number and exits without running destructors.
        let child = unsafe { libc::fork() };
        assert!(child >= 0, "{}", std::io::Error::last_os_error());
        if child == 0 {
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(if generation.is_current() { 1 } else { 0 }) };
        }
        let mut status = -1;
        // SAFETY: `status` is valid for the call.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
        assert!(generation.is_current());
    }
}
