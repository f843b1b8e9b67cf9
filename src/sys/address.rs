//! Socket addresses as the kernel writes them.

use std::fmt;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The address of one end of a socket. Compact, since most are IPv4.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SocketAddress {
    /// `AF_INET`.
    V4 { ip: [u8; 4], port: u16 },
    /// `AF_INET6`.
    V6 { ip: [u8; 16], port: u16, flow: u32, scope: u32 },
    /// `AF_UNIX` with a path; empty for an unnamed socket.
    UnixPath(Box<[u8]>),
    /// `AF_UNIX` in Linux's abstract namespace, with the leading zero byte.
    UnixAbstract(Box<[u8]>),
    /// Another family, which only Python's `socket` module can represent.
    Other,
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4 { ip, port } => write!(f, "{}:{port}", Ipv4Addr::from(*ip)),
            Self::V6 { ip, port, .. } => write!(f, "[{}]:{port}", Ipv6Addr::from(*ip)),
            Self::UnixPath(path) if path.is_empty() => f.write_str("unnamed"),
            Self::UnixPath(path) => write!(f, "{}", String::from_utf8_lossy(path)),
            Self::UnixAbstract(name) => {
                write!(f, "@{}", String::from_utf8_lossy(name.get(1..).unwrap_or_default()))
            }
            Self::Other => f.write_str("of another family"),
        }
    }
}

/// Storage for any address, and the length that the kernel reports.
pub(super) struct AddressBuffer {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl AddressBuffer {
    pub(super) fn new() -> Self {
        // SAFETY: sockaddr_storage is plain old data, for which all zeros is a valid value.
        let storage = unsafe { mem::zeroed() };
        Self { storage, length: mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t }
    }

    /// Copies the `length` bytes at `address`, or as many as fit.
    ///
    /// # Safety
    /// `length` bytes must be readable at `address`.
    pub(super) unsafe fn copied(address: *const libc::sockaddr, length: libc::socklen_t) -> Self {
        let mut buffer = Self::new();
        buffer.length = length.min(buffer.length);
        // SAFETY: at most `length` bytes, which the caller guarantees, and at most the storage's
        // size.
        unsafe {
            let target = (&raw mut buffer.storage).cast::<u8>();
            target.copy_from_nonoverlapping(address.cast(), buffer.length as usize);
        }
        buffer
    }

    pub(super) fn pointers(&mut self) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        ((&raw mut self.storage).cast(), &raw mut self.length)
    }

    /// The kernel's form of an Internet address; `None` for other families.
    pub(super) fn of(address: &SocketAddress) -> Option<Self> {
        let mut buffer = Self::new();
        match address {
            SocketAddress::V4 { ip, port } => {
                // SAFETY: the storage is large and aligned enough for every address type, and is
                // all zeros, which is valid for them.
                let target = unsafe { &mut *(&raw mut buffer.storage).cast::<libc::sockaddr_in>() };
                target.sin_family = libc::AF_INET as libc::sa_family_t;
                target.sin_port = port.to_be();
                target.sin_addr.s_addr = u32::from_ne_bytes(*ip);
                buffer.length = mem::size_of::<libc::sockaddr_in>() as libc::socklen_t;
            }
            SocketAddress::V6 { ip, port, flow, scope } => {
                // SAFETY: as above.
                let target =
                    unsafe { &mut *(&raw mut buffer.storage).cast::<libc::sockaddr_in6>() };
                target.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                target.sin6_port = port.to_be();
                target.sin6_flowinfo = flow.to_be();
                target.sin6_addr.s6_addr = *ip;
                target.sin6_scope_id = *scope;
                buffer.length = mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            }
            _ => return None,
        }
        Some(buffer)
    }

    /// Reads what the kernel wrote.
    pub(super) fn address(&self) -> SocketAddress {
        let length = self.length as usize;
        match libc::c_int::from(self.storage.ss_family) {
            libc::AF_INET if length >= mem::size_of::<libc::sockaddr_in>() => {
                // SAFETY: the storage is large and aligned enough for every address type, and the
                // family says which one it holds.
                let address = unsafe { &*(&raw const self.storage).cast::<libc::sockaddr_in>() };
                SocketAddress::V4 {
                    ip: address.sin_addr.s_addr.to_ne_bytes(),
                    port: u16::from_be(address.sin_port),
                }
            }
            libc::AF_INET6 if length >= mem::size_of::<libc::sockaddr_in6>() => {
                // SAFETY: as above.
                let address = unsafe { &*(&raw const self.storage).cast::<libc::sockaddr_in6>() };
                SocketAddress::V6 {
                    ip: address.sin6_addr.s6_addr,
                    port: u16::from_be(address.sin6_port),
                    flow: u32::from_be(address.sin6_flowinfo),
                    scope: address.sin6_scope_id,
                }
            }
            libc::AF_UNIX => {
                // SAFETY: as above.
                let address = unsafe { &*(&raw const self.storage).cast::<libc::sockaddr_un>() };
                let start = mem::offset_of!(libc::sockaddr_un, sun_path);
                let size = length.saturating_sub(start).min(address.sun_path.len());
                let path: Vec<u8> = address.sun_path[..size].iter().map(|&c| c as u8).collect();
                if cfg!(any(target_os = "linux", target_os = "android")) && path.first() == Some(&0)
                {
                    return SocketAddress::UnixAbstract(path.into());
                }
                let end = path.iter().position(|&byte| byte == 0).unwrap_or(path.len());
                SocketAddress::UnixPath(path[..end].into())
            }
            _ => SocketAddress::Other,
        }
    }
}
