//! Sockets: moving bytes, accepting, names and options. All calls are non-blocking.

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::sync::atomic::{AtomicBool, Ordering};

use super::address::{AddressBuffer, SocketAddress};
use super::pipe::set_non_blocking;

/// Maximum number of buffers in one vectored call (`IOV_MAX` on Linux).
pub(crate) const MAXIMUM_VECTOR: usize = 1024;

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) const SEND_FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const SEND_FLAGS: libc::c_int = libc::MSG_DONTWAIT;

/// The result of a system call; the error of `errno` if it is negative.
pub(super) fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Receives up to `buffer.len()` bytes and returns the count; that prefix is then initialised.
/// Returns 0 at end of stream.
#[inline]
pub(crate) fn receive(fd: RawFd, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `len` bytes into an exclusively borrowed buffer.
    check(unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) })
}

/// Sends as much of `data` as the kernel accepts; returns the number of bytes.
#[inline]
pub(crate) fn send(fd: RawFd, data: &[u8]) -> io::Result<usize> {
    // SAFETY: the kernel reads `len` bytes of a live slice.
    check(unsafe { libc::send(fd, data.as_ptr().cast(), data.len(), SEND_FLAGS) })
}

/// Sends as much of `slices` as the kernel accepts, at most [`MAXIMUM_VECTOR`] slices; returns the
/// number of bytes.
pub(crate) fn send_vectored(fd: RawFd, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: msghdr is plain old data, for which all zeros is a valid value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    // IoSlice has the layout of iovec by its documentation; sendmsg does not write through it.
    message.msg_iov = slices.as_ptr().cast::<libc::iovec>().cast_mut();
    message.msg_iovlen = slices.len().min(MAXIMUM_VECTOR) as _;
    // SAFETY: the message refers to live slices.
    check(unsafe { libc::sendmsg(fd, &message, SEND_FLAGS) })
}

/// Shuts down the sending direction.
pub(crate) fn shutdown_write(fd: RawFd) -> io::Result<()> {
    // SAFETY: a plain number that the kernel checks.
    check(unsafe { libc::shutdown(fd, libc::SHUT_WR) } as isize).map(drop)
}

/// Set once the kernel (or a seccomp filter) has refused `accept4`.
#[cfg(any(target_os = "linux", target_os = "android"))]
static NO_ACCEPT4: AtomicBool = AtomicBool::new(false);

/// Accepts a connection from the backlog; the new descriptor is non-blocking and close-on-exec.
pub(crate) fn accept(fd: RawFd) -> io::Result<(OwnedFd, SocketAddress)> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if !NO_ACCEPT4.load(Ordering::Relaxed) {
        match accept_in_one_call(fd) {
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
                NO_ACCEPT4.store(true, Ordering::Relaxed);
            }
            result => return result,
        }
    }
    accept_and_set_flags(fd)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn accept_in_one_call(fd: RawFd) -> io::Result<(OwnedFd, SocketAddress)> {
    let mut buffer = AddressBuffer::new();
    let (address, length) = buffer.pointers();
    // SAFETY: the buffer can hold any address, and `length` is its size.
    let accepted =
        unsafe { libc::accept4(fd, address, length, libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) };
    check(accepted as isize)?;
    // SAFETY: a new descriptor that no other code uses yet.
    let accepted = unsafe { OwnedFd::from_raw_fd(accepted) };
    Ok((accepted, buffer.address()))
}

fn accept_and_set_flags(fd: RawFd) -> io::Result<(OwnedFd, SocketAddress)> {
    let mut buffer = AddressBuffer::new();
    let (address, length) = buffer.pointers();
    // SAFETY: the buffer can hold any address, and `length` is its size.
    let accepted = unsafe { libc::accept(fd, address, length) };
    check(accepted as isize)?;
    // SAFETY: a new descriptor that no other code uses yet.
    let accepted = unsafe { OwnedFd::from_raw_fd(accepted) };
    // SAFETY: fcntl on a descriptor that we own; no pointers.
    check(unsafe { libc::fcntl(accepted.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) } as isize)?;
    set_non_blocking(accepted.as_raw_fd())?;
    Ok((accepted, buffer.address()))
}

/// The local address of a socket.
pub(crate) fn own_name(fd: RawFd) -> io::Result<SocketAddress> {
    let mut buffer = AddressBuffer::new();
    let (address, length) = buffer.pointers();
    // SAFETY: the buffer can hold any address, and `length` is its size.
    check(unsafe { libc::getsockname(fd, address, length) } as isize)?;
    Ok(buffer.address())
}

/// The address of the peer.
pub(crate) fn peer_name(fd: RawFd) -> io::Result<SocketAddress> {
    let mut buffer = AddressBuffer::new();
    let (address, length) = buffer.pointers();
    // SAFETY: as above.
    check(unsafe { libc::getpeername(fd, address, length) } as isize)?;
    Ok(buffer.address())
}

/// Sends small segments at once (Nagle's algorithm off).
pub(crate) fn set_no_delay(fd: RawFd) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)
}

/// Takes the pending error of a socket (`SO_ERROR`), which tells how a connection attempt ended.
/// `None` if there is none.
pub(crate) fn take_error(fd: RawFd) -> io::Result<Option<io::Error>> {
    let mut error: libc::c_int = 0;
    let mut size = mem::size_of_val(&error) as libc::socklen_t;
    let value = (&raw mut error).cast();
    // SAFETY: the kernel writes at most `size` bytes to a live int of that size.
    check(unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, value, &raw mut size) }
        as isize)?;
    Ok((error != 0).then(|| io::Error::from_raw_os_error(error)))
}

pub(super) fn set_option(
    fd: RawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let size = mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: the option value is a live int of the size given.
    check(unsafe { libc::setsockopt(fd, level, name, ptr::from_ref(&value).cast(), size) } as isize)
        .map(drop)
}

/// Receives one datagram, truncated to the buffer's size. Returns the number of bytes, a prefix of
/// `buffer` that is then initialised, and the sender.
#[inline]
pub(crate) fn receive_from(
    fd: RawFd,
    buffer: &mut [MaybeUninit<u8>],
) -> io::Result<(usize, SocketAddress)> {
    let mut sender = AddressBuffer::new();
    let (address, length) = sender.pointers();
    // SAFETY: the kernel writes at most `len` bytes into an exclusively borrowed buffer; the
    // address buffer can hold any address, and `length` is its size.
    let received = check(unsafe {
        let start = buffer.as_mut_ptr().cast();
        libc::recvfrom(fd, start, buffer.len(), libc::MSG_DONTWAIT, address, length)
    })?;
    Ok((received, sender.address()))
}

/// Sends one datagram to an Internet address.
///
/// # Errors
/// `EAFNOSUPPORT` for another address family; the kernel's errors.
pub(crate) fn send_to(fd: RawFd, data: &[u8], to: &SocketAddress) -> io::Result<usize> {
    let Some(mut to) = AddressBuffer::of(to) else {
        return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
    };
    let (address, length) = to.pointers();
    // SAFETY: the kernel reads `len` bytes of a live slice, and an address of `*length` bytes to
    // which `pointers` returned a valid pointer.
    check(unsafe {
        libc::sendto(fd, data.as_ptr().cast(), data.len(), SEND_FLAGS, address, *length)
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn accepting_sets_both_flags() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        for way in [accept, accept_and_set_flags] {
            let none = way(listener.as_raw_fd()).unwrap_err();
            assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, peer) = way(listener.as_raw_fd()).unwrap();
            let port = client.local_addr().unwrap().port();
            assert_eq!(peer, SocketAddress::V4 { ip: [127, 0, 0, 1], port });
            // SAFETY: fcntl with plain numbers.
            let flags = unsafe { libc::fcntl(accepted.as_raw_fd(), libc::F_GETFL) };
            assert_ne!(flags & libc::O_NONBLOCK, 0);
            // SAFETY: as above.
            let flags = unsafe { libc::fcntl(accepted.as_raw_fd(), libc::F_GETFD) };
            assert_eq!(flags, libc::FD_CLOEXEC);
        }
    }
}
