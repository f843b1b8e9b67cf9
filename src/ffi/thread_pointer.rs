//! Identifies threads at the cost of one instruction.

/// A number that no other live thread of this process has; never 0.
#[inline(always)]
pub fn thread_pointer() -> usize {
    #[cfg(all(target_os = "linux", target_arch = "x86_64", target_pointer_width = "64"))]
    {
        let pointer: usize;
        // SAFETY: on Linux, the thread ABI stores the thread pointer's own value in the word at it.
        unsafe {
            std::arch::asm!(
                "mov {}, fs:[0]",
                out(reg) pointer,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        pointer
    }
    #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
    {
        let pointer: usize;
        // SAFETY: the thread pointer may be read; nothing else is touched.
        unsafe {
            std::arch::asm!(
                "mrs {}, tpidr_el0",
                out(reg) pointer,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        pointer
    }
    #[cfg(not(all(
        target_os = "linux",
        any(all(target_arch = "x86_64", target_pointer_width = "64"), target_arch = "aarch64")
    )))]
    {
        thread_local! {
            static OWN: u8 = const { 0 };
        }
        OWN.with(|own| std::ptr::from_ref(own).addr())
    }
}

#[cfg(test)]
mod tests {
    use super::thread_pointer;

    #[test]
    fn each_thread_has_its_own() {
        let here = thread_pointer();
        assert_ne!(here, 0);
        assert_eq!(here, thread_pointer());
        std::thread::scope(|scope| {
            let there = scope.spawn(thread_pointer);
            assert_ne!(here, there.join().expect("the thread ends"));
        });
    }
}
