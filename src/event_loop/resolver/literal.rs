//! Resolves literal addresses without calling libc.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyList, PyString};

use super::modules::Functions;
use super::{Lookup, answer};
use crate::ffi::objects::process_state::Locked;
use crate::sys::resolve::{AI_ALL, AI_NUMERICHOST, AI_NUMERICSERV, AI_PASSIVE, AI_V4MAPPED};

/// The hints of `getaddrinfo()`, which determine the result together with address and port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hints {
    pub family: i32,
    pub r#type: i32,
    pub proto: i32,
    pub flags: i32,
}

/// Flags with which the result depends neither on the system's state nor on the address.
const PLAIN_FLAGS: i32 = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV | AI_V4MAPPED | AI_ALL;

/// Programs use a few patterns; the limit bounds the memory of one that tries all hints.
const MAX_PATTERNS: usize = 64;

/// The hints, whether the address is IPv6, and whether a port is given.
type PatternKey = (Hints, bool, bool);

/// Family, kind, protocol and canonical name of each entry of a result; None if libc's result does
/// not follow this pattern: an error, or another address than the one given.
type Pattern = Option<Arc<Vec<[Py<PyAny>; 4]>>>;

/// The patterns of libc's results so far. Entries are only added.
static PATTERNS: Locked<Vec<(PatternKey, Pattern)>> = Locked::new(Vec::new());

/// The result for an address and a port in their usual form; None for anything else.
#[inline]
pub(super) fn resolve<'py>(
    lookup: &Lookup<'_, 'py>,
    hints: &Hints,
    functions: &Functions<'py>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = lookup.py();
    if hints.flags & !PLAIN_FLAGS != 0 {
        return Ok(None);
    }
    let Some(address) = text_of(lookup.host).and_then(usual_form) else { return Ok(None) };
    let Some(port) = port_of(lookup.port) else { return Ok(None) };
    let key = (*hints, address.is_ipv6(), port.is_some());
    let known = PATTERNS.with(py, |patterns| {
        patterns.iter().find(|(other, _)| *other == key).map(|(_, pattern)| pattern.clone())
    });
    let pattern = match known {
        Some(pattern) => {
            if pattern.is_some() {
                lookup.audit(hints)?;
            }
            pattern
        }
        // The call of `_socket.getaddrinfo` raises the audit event.
        None => learn_pattern(lookup, key, functions, address, port)?,
    };
    pattern.map(|pattern| fill_in(lookup, &pattern, address, port.unwrap_or(0))).transpose()
}

/// The result for one address and port.
#[inline]
fn fill_in<'py>(
    lookup: &Lookup<'_, 'py>,
    pattern: &[[Py<PyAny>; 4]],
    address: IpAddr,
    port: u16,
) -> PyResult<Bound<'py, PyAny>> {
    let py = lookup.py();
    let host = match address {
        // libc would return the same text.
        IpAddr::V4(_) if lookup.host.is_exact_instance_of::<PyString>() => lookup.host.clone(),
        IpAddr::V4(address) => PyString::new(py, &AddressText::of(address)).into_any(),
        IpAddr::V6(address) => PyString::new(py, &AddressText::of(address)).into_any(),
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

/// Calls libc once for these hints and remembers the pattern of its result.
#[cold]
fn learn_pattern<'py>(
    lookup: &Lookup<'_, 'py>,
    key: PatternKey,
    functions: &Functions<'py>,
    address: IpAddr,
    port: Option<u16>,
) -> PyResult<Pattern> {
    let py = lookup.py();
    let flags = PyInt::new(py, key.0.flags | AI_NUMERICHOST | AI_NUMERICSERV);
    let pattern = match functions.getaddrinfo.call1(lookup.arguments(&flags)?) {
        Ok(entries) => pattern_of(&answer::with_enums(entries)?, address, port)?,
        Err(error) if error.is_instance_of::<PyOSError>(py) => None,
        Err(error) => return Err(error),
    };
    PATTERNS.with(py, |patterns| {
        if patterns.len() < MAX_PATTERNS {
            patterns.push((key, pattern.clone()));
        }
    });
    Ok(pattern)
}

/// The part of a result that is the same for other addresses and ports; None if the addresses in
/// it are not the one given.
fn pattern_of(entries: &Bound<'_, PyAny>, address: IpAddr, port: Option<u16>) -> PyResult<Pattern> {
    let py = entries.py();
    let port = port.unwrap_or(0);
    let expected = match address {
        IpAddr::V4(address) => (&*AddressText::of(address), port).into_pyobject(py)?.into_any(),
        IpAddr::V6(address) => {
            (&*AddressText::of(address), port, 0, 0).into_pyobject(py)?.into_any()
        }
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

/// Whether libc might accept host and port as numeric, without a lookup. libc has the last word.
pub(super) fn may_be_numeric(host: &Bound<'_, PyAny>, port: &Bound<'_, PyAny>) -> bool {
    let host_may = host.is_none() || text_of(host).is_some_and(may_be_address);
    let port_may = port.is_none()
        || port.is_instance_of::<PyInt>()
        || text_of(port).is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    host_may && port_may
}

/// Matches `127.1`, `0x7f.1`, `2130706433`, and anything with a colon, which no host name has.
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

/// The address, if libc would format it as [`AddressText::of`] does.
fn usual_form(host: &str) -> Option<IpAddr> {
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return Some(IpAddr::V4(address));
    }
    let address = host.parse::<Ipv6Addr>().ok()?;
    // `::1.2.3.4`: libc formats the last 32 bits as an IPv4 address, Rust does not.
    let embeds_version_4 = address.segments()[..6] == [0; 6] && address.segments()[6] != 0;
    (!embeds_version_4).then_some(IpAddr::V6(address))
}

/// The port; `Some(None)` for None.
fn port_of(port: &Bound<'_, PyAny>) -> Option<Option<u16>> {
    if port.is_none() {
        return Some(None);
    }
    // `_socket` does not accept True and other instances of subclasses.
    if !port.is_exact_instance_of::<PyInt>() {
        return None;
    }
    port.extract().ok().map(Some)
}

/// A formatted address, without heap allocation.
struct AddressText {
    bytes: [u8; Self::MAX_LENGTH],
    length: usize,
}

impl AddressText {
    /// `ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255`
    const MAX_LENGTH: usize = 45;

    fn of(address: impl std::fmt::Display) -> Self {
        let mut text = Self { bytes: [0; Self::MAX_LENGTH], length: 0 };
        write!(text, "{address}").expect("no address has a longer text");
        text
    }
}

impl Write for AddressText {
    fn write_str(&mut self, part: &str) -> std::fmt::Result {
        let end = self.length + part.len();
        let room = self.bytes.get_mut(self.length..end).ok_or(std::fmt::Error)?;
        room.copy_from_slice(part.as_bytes());
        self.length = end;
        Ok(())
    }
}

impl std::ops::Deref for AddressText {
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
        assert_eq!(&*AddressText::of(usual_form("FF02:0:0::1").unwrap()), "ff02::1");
        assert_eq!(&*AddressText::of(usual_form("::ffff:1.2.3.4").unwrap()), "::ffff:1.2.3.4");
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
    fn guesses_what_libc_may_accept() {
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
        assert_eq!(&*AddressText::of(longest.parse::<Ipv6Addr>().unwrap()), longest);
    }
}
