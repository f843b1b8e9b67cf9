//! What a thread of this process has done, as the kernel counts it.

#[cfg(any(target_os = "linux", target_os = "android"))]
use std::fs;

#[cfg(any(target_os = "linux", target_os = "android"))]
use super::time;

/// How a thread has spent its time since it began, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// On a processor.
    pub(crate) cpu: u64,
    /// Ready to run, while other threads had the processors; `None` if the kernel does not count
    /// it.
    pub(crate) run_delay: Option<u64>,
}

/// What a thread does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    /// It runs, or waits for a processor.
    Runs,
    /// It waits in a system call, with this first argument.
    Calls(libc::c_long, usize),
}

/// The kernel's number of the calling thread.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn current() -> i32 {
    // SAFETY: takes no arguments and always succeeds.
    unsafe { libc::gettid() }
}

/// The usage of a thread of this process; `None` if it has ended.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn usage(thread: i32) -> Option<Usage> {
    let cpu = time::cpu_nanoseconds_of(thread)?;
    let counted = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok();
    Some(Usage { cpu, run_delay: counted.as_deref().and_then(run_delay) })
}

/// The second of the numbers in `/proc/PID/schedstat`.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn run_delay(counted: &str) -> Option<u64> {
    counted.split_whitespace().nth(1)?.parse().ok()
}

/// What a thread of this process does now; `None` if the kernel does not tell.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn activity(thread: i32) -> Option<Activity> {
    parse_activity(&fs::read_to_string(format!("/proc/self/task/{thread}/syscall")).ok()?)
}

/// Parses `/proc/PID/syscall`: the number of the call, its arguments, the stack pointer and the
/// program counter.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn parse_activity(text: &str) -> Option<Activity> {
    let mut words = text.split_whitespace();
    let first = words.next()?;
    if first == "running" {
        return Some(Activity::Runs);
    }
    let argument = words.next().and_then(|word| word.strip_prefix("0x"));
    let argument = argument.and_then(|digits| usize::from_str_radix(digits, 16).ok());
    Some(Activity::Calls(first.parse().ok()?, argument.unwrap_or(0)))
}

/// Whether a call waits for a lock.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn is_lock(call: libc::c_long) -> bool {
    call == libc::SYS_futex
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod elsewhere {
    use super::{Activity, Usage};

    pub(crate) fn current() -> i32 {
        0
    }

    pub(crate) fn usage(_thread: i32) -> Option<Usage> {
        None
    }

    pub(crate) fn activity(_thread: i32) -> Option<Activity> {
        None
    }

    pub(crate) fn is_lock(_call: libc::c_long) -> bool {
        false
    }
}
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) use elsewhere::{activity, current, is_lock, usage};

/// The name of a system call in which programs often block.
pub(crate) fn call_name(call: libc::c_long) -> Option<&'static str> {
    macro_rules! named {
        ($($name:ident = $text:literal),* $(,)?) => {
            [$((libc::$name, $text)),*]
        };
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let known = named![
            SYS_accept4 = "accept4",
            SYS_clock_nanosleep = "clock_nanosleep",
            SYS_connect = "connect",
            SYS_epoll_pwait = "epoll_pwait",
            SYS_fcntl = "fcntl",
            SYS_fdatasync = "fdatasync",
            SYS_flock = "flock",
            SYS_fsync = "fsync",
            SYS_futex = "futex",
            SYS_getdents64 = "getdents64",
            SYS_nanosleep = "nanosleep",
            SYS_openat = "openat",
            SYS_ppoll = "ppoll",
            SYS_pread64 = "pread64",
            SYS_pselect6 = "pselect6",
            SYS_pwrite64 = "pwrite64",
            SYS_read = "read",
            SYS_readv = "readv",
            SYS_recvfrom = "recvfrom",
            SYS_recvmsg = "recvmsg",
            SYS_sendfile = "sendfile",
            SYS_sendmsg = "sendmsg",
            SYS_sendto = "sendto",
            SYS_wait4 = "wait4",
            SYS_waitid = "waitid",
            SYS_write = "write",
            SYS_writev = "writev",
        ];
        if let Some((_, name)) = known.iter().find(|(number, _)| *number == call) {
            return Some(name);
        }
    }
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    {
        let known = named![
            SYS_epoll_wait = "epoll_wait",
            SYS_open = "open",
            SYS_poll = "poll",
            SYS_select = "select",
        ];
        if let Some((_, name)) = known.iter().find(|(number, _)| *number == call) {
            return Some(name);
        }
    }
    let _ = call;
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_thread_that_computes_uses_cpu_time() {
        let (before, began) = (usage(current()).expect("this thread"), Instant::now());
        while began.elapsed() < Duration::from_millis(30) {}
        let after = usage(current()).expect("this thread");
        // The rest was the scheduler's.
        assert!(after.cpu - before.cpu > 3_000_000, "{before:?} {after:?}");
    }

    #[test]
    fn a_thread_that_waits_is_seen_in_its_call() {
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            tell.send(current()).expect("a receiver");
            ended.recv().ok();
        });
        let number = told.recv().expect("a number");
        let began = Instant::now();
        while !matches!(activity(number), Some(Activity::Calls(call, _)) if is_lock(call)) {
            if activity(number).is_none() || began.elapsed() > Duration::from_secs(10) {
                assert_eq!(activity(number), None, "the kernel tells, but not that it waits");
                break;
            }
        }
        drop(end);
        thread.join().expect("it ends");
    }

    #[test]
    fn what_the_kernel_writes_is_understood() {
        assert_eq!(run_delay("613281 135634 2\n"), Some(135_634));
        assert_eq!(run_delay("0"), None);
        assert_eq!(parse_activity("running\n"), Some(Activity::Runs));
        assert_eq!(parse_activity("-1 0x7f 0x7e\n"), Some(Activity::Calls(-1, 0x7f)));
        assert_eq!(parse_activity("202 0x1f 0x80 0x0\n"), Some(Activity::Calls(202, 0x1f)));
        assert_eq!(parse_activity(""), None);
        assert_eq!(call_name(libc::SYS_futex), Some("futex"));
        assert_eq!(call_name(-1), None);
    }
}
