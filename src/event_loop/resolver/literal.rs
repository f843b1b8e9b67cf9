//! Literal addresses, answered without a call of libc.

#![forbid(unsafe_code)]

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyList, PyString};

use super::modules::Functions;
use super::{Request, answer};
use crate::ffi::objects::cell::AttachedRefCell;
use crate::sys::resolve::{AI_ALL, AI_NUMERICHOST, AI_NUMERICSERV, AI_PASSIVE, AI_V4MAPPED};

/// What decides how an answer looks, apart from the address and the port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    pub family: i32,
    pub r#type: i32,
    pub proto: i32,
    pub flags: i32,
}

/// Flags that make the answer depend neither on the system's state nor on the address.
const PLAIN_FLAGS: i32 = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV | AI_V4MAPPED | AI_ALL;

/// Programs use a handful. One that tries them all must not fill the memory.
const MOST_SHAPES: usize = 64;

/// Shape, version 6 or not, with a port or not.
type Key = (Shape, bool, bool);

/// Family, kind, protocol and canonical name of each entry; none where libc's answer is not of
/// the plain kind: an error, or another address than the one asked for.
type Pattern = Option<Arc<Vec<[Py<PyAny>; 4]>>>;

/// What libc has answered. Entries are only added.
static LEARNED: AttachedRefCell<Vec<(Key, Pattern)>> = AttachedRefCell::new(Vec::new());

/// The answer for an address and a port in their usual form; none for anything else.
#[inline]
pub(super) fn resolve<'py>(
    request: &Request<'_, 'py>,
    shape: &Shape,
    functions: &Functions<'py>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = request.py();
    if shape.flags & !PLAIN_FLAGS != 0 {
        return Ok(None);
    }
    let Some(address) = text_of(request.host).and_then(usual_form) else { return Ok(None) };
    let Some(port) = port_of(request.port) else { return Ok(None) };
    let key = (*shape, address.is_ipv6(), port.is_some());
    let known = LEARNED.with(py, |learned| {
        learned.iter().find(|(other, _)| *other == key).map(|(_, pattern)| pattern.clone())
    });
    let pattern = match known {
        Some(pattern) => {
            if pattern.is_some() {
                request.audit(shape)?;
            }
            pattern
        }
        // Asking libc raises the audit event.
        None => learn(request, key, functions, address, port)?,
    };
    pattern.map(|pattern| fill_in(request, &pattern, address, port.unwrap_or(0))).transpose()
}

/// The list for one address and port.
#[inline]
fn fill_in<'py>(
    request: &Request<'_, 'py>,
    pattern: &[[Py<PyAny>; 4]],
    address: IpAddr,
    port: u16,
) -> PyResult<Bound<'py, PyAny>> {
    let py = request.py();
    let host = match address {
        // The usual form is libc's form.
        IpAddr::V4(_) if request.host.is_exact_instance_of::<PyString>() => request.host.clone(),
        IpAddr::V4(address) => PyString::new(py, &Text::of(address)).into_any(),
        IpAddr::V6(address) => PyString::new(py, &Text::of(address)).into_any(),
    };
    let port = PyInt::new(py, port);
    let socket_address = match address {
        IpAddr::V4(_) => (host, port).into_pyobject(py)?,
        IpAddr::V6(_) => (host, port, 0, 0).into_pyobject(py)?,
    };
    let entries = PyList::empty(py);
    for [family, kind, proto, canonical_name] in pattern {
        entries.append((family, kind, proto, canonical_name, &socket_address))?;
    }
    Ok(entries.into_any())
}

/// Asks libc once for answers of this shape.
#[cold]
fn learn<'py>(
    request: &Request<'_, 'py>,
    key: Key,
    functions: &Functions<'py>,
    address: IpAddr,
    port: Option<u16>,
) -> PyResult<Pattern> {
    let py = request.py();
    let flags = PyInt::new(py, key.0.flags | AI_NUMERICHOST | AI_NUMERICSERV);
    let pattern = match functions.getaddrinfo.call1(request.arguments(&flags)?) {
        Ok(entries) => pattern_of(&answer::with_enums(entries)?, address, port)?,
        Err(error) if error.is_instance_of::<PyOSError>(py) => None,
        Err(error) => return Err(error),
    };
    LEARNED.with(py, |learned| {
        if learned.len() < MOST_SHAPES {
            learned.push((key, pattern.clone()));
        }
    });
    Ok(pattern)
}

/// What stays the same for other addresses and ports, if the rest is what was asked for.
fn pattern_of(entries: &Bound<'_, PyAny>, address: IpAddr, port: Option<u16>) -> PyResult<Pattern> {
    let py = entries.py();
    let port = port.unwrap_or(0);
    let expected = match address {
        IpAddr::V4(address) => (&*Text::of(address), port).into_pyobject(py)?.into_any(),
        IpAddr::V6(address) => (&*Text::of(address), port, 0, 0).into_pyobject(py)?.into_any(),
    };
    let mut pattern = Vec::new();
    for entry in entries.try_iter()? {
        let (family, kind, proto, canonical_name, socket_address): (_, _, _, Py<PyAny>, Py<PyAny>) =
            entry?.extract()?;
        if !socket_address.bind(py).eq(&expected)? || !canonical_name.bind(py).is_empty()? {
            return Ok(None);
        }
        pattern.push([family, kind, proto, canonical_name]);
    }
    Ok(Some(Arc::new(pattern)))
}

/// Whether libc could take host and port without a look-up. A guess: libc decides.
pub(super) fn may_be_numeric(host: &Bound<'_, PyAny>, port: &Bound<'_, PyAny>) -> bool {
    let host_may = host.is_none() || text_of(host).is_some_and(may_be_address);
    let port_may = port.is_none()
        || port.is_instance_of::<PyInt>()
        || text_of(port).is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    host_may && port_may
}

/// `127.1`, `0x7f.1`, `2130706433`, and whatever has a colon, which no name has.
fn may_be_address(host: &str) -> bool {
    let number = |byte: u8| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b'x' | b'X');
    host.contains(':')
        || host.starts_with(|first: char| first.is_ascii_digit()) && host.bytes().all(number)
}

/// The text of a str or of bytes.
fn text_of<'a>(object: &'a Bound<'_, PyAny>) -> Option<&'a str> {
    if let Ok(text) = object.cast::<PyString>() {
        text.to_str().ok()
    } else {
        std::str::from_utf8(object.cast::<PyBytes>().ok()?.as_bytes()).ok()
    }
}

/// The address, if libc would write the same text for it or differ only in ways that
/// [`Text::of`] reproduces.
fn usual_form(host: &str) -> Option<IpAddr> {
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return Some(IpAddr::V4(address));
    }
    let address = host.parse::<Ipv6Addr>().ok()?;
    // `::1.2.3.4`: libc shows the last 32 bits as a version 4 address, Rust does not.
    let embeds_version_4 = address.segments()[..6] == [0; 6] && address.segments()[6] != 0;
    (!embeds_version_4).then_some(IpAddr::V6(address))
}

/// The port; `Some(None)` for None.
fn port_of(port: &Bound<'_, PyAny>) -> Option<Option<u16>> {
    if port.is_none() {
        return Some(None);
    }
    // `_socket` refuses True and other subclasses.
    if !port.is_exact_instance_of::<PyInt>() {
        return None;
    }
    port.extract().ok().map(Some)
}

/// An address as text, without allocation.
struct Text {
    bytes: [u8; Self::LONGEST],
    length: usize,
}

impl Text {
    /// `ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255`
    const LONGEST: usize = 45;

    fn of(address: impl std::fmt::Display) -> Self {
        let mut text = Self { bytes: [0; Self::LONGEST], length: 0 };
        write!(text, "{address}").expect("no address has a longer text");
        text
    }
}

impl Write for Text {
    fn write_str(&mut self, part: &str) -> std::fmt::Result {
        let end = self.length + part.len();
        let room = self.bytes.get_mut(self.length..end).ok_or(std::fmt::Error)?;
        room.copy_from_slice(part.as_bytes());
        self.length = end;
        Ok(())
    }
}

impl std::ops::Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).expect("only whole strings are written")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognises_the_usual_forms() {
        for host in ["127.0.0.1", "0.0.0.0", "255.255.255.255", "::", "::1", "fe80::1", "FF02::1"] {
            assert!(usual_form(host).is_some(), "{host}");
        }
        assert_eq!(&*Text::of(usual_form("FF02:0:0::1").unwrap()), "ff02::1");
        assert_eq!(&*Text::of(usual_form("::ffff:1.2.3.4").unwrap()), "::ffff:1.2.3.4");
    }

    #[test]
    fn leaves_the_rest_to_libc() {
        for host in [
            "",
            "localhost",
            "127.1",
            "0x7f.1",
            "127.0.0.01",
            "1.2.3.256",
            " 127.0.0.1",
            "127.0.0.1 ",
            "127.0.0.1.",
            "::1.2.3.4",
            "fe80::1%lo",
            "fe80::1%1",
            ":::",
            "1:2",
            "[::1]",
            "١٢٧.0.0.1",
        ] {
            assert!(usual_form(host).is_none(), "{host}");
        }
    }

    #[test]
    fn guesses_what_libc_may_take() {
        for host in ["127.1", "0x7f.1", "2130706433", "fe80::1%lo", "::1.2.3.4", "1.2.3.256"] {
            assert!(may_be_address(host), "{host}");
        }
        for host in ["", "localhost", "1password.com", "example.com", "cafe", "-1"] {
            assert!(!may_be_address(host), "{host}");
        }
    }

    #[test]
    fn holds_the_longest_address() {
        let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        assert_eq!(&*Text::of(longest.parse::<Ipv6Addr>().unwrap()), longest);
    }
}
