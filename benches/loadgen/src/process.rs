//! This process and the server's: core, file limit, time, state, memory.
#![allow(unsafe_code)]

use std::io;

use crate::failure::Failure;

/// Pin this process to one core.
pub fn pin(cpu: usize) -> Result<(), Failure> {
    // SAFETY: cpu_set_t is plain bits, for which zero is valid; CPU_SET checks the index; the
    // call only reads the set.
    let status = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error().into()) }
}

/// Raise the limit of open files as far as the system allows; thousands of connections need it.
pub fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a valid rlimit. If one fails, the limit stays as it is, and opening
    // one connection too many says so.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

/// Nanoseconds of CPU time that the main thread of process `pid` has used.
pub fn cpu_time(pid: u32) -> Result<f64, Failure> {
    let schedstat = std::fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    schedstat
        .split(' ')
        .next()
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| Failure::Usage("can't read /proc".into()))
}

/// Whether the main thread of process `pid` is awake.
pub fn is_awake(pid: u32) -> Result<bool, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may contain any character.
    let (_, fields) =
        stat.rsplit_once(") ").ok_or_else(|| Failure::Usage("can't read /proc".into()))?;
    Ok(fields.starts_with(['R', 'D']))
}

/// Resident bytes of process `pid`. Not from `statm`, which may be off by 64 pages per core.
pub fn resident(pid: u32) -> Result<f64, Failure> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    rollup
        .lines()
        .find_map(|line| line.strip_prefix("Rss:")?.trim().strip_suffix(" kB"))
        .and_then(|kilobytes| kilobytes.parse::<f64>().ok())
        .map(|kilobytes| kilobytes * 1024.0)
        .ok_or_else(|| Failure::Usage("can't read /proc".into()))
}
