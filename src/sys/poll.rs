//! epoll with nanosecond timeouts (Linux and Android).
//!
//! `epoll_wait` counts in milliseconds, so a wait of 0.3 ms would return at once or 0.7 ms late.
//! [`wait`] uses `epoll_pwait2` (Linux 5.11) and falls back to `epoll_wait` for the whole
//! milliseconds and `ppoll` on the epoll descriptor for the rest.
//!
//! Libraries loaded before libc may interpose its functions: libfaketime does, to change the time.
//! So `epoll_pwait2` is called through libc where libc has it, and not used at all where such a
//! library interposes `epoll_wait` but not `epoll_pwait2`.

use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;

pub(crate) use libc::{EPOLLIN, EPOLLOUT};

/// One reported event: `events` is the mask, `u64` the data given at registration.
pub(crate) type Event = libc::epoll_event;

/// Set once the kernel (or a seccomp filter) has refused `epoll_pwait2`.
static NO_PWAIT2: AtomicBool = AtomicBool::new(false);

/// libc's `epoll_pwait2`, on platforms where `libc::timespec` has the kernel's layout.
type Pwait2Function = unsafe extern "C" fn(
    c_int,
    *mut Event,
    c_int,
    *const libc::timespec,
    *const libc::sigset_t,
) -> c_int;

/// How `epoll_pwait2` is called.
#[derive(Clone, Copy)]
enum Pwait2 {
    Function(Pwait2Function),
    /// By number: libc has no function for it.
    SystemCall,
    /// Not at all: a library changes the time that `epoll_wait` sees but not this call's.
    Never,
}

fn pwait2() -> Pwait2 {
    static CHOSEN: OnceCell<Pwait2> = OnceCell::new();
    *CHOSEN.get_or_init(|| {
        let function = symbol(c"epoll_pwait2");
        // Where libc has no such function, another one identifies the library that is libc.
        let other = if function.is_null() { symbol(c"epoll_create1") } else { function };
        if library(symbol(c"epoll_wait")) != library(other) {
            return Pwait2::Never;
        }
        if function.is_null() || cfg!(not(target_pointer_width = "64")) {
            return Pwait2::SystemCall;
        }
        // SAFETY: the function of that name has this type on platforms of 64 bits.
        Pwait2::Function(unsafe { mem::transmute::<*mut c_void, Pwait2Function>(function) })
    })
}

/// The function that `name` resolves to in this process; null if there is none.
fn symbol(name: &CStr) -> *mut c_void {
    // SAFETY: looks up a valid C string; the handle is the one for the default order.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

/// The base address of the library that contains `function`; null if none does.
fn library(function: *mut c_void) -> *mut c_void {
    // SAFETY: plain old data, for which all zeros is a valid value.
    let mut info: libc::Dl_info = unsafe { mem::zeroed() };
    // SAFETY: takes any address, and writes to `info` only.
    let found = unsafe { libc::dladdr(function, &mut info) };
    if found == 0 { ptr::null_mut() } else { info.dli_fbase }
}

/// The kernel's timespec with 64-bit fields; `libc::timespec` may differ on 32-bit platforms.
#[repr(C)]
struct KernelTimespec {
    seconds: i64,
    nanoseconds: i64,
}

/// Adds `fd` to the interest list of `epoll`.
pub(crate) fn add(epoll: RawFd, fd: RawFd, mask: i32, data: u64) -> io::Result<()> {
    control(epoll, libc::EPOLL_CTL_ADD, fd, mask, data)
}

/// Changes what `epoll` reports of `fd`; a descriptor that is ready now is reported again even if
/// edge-triggered.
pub(crate) fn modify(epoll: RawFd, fd: RawFd, mask: i32, data: u64) -> io::Result<()> {
    control(epoll, libc::EPOLL_CTL_MOD, fd, mask, data)
}

/// Removes `fd` from the interest list of `epoll`.
pub(crate) fn delete(epoll: RawFd, fd: RawFd) -> io::Result<()> {
    control(epoll, libc::EPOLL_CTL_DEL, fd, 0, 0)
}

fn control(epoll: RawFd, operation: i32, fd: RawFd, mask: i32, data: u64) -> io::Result<()> {
    let mut event = Event { events: mask as u32, u64: data };
    // SAFETY: `event` is valid for the call, which copies it; the descriptors are plain numbers
    // that the kernel checks.
    check(unsafe { libc::epoll_ctl(epoll, operation, fd, &mut event) })?;
    Ok(())
}

/// A new eventfd, non-blocking and close-on-exec: readable once [`add_one`] was called.
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: takes plain numbers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that no other code uses yet.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds one to an eventfd's counter, which is a new edge whatever the counter was.
pub(crate) fn add_one(eventfd: &OwnedFd) -> io::Result<()> {
    let one = 1u64.to_ne_bytes();
    // SAFETY: reads the eight bytes of `one`.
    check(unsafe { libc::write(eventfd.as_raw_fd(), one.as_ptr().cast(), one.len()) })?;
    Ok(())
}

/// A new epoll instance with an empty interest list, close-on-exec.
pub(crate) fn create() -> io::Result<OwnedFd> {
    // SAFETY: takes a plain number.
    let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that no other code uses yet.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// In a forked child: replaces the file behind the descriptor `target` by the one that `open`
/// returns, keeping the number. If the process has no free descriptor, `target` is closed first. If
/// opening fails even then, `target` becomes a duplicate of `placeholder`, so that its number stays
/// taken until the caller tries again.
///
/// # Errors
/// What `open` or `dup3` fail with.
pub(crate) fn reopen(
    target: RawFd,
    placeholder: RawFd,
    open: fn() -> io::Result<OwnedFd>,
) -> io::Result<()> {
    let fresh = match open() {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
            // SAFETY: the caller owns `target`, and no other thread of the child uses the poller
            // yet.
            unsafe { libc::close(target) };
            open().inspect_err(|_| {
                // Keeps the number taken: the owner of `target` will close it.
                let _kept = replace(target, placeholder);
            })
        }
        opened => opened,
    }?;
    if fresh.as_raw_fd() == target {
        // The number already has an owner.
        let _number = fresh.into_raw_fd();
        return Ok(());
    }
    replace(target, fresh.as_raw_fd())
}

/// Makes `target` a duplicate of `source`, close-on-exec, and closes the file it referred to.
pub(crate) fn replace(target: RawFd, source: RawFd) -> io::Result<()> {
    // SAFETY: takes plain numbers that the kernel checks; the caller owns `target`.
    check(unsafe { libc::dup3(source, target, libc::O_CLOEXEC) })?;
    Ok(())
}

/// Replaces the contents of `events` by ready events, up to its capacity, which must not be zero
/// (the kernel answers `EINVAL`). Waits at most `timeout`, without limit if `None`. Returns no
/// event only after the whole `timeout` has passed (timeouts above 24 days may end early).
///
/// # Errors
/// The kernel's; `EINTR` if a signal handler ran.
pub(crate) fn wait(
    epoll: RawFd,
    events: &mut Vec<Event>,
    timeout: Option<Duration>,
) -> io::Result<()> {
    match timeout {
        None => wait_milliseconds(epoll, events, -1),
        Some(Duration::ZERO) => wait_milliseconds(epoll, events, 0),
        Some(timeout) => {
            let pwait2 = pwait2();
            if !matches!(pwait2, Pwait2::Never) && !NO_PWAIT2.load(Ordering::Relaxed) {
                match wait_exactly(pwait2, epoll, events, timeout) {
                    // Some container runtimes answer EPERM to system calls they do not know.
                    Err(error)
                        if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) =>
                    {
                        NO_PWAIT2.store(true, Ordering::Relaxed);
                    }
                    result => return result,
                }
            }
            wait_in_two_steps(epoll, events, timeout)
        }
    }
}

/// As [`wait`], but also returns when `extra` is readable, a descriptor that is not registered with
/// `epoll`. Returns whether `extra` is readable, or may be: a kernel out of memory cannot tell.
pub(crate) fn wait_with_extra(
    epoll: RawFd,
    extra: RawFd,
    events: &mut Vec<Event>,
    timeout: Option<Duration>,
) -> io::Result<bool> {
    events.clear();
    let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut polled = [entry(epoll), entry(extra)];
    match wait_for_any(&mut polled, timeout) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => {
            let timeout = timeout.map_or(FALLBACK_TIMEOUT, |timeout| timeout.min(FALLBACK_TIMEOUT));
            wait(epoll, events, Some(timeout))?;
            Ok(true)
        }
        result => {
            result?;
            wait_milliseconds(epoll, events, 0)?;
            Ok(polled[1].revents != 0)
        }
    }
}

/// Upper limit of a wait that cannot watch the extra descriptor.
const FALLBACK_TIMEOUT: Duration = Duration::from_millis(50);

fn wait_milliseconds(epoll: RawFd, events: &mut Vec<Event>, timeout: i32) -> io::Result<()> {
    events.clear();
    // SAFETY: the buffer has room for `capacity` events and is exclusively borrowed for the call.
    let count =
        check(unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), capacity(events), timeout) })?;
    // SAFETY: the kernel has initialised the first `count` events, at most the capacity.
    unsafe { events.set_len(count) };
    Ok(())
}

fn wait_exactly(
    pwait2: Pwait2,
    epoll: RawFd,
    events: &mut Vec<Event>,
    timeout: Duration,
) -> io::Result<()> {
    events.clear();
    if let Pwait2::Function(function) = pwait2 {
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos() as libc::c_long,
        };
        // SAFETY: a buffer with room for `capacity` events, a timespec that outlives the call, and
        // no signal mask.
        let count = check(unsafe {
            function(epoll, events.as_mut_ptr(), capacity(events), &timeout, ptr::null())
        })?;
        // SAFETY: libc has initialised the first `count` events, at most the capacity.
        unsafe { events.set_len(count) };
        return Ok(());
    }
    let timeout = KernelTimespec {
        seconds: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        nanoseconds: i64::from(timeout.subsec_nanos()),
    };
    // SAFETY: the arguments are those of epoll_pwait2(2): a buffer with room for `capacity`
    // events, a timespec that outlives the call, and no signal mask, whose size is then ignored.
    let count = check(unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait2,
            epoll,
            events.as_mut_ptr(),
            capacity(events),
            ptr::from_ref(&timeout),
            ptr::null::<libc::sigset_t>(),
            0usize,
        )
    })?;
    // SAFETY: the kernel has initialised the first `count` events, at most the capacity.
    unsafe { events.set_len(count) };
    Ok(())
}

fn wait_in_two_steps(epoll: RawFd, events: &mut Vec<Event>, timeout: Duration) -> io::Result<()> {
    let start = Instant::now();
    let whole = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    wait_milliseconds(epoll, events, whole)?;
    if !events.is_empty() || whole == i32::MAX {
        return Ok(());
    }
    let rest = timeout.saturating_sub(start.elapsed());
    if rest.is_zero() {
        return Ok(());
    }
    let mut polled = [libc::pollfd { fd: epoll, events: libc::POLLIN, revents: 0 }];
    match wait_for_any(&mut polled, Some(rest)) {
        // `ppoll` was refused or had no memory: round up to a millisecond rather than return early.
        Err(error) if error.kind() != io::ErrorKind::Interrupted => {
            wait_milliseconds(epoll, events, 1)
        }
        result => {
            result?;
            wait_milliseconds(epoll, events, 0)
        }
    }
}

/// Waits until one of the descriptors is ready or `timeout` has passed; without limit if `None`.
fn wait_for_any(polled: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos() as libc::c_long,
    });
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    let count = polled.len() as libc::nfds_t;
    // SAFETY: `count` pollfds, and null or a timespec, all valid for the call; no signal mask.
    check(unsafe { libc::ppoll(polled.as_mut_ptr(), count, timeout, ptr::null()) })?;
    Ok(())
}

fn capacity(events: &Vec<Event>) -> i32 {
    i32::try_from(events.capacity()).unwrap_or(i32::MAX)
}

/// The result of a system call; the error of `errno` if it is negative.
fn check(result: impl TryInto<usize>) -> io::Result<usize> {
    result.try_into().map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    type Wait = fn(RawFd, &mut Vec<Event>, Duration) -> io::Result<()>;
    const WAITS: [Wait; 3] = [
        |epoll, events, timeout| wait_exactly(pwait2(), epoll, events, timeout),
        |epoll, events, timeout| wait_exactly(Pwait2::SystemCall, epoll, events, timeout),
        wait_in_two_steps,
    ];

    #[test]
    fn no_wait_ends_early() {
        let poll = mio::Poll::new().unwrap();
        let mut events = Vec::with_capacity(8);
        for wait in WAITS {
            for microseconds in [1, 50, 300, 999, 1000, 1001, 2500] {
                let timeout = Duration::from_micros(microseconds);
                let start = Instant::now();
                wait(poll.as_raw_fd(), &mut events, timeout).unwrap();
                assert!(start.elapsed() >= timeout, "{:?} < {timeout:?}", start.elapsed());
                assert!(events.is_empty());
            }
        }
    }

    #[test]
    fn an_event_ends_the_wait() {
        let poll = mio::Poll::new().unwrap();
        let (reader, mut writer) = UnixStream::pair().unwrap();
        let mut events = Vec::with_capacity(8);
        add(poll.as_raw_fd(), reader.as_raw_fd(), EPOLLIN, 7).unwrap();
        writer.write_all(b"x").unwrap();
        for wait in WAITS {
            for timeout in [Duration::from_micros(400), Duration::from_secs(600), Duration::MAX] {
                events.clear();
                wait(poll.as_raw_fd(), &mut events, timeout).unwrap();
                assert_eq!(events.len(), 1);
                assert_eq!({ events[0].u64 }, 7);
                assert_eq!({ events[0].events }, EPOLLIN as u32);
            }
        }
    }

    #[test]
    fn an_extra_descriptor_ends_the_wait() {
        let poll = mio::Poll::new().unwrap();
        let (reader, mut writer) = UnixStream::pair().unwrap();
        let (watched, mut other) = UnixStream::pair().unwrap();
        add(poll.as_raw_fd(), watched.as_raw_fd(), EPOLLIN, 7).unwrap();
        let mut events = Vec::with_capacity(8);
        let mut wait = |timeout| {
            let ready = wait_with_extra(poll.as_raw_fd(), reader.as_raw_fd(), &mut events, timeout);
            (ready.unwrap(), events.len())
        };
        let start = Instant::now();
        let timeout = Duration::from_micros(1500);
        assert_eq!(wait(Some(timeout)), (false, 0));
        assert!(start.elapsed() >= timeout);
        writer.write_all(b"x").unwrap();
        for timeout in [None, Some(Duration::ZERO), Some(Duration::MAX)] {
            assert_eq!(wait(timeout), (true, 0));
        }
        other.write_all(b"x").unwrap();
        assert_eq!(wait(None), (true, 1));
    }

    #[test]
    fn a_reopened_descriptor_keeps_its_number() {
        let epoll = create().unwrap();
        let number = epoll.as_raw_fd();
        let (reader, mut writer) = UnixStream::pair().unwrap();
        add(number, reader.as_raw_fd(), EPOLLIN, 7).unwrap();
        writer.write_all(b"x").unwrap();
        let mut events = Vec::with_capacity(8);
        wait(number, &mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events.len(), 1);
        reopen(number, reader.as_raw_fd(), create).unwrap();
        wait(number, &mut events, Some(Duration::ZERO)).unwrap();
        assert!(events.is_empty());
    }

    extern "C" fn ignore_signal(_signal: libc::c_int) {}

    #[test]
    fn a_signal_interrupts_the_wait() {
        let handler: extern "C" fn(libc::c_int) = ignore_signal;
        // SAFETY: the handler does nothing, which is safe in a signal handler.
        let previous = unsafe { libc::signal(libc::SIGUSR2, handler as libc::sighandler_t) };
        assert_ne!(previous, libc::SIG_ERR);
        let poll = mio::Poll::new().unwrap();
        let mut events = Vec::with_capacity(8);
        let forever: Wait = |epoll, events, _| wait(epoll, events, None);
        for wait in [forever, WAITS[0], WAITS[1], WAITS[2]] {
            // SAFETY: takes no arguments and cannot fail.
            let waiting = unsafe { libc::pthread_self() };
            let done = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    // Repeated, since the first signals may arrive before the wait begins.
                    while !done.load(Ordering::Acquire) {
                        std::thread::sleep(Duration::from_millis(5));
                        // SAFETY: the thread outlives this scope.
                        unsafe { libc::pthread_kill(waiting, libc::SIGUSR2) };
                    }
                });
                let timeout = Duration::from_secs(600);
                let error = wait(poll.as_raw_fd(), &mut events, timeout).unwrap_err();
                done.store(true, Ordering::Release);
                assert_eq!(error.kind(), io::ErrorKind::Interrupted);
            });
            assert!(events.is_empty());
        }
    }

    #[test]
    fn errors_carry_their_errno() {
        let poll = mio::Poll::new().unwrap();
        let error = delete(poll.as_raw_fd(), poll.as_raw_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        let error = wait(-1, &mut Vec::with_capacity(1), None).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }
}
