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
pub(crate) mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc;
    use std::thread;

    use super::Generation;

    /// A child that takes longer is ended by a signal.
    const SECONDS: u32 = 20;

    /// Whether `test` returns true in a forked child, in which it is the only thread.
    pub(crate) fn holds_in_child(test: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child runs only the caller's test, and exits without running destructors.
        let child = unsafe { libc::fork() };
        assert!(child >= 0, "{}", std::io::Error::last_os_error());
        if child == 0 {
            // SAFETY: takes a plain number.
            unsafe { libc::alarm(SECONDS) };
            let holds = catch_unwind(AssertUnwindSafe(test)).unwrap_or(false);
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(i32::from(!holds)) };
        }
        let mut status = -1;
        // SAFETY: `status` is valid for the call.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        status == 0
    }

    /// Calls `body` while another thread is inside `hold`, which must call its argument.
    pub(crate) fn while_other_thread(hold: impl FnOnce(&dyn Fn()) + Send, body: impl FnOnce()) {
        let (inside, wait_until_inside) = mpsc::channel();
        let (end, wait_for_end) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                hold(&|| {
                    inside.send(()).unwrap();
                    // Fails when `end` is dropped.
                    wait_for_end.recv().unwrap_err();
                });
            });
            wait_until_inside.recv().unwrap();
            body();
            drop(end);
        });
    }

    #[test]
    fn a_child_is_another_generation() {
        let generation = Generation::current();
        assert!(generation.is_current());
        assert!(holds_in_child(|| !generation.is_current()));
        assert!(generation.is_current());
    }
}
