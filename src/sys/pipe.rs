//! Pipes and descriptors used like them: FIFOs, sockets, terminals.
//!
//! No call blocks if the descriptor is in non-blocking mode, which its owner must set. Writing to a
//! pipe without readers raises SIGPIPE, which Python ignores from startup.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use super::socket::{MAXIMUM_VECTOR, check};

/// What kind of file a descriptor is open on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FileKind {
    /// A pipe, named or anonymous.
    Fifo,
    /// A socket.
    Socket,
    /// Such as a terminal.
    CharacterDevice,
    /// A regular file, a directory or a block device.
    Other,
}

/// The kind of file that `fd` is open on.
pub(crate) fn file_kind(fd: RawFd) -> io::Result<FileKind> {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel writes one `stat` into storage for one.
    check(unsafe { libc::fstat(fd, status.as_mut_ptr()) } as isize)?;
    // SAFETY: initialised by the successful call.
    let mode = unsafe { status.assume_init() }.st_mode;
    Ok(match mode & libc::S_IFMT {
        libc::S_IFIFO => FileKind::Fifo,
        libc::S_IFSOCK => FileKind::Socket,
        libc::S_IFCHR => FileKind::CharacterDevice,
        _ => FileKind::Other,
    })
}

/// Puts the open file description into non-blocking mode, also for other descriptors that share it.
pub(crate) fn set_non_blocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: fcntl with plain numbers that the kernel checks.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    check(flags as isize)?;
    if flags & libc::O_NONBLOCK == 0 {
        // SAFETY: as above.
        check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) } as isize)?;
    }
    Ok(())
}

/// In a forked child: replaces the files behind `reader` and `writer` by the ends of a new pipe,
/// non-blocking and close-on-exec, keeping the numbers. On an error both are closed.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn reopen(reader: RawFd, writer: RawFd) -> io::Result<()> {
    let new = || {
        let mut ends = [-1; 2];
        // SAFETY: the kernel writes two numbers into storage for two.
        let made = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) };
        check(made as isize).map(|_| ends)
    };
    // SAFETY: plain numbers; the caller owns both, and the new pipe's ends belong to this function.
    let close = |fd: RawFd| unsafe { libc::close(fd) };
    let ends = match new() {
        // The process has no free descriptor: free the two that are to be replaced.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
            close(reader);
            close(writer);
            new()?
        }
        Err(error) => {
            close(reader);
            close(writer);
            return Err(error);
        }
        Ok(ends) => ends,
    };
    if ends == [reader, writer] {
        return Ok(());
    }
    let moved = super::poll::replace(writer, ends[1])
        .and_then(|()| super::poll::replace(reader, ends[0]))
        .inspect_err(|_| {
            close(reader);
            close(writer);
        });
    for end in ends {
        if end != reader && end != writer {
            close(end);
        }
    }
    moved
}

/// Reads up to `buffer.len()` bytes and returns the count; that prefix is then initialised. Returns
/// 0 at end of file.
#[inline]
pub(crate) fn read(fd: RawFd, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `len` bytes into an exclusively borrowed buffer.
    check(unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) })
}

/// Writes as much of `data` as the kernel accepts; returns the number of bytes.
#[inline]
pub(crate) fn write(fd: RawFd, data: &[u8]) -> io::Result<usize> {
    // SAFETY: the kernel reads `len` bytes of a live slice.
    check(unsafe { libc::write(fd, data.as_ptr().cast(), data.len()) })
}

/// Writes as much of `slices` as the kernel accepts, at most [`MAXIMUM_VECTOR`] slices; returns the
/// number of bytes.
pub(crate) fn write_vectored(fd: RawFd, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
    let count = slices.len().min(MAXIMUM_VECTOR) as libc::c_int;
    // SAFETY: IoSlice has the layout of iovec by its documentation; the slices are live.
    check(unsafe { libc::writev(fd, slices.as_ptr().cast(), count) })
}

/// The default capacity of a pipe, in bytes.
pub(crate) const DEFAULT_CAPACITY: usize = 64 * 1024;
/// The capacity given to a pipe that carries much data, in bytes.
#[cfg(any(target_os = "linux", target_os = "android"))]
const LARGE_CAPACITY: usize = 256 * 1024;

/// Enlarges a pipe that has the default capacity. Keeps a capacity that the program chose, and the
/// default one if the user's quota is exhausted.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn enlarge(fd: RawFd) {
    // SAFETY: fcntl with plain numbers that the kernel checks.
    unsafe {
        if libc::fcntl(fd, libc::F_GETPIPE_SZ) == DEFAULT_CAPACITY as libc::c_int {
            libc::fcntl(fd, libc::F_SETPIPE_SZ, LARGE_CAPACITY as libc::c_int);
        }
    }
}

/// Other systems adjust the capacity of pipes themselves.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn enlarge(_fd: RawFd) {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    /// A pipe's read end and write end.
    fn pipe() -> (OwnedFd, OwnedFd) {
        let mut ends = [-1; 2];
        // SAFETY: the kernel writes two numbers into storage for two.
        check(unsafe { libc::pipe(ends.as_mut_ptr()) } as isize).expect("descriptors are left");
        // SAFETY: new descriptors that no other code uses yet.
        unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) }
    }

    #[test]
    fn kinds_are_told_apart() {
        let (reader, _writer) = pipe();
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
        let device = File::open("/dev/null").expect("the null device");
        let directory = File::open("/").expect("the root");
        assert_eq!(file_kind(reader.as_raw_fd()).ok(), Some(FileKind::Fifo));
        assert_eq!(file_kind(socket.as_raw_fd()).ok(), Some(FileKind::Socket));
        assert_eq!(file_kind(device.as_raw_fd()).ok(), Some(FileKind::CharacterDevice));
        assert_eq!(file_kind(directory.as_raw_fd()).ok(), Some(FileKind::Other));
        assert!(file_kind(-1).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_chosen_size_stays() {
        // SAFETY: fcntl with plain numbers.
        let size = |fd: &OwnedFd| unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETPIPE_SZ) };
        let (reader, writer) = pipe();
        // SAFETY: as above.
        unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_SETPIPE_SZ, 8192) };
        enlarge(writer.as_raw_fd());
        assert_eq!(size(&reader), 8192);
        let (reader, writer) = pipe();
        let before = size(&reader) as usize;
        enlarge(writer.as_raw_fd());
        // The pipe is small from the start if the user's quota is exhausted.
        assert!(before != DEFAULT_CAPACITY || size(&reader) as usize >= before);
    }

    #[test]
    fn bytes_go_through_a_pipe_that_never_blocks() {
        let (reader, writer) = pipe();
        let (from, to) = (reader.as_raw_fd(), writer.as_raw_fd());
        set_non_blocking(from).expect("a mode that pipes have");
        let mut buffer = [MaybeUninit::uninit(); 16];
        let empty = read(from, &mut buffer).expect_err("nothing was written");
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(write(to, b"one").ok(), Some(3));
        let slices = [io::IoSlice::new(b"two"), io::IoSlice::new(b"three")];
        assert_eq!(write_vectored(to, &slices).ok(), Some(8));
        assert_eq!(read(from, &mut buffer).ok(), Some(11));
        drop(writer);
        assert_eq!(read(from, &mut buffer).ok(), Some(0));
    }
}
