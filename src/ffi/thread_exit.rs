//! Calls of user code, through which a thread that CPython ends is not unwound.
//!
//! Before 3.14 a thread that wants the GIL while the interpreter exits is ended by
//! `pthread_exit()`, as a daemon thread is whose loop is busy. With glibc that unwinds the stack,
//! and Rust aborts the process when its frames are unwound by anything but a panic. So user code is
//! called through a frame of assembly whose personality routine, which the unwinder asks before it
//! goes on to the caller, sleeps until the process is gone. This is what CPython 3.14 does itself.
//!
//! Elsewhere a call is just a call: musl's `pthread_exit()` unwinds nothing.

use std::ffi::c_void;

/// Calls `function` with `arguments`; what it returns.
///
/// # Safety
/// `function` takes at most four arguments, pointers or of their size, and returns one or less.
#[inline(always)]
pub unsafe fn call(function: *const c_void, arguments: [*const c_void; 4]) -> *mut c_void {
    let [first, second, third, fourth] = arguments;
    // SAFETY: by the contract of this function; a C function ignores registers that are not its
    // arguments.
    unsafe { guarded::ferroloop_call(first, second, third, fourth, function) }
}

#[cfg(all(not(Py_3_14), target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
mod guarded {
    use std::arch::global_asm;
    use std::ffi::{c_int, c_void};
    use std::time::Duration;

    unsafe extern "C" {
        pub fn ferroloop_call(
            first: *const c_void,
            second: *const c_void,
            third: *const c_void,
            fourth: *const c_void,
            function: *const c_void,
        ) -> *mut c_void;
    }

    // A frame like any other to debuggers, profilers and unwinders.
    global_asm!(
        ".text",
        ".p2align 4",
        ".globl ferroloop_call",
        ".hidden ferroloop_call",
        ".type ferroloop_call, @function",
        "ferroloop_call:",
        ".cfi_startproc",
        // Relative to the place, in four bytes.
        ".cfi_personality 0x1b, {personality}",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "call r8",
        "pop rbp",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
        ".size ferroloop_call, . - ferroloop_call",
        personality = sym personality,
    );

    const FORCE_UNWIND: c_int = 8;
    const CONTINUE_UNWIND: c_int = 8;

    /// Called by the unwinder for the frame of `ferroloop_call`. The thread does not hold the GIL.
    extern "C" fn personality(
        _version: c_int,
        actions: c_int,
        _class: u64,
        _exception: *mut c_void,
        _context: *mut c_void,
    ) -> c_int {
        if actions & FORCE_UNWIND != 0 {
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        }
        CONTINUE_UNWIND
    }
}

#[cfg(not(all(not(Py_3_14), target_os = "linux", target_env = "gnu", target_arch = "x86_64")))]
mod guarded {
    use std::ffi::c_void;

    type Function = unsafe extern "C" fn(
        *const c_void,
        *const c_void,
        *const c_void,
        *const c_void,
    ) -> *mut c_void;

    /// # Safety
    /// As [`crate::ffi::call`].
    #[inline(always)]
    pub unsafe fn ferroloop_call(
        first: *const c_void,
        second: *const c_void,
        third: *const c_void,
        fourth: *const c_void,
        function: *const c_void,
    ) -> *mut c_void {
        // SAFETY: a function of such arguments, in a calling convention that passes them in
        // registers, by the contract.
        unsafe {
            std::mem::transmute::<*const c_void, Function>(function)(first, second, third, fourth)
        }
    }
}
