//! Socket addresses as Python's `socket` module represents them.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};

use crate::sys::address::SocketAddress;

/// What `getsockname()` and `getpeername()` return; None for an address family unknown here.
pub fn to_python<'py>(py: Python<'py>, address: &SocketAddress) -> PyResult<Bound<'py, PyAny>> {
    Ok(match address {
        SocketAddress::V4 { ip, port } => {
            (v4_text(*ip).text(), *port).into_pyobject(py)?.into_any()
        }
        SocketAddress::V6 { ip, port, flow, scope } => {
            let items = (v6_text(*ip), *port, *flow, *scope);
            let tuple: Bound<'py, PyTuple> = items.into_pyobject(py)?;
            tuple.into_any()
        }
        SocketAddress::UnixPath(path) => OsStr::from_bytes(path).into_pyobject(py)?.into_any(),
        SocketAddress::UnixAbstract(name) => PyBytes::new(py, name).into_any(),
        SocketAddress::Other => py.None().into_bound(py),
    })
}

/// The address that a tuple denotes for a socket of `family`; `None` if it contains a name that
/// needs a DNS lookup, or anything else that Python must check.
pub fn from_python(object: &Bound<'_, PyAny>, family: i32) -> Option<SocketAddress> {
    let tuple = object.cast::<PyTuple>().ok()?;
    let item = |index: usize| tuple.get_borrowed_item(index).ok();
    let host = item(0)?;
    let host = host.cast::<PyString>().ok()?;
    let host = host.to_str().ok()?;
    let port = item(1)?.extract::<u16>().ok()?;
    match (family, tuple.len()) {
        (libc::AF_INET, 2) => {
            let ip = host.parse::<Ipv4Addr>().ok()?.octets();
            Some(SocketAddress::V4 { ip, port })
        }
        (libc::AF_INET6, length @ 2..=4) => {
            let ip = host.parse::<Ipv6Addr>().ok()?.octets();
            let number = |index: usize| item(index)?.extract::<u32>().ok();
            let flow = if length > 2 { number(2)? } else { 0 };
            let scope = if length > 3 { number(3)? } else { 0 };
            // Python refuses flow labels beyond 20 bits.
            (flow < 1 << 20).then_some(SocketAddress::V6 { ip, port, flow, scope })
        }
        _ => None,
    }
}

/// The text of an IPv4 address.
struct V4Text {
    digits: [u8; 15],
    length: usize,
}

impl V4Text {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.digits[..self.length]).unwrap_or_default()
    }
}

/// Hand-written: a server formats the address of every peer, and the standard library's formatting
/// takes longer than everything else that we do for a datagram.
fn v4_text(ip: [u8; 4]) -> V4Text {
    let mut text = V4Text { digits: [b'.'; 15], length: 0 };
    for (index, number) in ip.into_iter().enumerate() {
        text.length += usize::from(index > 0);
        for (place, shown) in [(100, number >= 100), (10, number >= 10), (1, true)] {
            if shown {
                text.digits[text.length] = b'0' + number / place % 10;
                text.length += 1;
            }
        }
    }
    text
}

/// As libc's `inet_ntop`, which writes IPv4-compatible addresses in the dotted form.
fn v6_text(ip: [u8; 16]) -> String {
    if ip[..12] == [0; 12] && ip[12..14] != [0; 2] {
        let [.., a, b, c, d] = ip;
        return format!("::{a}.{b}.{c}.{d}");
    }
    Ipv6Addr::from(ip).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_is_written_as_by_the_standard_library() {
        for number in 0..=255 {
            for ip in [[number, 0, 9, 10], [255, number, 99, 100], [1, 23, number, number]] {
                assert_eq!(v4_text(ip).text(), Ipv4Addr::from(ip).to_string());
            }
        }
    }
}
