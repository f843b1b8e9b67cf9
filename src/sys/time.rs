//! Clock readings in nanoseconds.

/// The clock that Python's `time.monotonic()` reads.
#[cfg(not(target_vendor = "apple"))]
const MONOTONIC: libc::clockid_t = libc::CLOCK_MONOTONIC;
/// The clock that Python's `time.monotonic()` reads: `mach_absolute_time()`.
#[cfg(target_vendor = "apple")]
const MONOTONIC: libc::clockid_t = libc::CLOCK_UPTIME_RAW;

#[cfg(any(target_os = "linux", target_os = "android"))]
const COARSE: libc::clockid_t = libc::CLOCK_MONOTONIC_COARSE;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const COARSE: libc::clockid_t = MONOTONIC;

const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;

/// The monotonic clock.
#[inline]
pub(crate) fn monotonic_nanoseconds() -> u64 {
    read(MONOTONIC)
}

/// The monotonic clock as of the last timer interrupt where the platform has such a reading
/// (it costs a fraction of the exact one and lags it by up to 10 ms), else the exact one.
#[inline]
pub(crate) fn coarse_nanoseconds() -> u64 {
    read(COARSE)
}

/// The CPU time of the calling thread in nanoseconds; `None` if the platform does not report it.
pub(crate) fn thread_nanoseconds() -> Option<u64> {
    try_read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// The CPU time of a thread of this process, by the kernel's number, in nanoseconds; `None` if it
/// has ended.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn cpu_nanoseconds_of(thread: i32) -> Option<u64> {
    // How Linux numbers the CPU clock of a thread: see `clock_getcpuclockid(3)`. The kernel refuses
    // threads of other processes.
    const SCHEDULER_CLOCK_OF_A_THREAD: libc::clockid_t = 0b110;
    try_read((!thread << 3) | SCHEDULER_CLOCK_OF_A_THREAD)
}

#[inline]
fn read(clock: libc::clockid_t) -> u64 {
    let now = try_read(clock);
    now.unwrap_or_else(|| panic!("the platform must have the clock {clock}"))
}

#[inline]
fn try_read(clock: libc::clockid_t) -> Option<u64> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec that outlives the call, which only writes to it.
    let status = unsafe { libc::clock_gettime(clock, &mut now) };
    // The fields' widths differ by platform; no clock is ever negative.
    (status == 0).then(|| now.tv_sec as u64 * NANOSECONDS_PER_SECOND + now.tv_nsec as u64)
}
