//! Several UDP datagrams in one system call: `UDP_SEGMENT` and `UDP_GRO`.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use super::address::SocketAddress;

/// The most segments that every kernel with `UDP_SEGMENT` sends in one call.
pub(crate) const MAXIMUM_SEGMENTS: usize = 64;
/// The most bytes of one call: what fits into an IPv6 packet, with room for options.
pub(crate) const MAXIMUM_BYTES: usize = 65_000;

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use linux::{coalesce, is_supported, receive, send};
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) use other::{coalesce, is_supported, receive, send};

/// Whether an error of [`send`] concerns segmentation and not the datagrams: the device or the
/// protocol cannot do it, or the segments do not fit into packets without being fragmented.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EIO | libc::EOPNOTSUPP | libc::ENOPROTOOPT)
    )
}

/// What [`receive`] has received.
pub(crate) struct Received {
    /// The number of bytes, a prefix of the buffer that is then initialised.
    pub(crate) length: usize,
    /// The length of each datagram except for the last one, which may be shorter.
    pub(crate) segment: usize,
    /// The sender of all of them.
    pub(crate) sender: SocketAddress,
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux {
    use std::mem;
    use std::ptr;

    use super::super::address::AddressBuffer;
    use super::super::socket::{SEND_FLAGS, check};
    use super::{MaybeUninit, RawFd, Received, SocketAddress, io};

    /// Room for one control message with an integer, aligned as its header.
    #[repr(C, align(8))]
    struct Control([u8; 64]);

    /// Whether the kernel and the socket have `UDP_SEGMENT`. A kernel without it would ignore the
    /// control message of [`send`].
    pub(crate) fn is_supported(fd: RawFd) -> bool {
        let mut value: libc::c_int = 0;
        let mut size = mem::size_of_val(&value) as libc::socklen_t;
        let target = (&raw mut value).cast();
        // SAFETY: the kernel writes at most `size` bytes to a live int of that size.
        unsafe {
            libc::getsockopt(fd, libc::SOL_UDP, libc::UDP_SEGMENT, target, &raw mut size) == 0
        }
    }

    /// Sends `data` as datagrams of `segment` bytes to an Internet address, or to the peer.
    ///
    /// # Errors
    /// Of all datagrams together, also those that [`super::is_refusal`] tells.
    pub(crate) fn send(
        fd: RawFd,
        data: &[u8],
        segment: u16,
        to: Option<&SocketAddress>,
    ) -> io::Result<usize> {
        let mut to = match to {
            Some(to) => Some(
                AddressBuffer::of(to)
                    .ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?,
            ),
            None => None,
        };
        let slice = io::IoSlice::new(data);
        let mut control = Control([0; 64]);
        // SAFETY: msghdr is plain old data, for which all zeros is a valid value.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        if let Some(to) = &mut to {
            let (address, length) = to.pointers();
            message.msg_name = address.cast();
            // SAFETY: `pointers` returned a valid pointer.
            message.msg_namelen = unsafe { *length };
        }
        // IoSlice has the layout of iovec by its documentation; sendmsg does not write through it.
        message.msg_iov = ptr::from_ref(&slice).cast::<libc::iovec>().cast_mut();
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        let size = mem::size_of::<u16>() as libc::c_uint;
        // SAFETY: arithmetic on the size of a message.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(size) } as _;
        // SAFETY: the message has room for this header and its data, which are aligned.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_UDP;
            (*header).cmsg_type = libc::UDP_SEGMENT;
            (*header).cmsg_len = libc::CMSG_LEN(size) as _;
            libc::CMSG_DATA(header).cast::<u16>().write_unaligned(segment);
        }
        // SAFETY: the message refers to live memory.
        check(unsafe { libc::sendmsg(fd, &raw const message, SEND_FLAGS) })
    }

    /// Has the kernel join datagrams that arrive together, for [`receive`].
    pub(crate) fn coalesce(fd: RawFd) -> io::Result<()> {
        super::super::socket::set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1)
    }

    /// Receives datagrams of one sender that arrived together.
    pub(crate) fn receive(fd: RawFd, buffer: &mut [MaybeUninit<u8>]) -> io::Result<Received> {
        let mut sender = AddressBuffer::new();
        let mut control = Control([0; 64]);
        let mut slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: msghdr is plain old data, for which all zeros is a valid value.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        let (address, length) = sender.pointers();
        message.msg_name = address.cast();
        // SAFETY: `pointers` returned a valid pointer.
        message.msg_namelen = unsafe { *length };
        message.msg_iov = &raw mut slice;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len() as _;
        // SAFETY: the message refers to live memory, exclusively borrowed.
        let received = check(unsafe { libc::recvmsg(fd, &raw mut message, libc::MSG_DONTWAIT) })?;
        // SAFETY: `pointers` returned a valid pointer, to which nothing else refers now.
        unsafe { *length = message.msg_namelen };
        let segment = segment_size(&message).unwrap_or(received);
        Ok(Received { length: received, segment: segment.max(1), sender: sender.address() })
    }

    /// What the kernel said in a received message; none if it has joined nothing.
    fn segment_size(message: &libc::msghdr) -> Option<usize> {
        // SAFETY: the kernel wrote control messages to live memory, and set their length.
        let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
        while !header.is_null() {
            // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a complete header, which is
            // followed by its data: an int for this type.
            unsafe {
                if (*header).cmsg_level == libc::SOL_UDP && (*header).cmsg_type == libc::UDP_GRO {
                    let size = libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned();
                    return usize::try_from(size).ok();
                }
                header = libc::CMSG_NXTHDR(message, header);
            }
        }
        None
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod other {
    use super::super::socket;
    use super::{MaybeUninit, RawFd, Received, SocketAddress, io};

    pub(crate) fn is_supported(_fd: RawFd) -> bool {
        false
    }

    pub(crate) fn send(
        _fd: RawFd,
        _data: &[u8],
        _segment: u16,
        _to: Option<&SocketAddress>,
    ) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(libc::ENOPROTOOPT))
    }

    pub(crate) fn coalesce(_fd: RawFd) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::ENOPROTOOPT))
    }

    pub(crate) fn receive(fd: RawFd, buffer: &mut [MaybeUninit<u8>]) -> io::Result<Received> {
        let (length, sender) = socket::receive_from(fd, buffer)?;
        Ok(Received { length, segment: length.max(1), sender })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn datagrams_sent_in_one_call_are_received_in_one() {
        let [sender, receiver] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        if !is_supported(sender.as_raw_fd()) {
            return;
        }
        coalesce(receiver.as_raw_fd()).unwrap();
        let port = receiver.local_addr().unwrap().port();
        let to = SocketAddress::V4 { ip: [127, 0, 0, 1], port };
        let data = [7; 2500];
        assert_eq!(send(sender.as_raw_fd(), &data, 1000, Some(&to)).unwrap(), 2500);
        let mut buffer = [MaybeUninit::uninit(); 65536];
        let mut total = 0;
        while total < data.len() {
            let received = receive(receiver.as_raw_fd(), &mut buffer).unwrap();
            assert!(received.segment <= 1000);
            total += received.length;
        }
        let none = receive(receiver.as_raw_fd(), &mut buffer).err().unwrap();
        assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
        let refused = send(sender.as_raw_fd(), &[7; 65_000], 1, Some(&to)).unwrap_err();
        assert!(is_refusal(&refused));
    }
}
