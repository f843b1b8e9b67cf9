//! Protects threads that CPython ends from unwinding into Rust.
//!
//! Before 3.14, CPython ends a thread that waits for the GIL while the interpreter exits by
//! `pthread_exit()`: for example a daemon thread that runs a loop. With glibc that unwinds the
//! stack, and Rust aborts the process when anything but a panic unwinds its frames. The drops that
//! such frames contain would release Python objects without the GIL.
//!
//! A thread that is about to call Python code therefore registers a cleanup handler, which glibc
//! calls before it unwinds any frame. While the interpreter exits, the handler sleeps until the
//! process has ended, as CPython 3.14 itself does.
//!
//! Elsewhere this does nothing: the `pthread_exit()` of musl and Android does not unwind.

pub use protection::protect;

#[cfg(all(not(Py_3_14), target_os = "linux", target_env = "gnu"))]
mod protection {
    use std::cell::UnsafeCell;
    use std::ffi::{c_int, c_void};
    use std::ptr;
    use std::sync::Once;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use crate::ffi::thread_pointer::thread_pointer;

    /// The thread that was protected last; 0 if it has ended.
    static LAST_PROTECTED: AtomicUsize = AtomicUsize::new(0);

    thread_local! {
        static HANDLER: Handler = Handler::register();
    }

    /// Protects this thread until it ends. To be called before Python code is called, as everything
    /// in `call.rs` does.
    #[inline(always)]
    pub fn protect() {
        // The thread itself stored its pointer, or it is another thread's.
        if LAST_PROTECTED.load(Ordering::Relaxed) != thread_pointer() {
            register();
        }
    }

    #[cold]
    #[inline(never)]
    fn register() {
        static AT_FORK: Once = Once::new();
        // In a forked child a new thread may get the pointer of one that was not copied.
        // SAFETY: the handler only stores an atomic, which is async-signal-safe.
        AT_FORK.call_once(|| unsafe {
            libc::pthread_atfork(None, None, Some(forget_last_protected));
        });
        // Fails while the thread's own variables are destroyed.
        if HANDLER.try_with(|_| ()).is_ok() {
            LAST_PROTECTED.store(thread_pointer(), Ordering::Relaxed);
        }
    }

    extern "C" fn forget_last_protected() {
        LAST_PROTECTED.store(0, Ordering::Relaxed);
    }

    /// `struct _pthread_cleanup_buffer` of glibc's `pthread.h`.
    #[repr(C)]
    struct CleanupBuffer {
        routine: Option<extern "C" fn(*mut c_void)>,
        argument: *mut c_void,
        cancel_type: c_int,
        previous: *mut CleanupBuffer,
    }

    unsafe extern "C" {
        // The functions behind the macros `pthread_cleanup_push` and `pthread_cleanup_pop` of code
        // that was compiled before glibc 2.3.3; part of its ABI.
        fn _pthread_cleanup_push(
            buffer: *mut CleanupBuffer,
            routine: extern "C" fn(*mut c_void),
            argument: *mut c_void,
        );
        fn _pthread_cleanup_pop(buffer: *mut CleanupBuffer, execute: c_int);

        #[cfg_attr(Py_3_13, link_name = "Py_IsFinalizing")]
        fn _Py_IsFinalizing() -> c_int;
    }

    /// A cleanup handler of this thread.
    ///
    /// glibc calls a handler when it unwinds the frame that contains its buffer, which it finds out
    /// by comparing addresses. This buffer lies outside the thread's stack, so that each frame is
    /// taken to be beyond it, the first one included.
    struct Handler(Box<UnsafeCell<CleanupBuffer>>);

    impl Handler {
        fn register() -> Self {
            let buffer = Box::new(UnsafeCell::new(CleanupBuffer {
                routine: None,
                argument: ptr::null_mut(),
                cancel_type: 0,
                previous: ptr::null_mut(),
            }));
            // SAFETY: the buffer does not move, and lives until `drop` has removed it from the
            // thread's list. Only this thread uses the list.
            unsafe { _pthread_cleanup_push(buffer.get(), sleep_at_exit, ptr::null_mut()) };
            Self(buffer)
        }
    }

    impl Drop for Handler {
        fn drop(&mut self) {
            let _ = LAST_PROTECTED.compare_exchange(
                thread_pointer(),
                0,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            // SAFETY: thread-local, so this is the thread that registered the buffer. Handlers that
            // were registered later belong to frames that have ended.
            unsafe { _pthread_cleanup_pop(self.0.get(), 0) };
        }
    }

    /// Called when the thread is ended, before its stack is unwound.
    extern "C" fn sleep_at_exit(_argument: *mut c_void) {
        // SAFETY: both read variables of the interpreter, and need no attached thread.
        let is_ended_by_the_interpreter =
            unsafe { _Py_IsFinalizing() != 0 || pyo3::ffi::Py_IsInitialized() == 0 };
        if is_ended_by_the_interpreter {
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use std::sync::atomic::Ordering;

        use super::{LAST_PROTECTED, protect};
        use crate::ffi::thread_pointer::thread_pointer;

        #[test]
        fn a_thread_that_has_ended_is_forgotten() {
            let protected = std::thread::spawn(|| {
                protect();
                thread_pointer()
            });
            let ended = protected.join().expect("the thread ends");
            assert_ne!(LAST_PROTECTED.load(Ordering::Relaxed), ended);
        }
    }
}

#[cfg(not(all(not(Py_3_14), target_os = "linux", target_env = "gnu")))]
mod protection {
    /// Does nothing here.
    #[inline(always)]
    pub fn protect() {}
}
