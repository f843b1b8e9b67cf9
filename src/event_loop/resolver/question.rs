//! From Python arguments to those of libc.
//!
//! Only where `_socket.getaddrinfo` of every Python version would do the same and raise nothing.
//! The codec of internationalised names is Python code, and slow with long ones: the loop's thread
//! is no place for it.

#![forbid(unsafe_code)]

use std::ffi::CString;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyString};

use super::literal::Shape;
use crate::sys::resolve::{AF_INET, AF_INET6, AF_UNSPEC, Question};

/// The longest label of a name.
const LONGEST_LABEL: usize = 63;

/// The question; none if `_socket` must judge the arguments, or show addresses of the family.
pub fn of(host: &Bound<'_, PyAny>, port: &Bound<'_, PyAny>, shape: &Shape) -> Option<Question> {
    if ![AF_UNSPEC, AF_INET, AF_INET6].contains(&shape.family) {
        return None;
    }
    Some(Question {
        host: if host.is_none() { None } else { Some(host_name(host)?) },
        service: if port.is_none() { None } else { Some(service(port)?) },
        family: shape.family,
        kind: shape.r#type,
        protocol: shape.proto,
        flags: shape.flags,
    })
}

fn host_name(host: &Bound<'_, PyAny>) -> Option<CString> {
    if let Ok(bytes) = host.cast::<PyBytes>() {
        return CString::new(bytes.as_bytes()).ok();
    }
    let name = host.cast::<PyString>().ok()?.to_str().ok()?;
    if is_plain(name) { CString::new(name).ok() } else { None }
}

/// Whether the codec would leave the name as it is.
fn is_plain(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.is_ascii() && name.split('.').all(|label| (1..=LONGEST_LABEL).contains(&label.len()))
}

fn service(port: &Bound<'_, PyAny>) -> Option<CString> {
    if let Ok(name) = port.cast::<PyString>() {
        return CString::new(name.to_str().ok()?).ok();
    }
    if let Ok(name) = port.cast::<PyBytes>() {
        return CString::new(name.as_bytes()).ok();
    }
    // Versions differ about subclasses, True among them.
    let number: i64 =
        port.is_exact_instance_of::<PyInt>().then(|| port.extract().ok()).flatten()?;
    CString::new(number.to_string()).ok()
}

#[cfg(test)]
mod tests {
    use super::is_plain;

    #[test]
    fn tells_plain_names() {
        let longest = "x".repeat(63);
        for name in ["localhost", "a.example", "a.example.", "-", " ", "_x", &longest] {
            assert!(is_plain(name), "{name}");
        }
        for name in ["", ".", "a..b", ".a", "a..", "n\u{e4}me", &format!("{longest}x.example")] {
            assert!(!is_plain(name), "{name}");
        }
    }
}
