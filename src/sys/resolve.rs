//! `getaddrinfo(3)`, and the constants of it and of `getnameinfo(3)`.

use std::ffi::{CStr, CString};
use std::io;
use std::ptr;

use super::address::{AddressBuffer, SocketAddress};

pub(crate) use libc::{
    AF_INET, AF_INET6, AF_UNSPEC, AI_ALL, AI_NUMERICHOST, AI_NUMERICSERV, AI_PASSIVE, AI_V4MAPPED,
    NI_NUMERICHOST, NI_NUMERICSERV,
};

/// The arguments of one `getaddrinfo(3)` call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub host: Option<CString>,
    pub service: Option<CString>,
    pub family: i32,
    pub kind: i32,
    pub protocol: i32,
    pub flags: i32,
}

/// One result: an `addrinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AddressInfo {
    pub family: i32,
    pub kind: i32,
    pub protocol: i32,
    pub canonical_name: Option<CString>,
    pub address: SocketAddress,
}

/// Why a lookup failed.
#[derive(Debug)]
pub(crate) enum LookupError {
    /// `EAI_SYSTEM`, with the error of `errno`.
    System(io::Error),
    /// Any other error code, with its text from `gai_strerror(3)`.
    Resolver(i32, CString),
}

/// Calls libc's `getaddrinfo`. Blocks for as long as the name servers take to answer.
pub(crate) fn look_up(question: &Question) -> Result<Vec<AddressInfo>, LookupError> {
    let pointer = |text: &Option<CString>| text.as_ref().map_or(ptr::null(), |text| text.as_ptr());
    let hints = libc::addrinfo {
        ai_family: question.family,
        ai_socktype: question.kind,
        ai_protocol: question.protocol,
        ai_flags: question.flags,
        ai_addrlen: 0,
        ai_addr: ptr::null_mut(),
        ai_canonname: ptr::null_mut(),
        ai_next: ptr::null_mut(),
    };
    let mut head = ptr::null_mut();
    // SAFETY: host and service are null or NUL-terminated, and the other pointers are valid for the
    // duration of the call.
    let code = unsafe {
        libc::getaddrinfo(pointer(&question.host), pointer(&question.service), &hints, &mut head)
    };
    match code {
        0 => {
            let list = List(head);
            Ok(list.iter().map(to_address_info).collect())
        }
        libc::EAI_SYSTEM => Err(LookupError::System(io::Error::last_os_error())),
        _ => {
            // SAFETY: the returned text is constant and NUL-terminated.
            let text = unsafe { CStr::from_ptr(libc::gai_strerror(code)) };
            Err(LookupError::Resolver(code, text.to_owned()))
        }
    }
}

/// The list that `getaddrinfo` allocated; freed on drop.
struct List(*mut libc::addrinfo);

impl List {
    fn iter(&self) -> impl Iterator<Item = &libc::addrinfo> {
        // SAFETY: each pointer is null or points to an entry that lives as long as the list.
        let entry = |pointer: *mut libc::addrinfo| unsafe { pointer.as_ref() };
        std::iter::successors(entry(self.0), move |last| entry(last.ai_next))
    }
}

impl Drop for List {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: `getaddrinfo` allocated it, only this frees it, and no entry is borrowed any
            // more.
            unsafe { libc::freeaddrinfo(self.0) };
        }
    }
}

fn to_address_info(entry: &libc::addrinfo) -> AddressInfo {
    let address = if entry.ai_addr.is_null() {
        SocketAddress::Other
    } else {
        // SAFETY: the entry owns an address of `ai_addrlen` bytes.
        unsafe { AddressBuffer::copied(entry.ai_addr, entry.ai_addrlen) }.address()
    };
    let canonical_name = (!entry.ai_canonname.is_null()).then(|| {
        // SAFETY: the entry owns a NUL-terminated text.
        unsafe { CStr::from_ptr(entry.ai_canonname) }.to_owned()
    });
    AddressInfo {
        family: entry.ai_family,
        kind: entry.ai_socktype,
        protocol: entry.ai_protocol,
        canonical_name,
        address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(host: Option<&str>, service: Option<&str>) -> Question {
        let text = |text: &str| CString::new(text).unwrap();
        Question {
            host: host.map(text),
            service: service.map(text),
            family: AF_UNSPEC,
            kind: libc::SOCK_STREAM,
            protocol: 0,
            flags: AI_NUMERICHOST,
        }
    }

    #[test]
    fn copies_the_answer() {
        let entries = look_up(&question(Some("127.0.0.1"), Some("80"))).unwrap();
        let address = SocketAddress::V4 { ip: [127, 0, 0, 1], port: 80 };
        let expected = AddressInfo {
            family: AF_INET,
            kind: libc::SOCK_STREAM,
            protocol: libc::IPPROTO_TCP,
            canonical_name: None,
            address: address.clone(),
        };
        assert_eq!(entries, std::slice::from_ref(&expected));
        let mut named = question(Some("127.0.0.1"), Some("80"));
        named.flags |= libc::AI_CANONNAME;
        let canonical_name = Some(CString::new("127.0.0.1").unwrap());
        assert_eq!(look_up(&named).unwrap(), [AddressInfo { canonical_name, ..expected }]);
    }

    #[test]
    fn keeps_the_scope() {
        let entries = look_up(&question(Some("fe80::1%7"), Some("80"))).unwrap();
        let mut ip = [0; 16];
        (ip[0], ip[1], ip[15]) = (0xfe, 0x80, 1);
        let address = SocketAddress::V6 { ip, port: 80, flow: 0, scope: 7 };
        assert_eq!(entries.iter().map(|entry| &entry.address).collect::<Vec<_>>(), [&address]);
    }

    #[test]
    fn reports_the_error() {
        let Err(LookupError::Resolver(code, text)) = look_up(&question(Some("no address"), None))
        else {
            panic!("this is no address");
        };
        assert_eq!(code, libc::EAI_NONAME);
        assert!(!text.is_empty());
    }
}
