//! Socket addresses as Python's `socket` module shows them.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::sys::address::SocketAddress;

/// What `getsockname()` and `getpeername()` return; None for a family not known here.
pub fn to_python<'py>(py: Python<'py>, address: &SocketAddress) -> PyResult<Bound<'py, PyAny>> {
    Ok(match address {
        SocketAddress::V4 { ip, port } => {
            let host = Ipv4Addr::from(*ip).to_string();
            (host, *port).into_pyobject(py)?.into_any()
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

/// As libc's `inet_ntop`, which writes IPv4-compatible addresses the old way.
fn v6_text(ip: [u8; 16]) -> String {
    if ip[..12] == [0; 12] && ip[12..14] != [0; 2] {
        let [.., a, b, c, d] = ip;
        return format!("::{a}.{b}.{c}.{d}");
    }
    Ipv6Addr::from(ip).to_string()
}
