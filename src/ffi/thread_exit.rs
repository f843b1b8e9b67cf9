//! Calls of user code that protect a thread which CPython ends from unwinding into Rust.
//!
//! Before 3.14, CPython ends a thread that waits for the GIL while the interpreter exits by
//! `pthread_exit()`: for example a daemon thread that runs a loop. With glibc that unwinds the
//! stack, and Rust aborts the process when anything but a panic unwinds its frames. So user code is
//! called through an assembly frame whose personality routine sleeps until the process has ended:
//! the unwinder calls it before it unwinds the caller. CPython 3.14 itself does the same.
//!
//! Elsewhere this is a plain call: musl's `pthread_exit()` does not unwind.

use std::ffi::c_void;

/// Calls `function` with `arguments` and returns its result.
///
/// # Safety
/// `function` must take at most four arguments, each a pointer or of a pointer's size, and return
/// at most one such value.
#[inline(always)]
pub unsafe fn call(function: *const c_void, arguments: [*const c_void; 4]) -> *mut c_void {
    let [first, second, third, fourth] = arguments;
    // SAFETY: guaranteed by the caller; a C function ignores registers that are not its arguments.
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

    // A normal frame for debuggers, profilers and unwinders.
    global_asm!(
        ".text",
        ".p2align 4",
        ".globl ferroloop_call",
        ".hidden ferroloop_call",
        ".type ferroloop_call, @function",
        "ferroloop_call:",
        ".cfi_startproc",
        // DW_EH_PE_pcrel | DW_EH_PE_sdata4.
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
        // SAFETY: the caller guarantees such a function; the calling convention passes these
        // arguments in registers.
        unsafe {
            std::mem::transmute::<*const c_void, Function>(function)(first, second, third, fourth)
        }
    }
}
