//! Child processes as descriptors (pidfds), and their exit codes. Where a sandbox refuses
//! `waitid()` on the descriptor, `waitpid()` reaps.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// This system has no process descriptors: fails with [`io::ErrorKind::Unsupported`].
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn open(_pid: libc::pid_t) -> io::Result<OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Opens a process descriptor for `pid`, close-on-exec, which becomes readable when the process
/// ends. It keeps referring to that process even after the pid is reused.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn open(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: takes plain numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let Ok(fd) = i32::try_from(fd) else { return Err(io::Error::other("no descriptor")) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that no other code uses yet.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Reaps the child `pid`, to which `pidfd` refers, if it has ended. Returns its exit code, or the
/// negated number of the signal that ended it; `None` while it runs.
///
/// # Errors
/// `ECHILD` if it is not a child of this process or was reaped elsewhere.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn reap(pid: libc::pid_t, pidfd: &OwnedFd) -> io::Result<Option<i32>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let id = pidfd.as_raw_fd().unsigned_abs();
    // SAFETY: `info` is valid for the call, which fills it in or leaves it zero.
    let status = unsafe {
        libc::waitid(libc::P_PIDFD, id, info.as_mut_ptr(), libc::WEXITED | libc::WNOHANG)
    };
    if status < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ECHILD) => Err(error),
            Some(libc::EINTR) => Ok(None),
            // EINVAL: Linux 5.3 has pidfds, but waitid() accepts them only since 5.4. Any other
            // error comes from a seccomp filter, which may still allow waitpid().
            _ => reap_by_number(pid),
        };
    }
    // SAFETY: all fields of a zeroed siginfo are valid; those of SIGCHLD may be read from what
    // `waitid` fills in.
    let (pid, code, status) = unsafe {
        let info = info.assume_init_ref();
        (info.si_pid(), info.si_code, info.si_status())
    };
    Ok(match (pid, code) {
        (0, _) => None,
        (_, libc::CLD_EXITED) => Some(status),
        _ => Some(-status),
    })
}

/// Reaps by pid: this system has no process descriptors.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn reap(pid: libc::pid_t, _pidfd: &OwnedFd) -> io::Result<Option<i32>> {
    reap_by_number(pid)
}

fn reap_by_number(pid: libc::pid_t) -> io::Result<Option<i32>> {
    let mut status = 0;
    // SAFETY: `status` is valid for the call, which fills it in.
    match unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } {
        0 => Ok(None),
        reaped if reaped < 0 => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            error => Err(error),
        },
        _ if libc::WIFEXITED(status) => Ok(Some(libc::WEXITSTATUS(status))),
        _ => Ok(Some(-libc::WTERMSIG(status))),
    }
}

#[cfg(test)]
#[cfg(any(target_os = "linux", target_os = "android"))]
mod tests {
    use std::io::Read;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    use super::*;

    fn pid(child: &std::process::Child) -> libc::pid_t {
        child.id() as libc::pid_t
    }

    fn wait(child: &std::process::Child, pidfd: &OwnedFd) -> io::Result<i32> {
        loop {
            if let Some(code) = reap(pid(child), pidfd)? {
                return Ok(code);
            }
            std::thread::yield_now();
        }
    }

    fn shell(script: &str) -> (std::process::Child, OwnedFd) {
        let child = Command::new("/bin/sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pidfd = open(pid(&child)).unwrap();
        (child, pidfd)
    }

    #[test]
    fn exit_codes_and_signals() {
        for (script, expected) in [("exit 0", 0), ("exit 255", 255), ("kill -9 $$", -9)] {
            let (child, pidfd) = shell(script);
            assert_eq!(wait(&child, &pidfd).unwrap(), expected, "{script}");
            let error = reap(pid(&child), &pidfd).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ECHILD));
        }
    }

    #[test]
    fn a_running_child_is_not_waited_for() {
        let (mut child, pidfd) = shell("echo started; read line");
        child.stdout.take().unwrap().read_exact(&mut [0; 8]).unwrap();
        assert_eq!(reap(pid(&child), &pidfd).unwrap(), None);
        assert_eq!(reap_by_number(pid(&child)).unwrap(), None);
        drop(child.stdin.take());
        assert_eq!(wait(&child, &pidfd).unwrap(), 1);
    }

    #[test]
    fn a_child_reaped_elsewhere() {
        let (mut child, pidfd) = shell("exit 3");
        assert_eq!(child.wait().unwrap().into_raw(), 3 << 8);
        assert_eq!(reap(pid(&child), &pidfd).unwrap_err().raw_os_error(), Some(libc::ECHILD));
        let error = open(pid(&child)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn reaping_by_number_finds_the_same() {
        for (script, expected) in [("exit 7", 7), ("kill -15 $$", -15)] {
            let (child, _pidfd) = shell(script);
            let code = loop {
                if let Some(code) = reap_by_number(pid(&child)).unwrap() {
                    break code;
                }
                std::thread::yield_now();
            };
            assert_eq!(code, expected, "{script}");
        }
    }
}
