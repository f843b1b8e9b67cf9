//! Converts Python arguments to those of libc's `getaddrinfo()`.
//!
//! Only arguments that `_socket.getaddrinfo` of every Python version converts in the same way and
//! without an error are converted. The IDNA codec is Python code, and slow for long names, so it
//! must not run in the loop's thread.

use std::ffi::CString;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyString};

use super::literal::Hints;
use crate::sys::resolve::{AF_INET, AF_INET6, AF_UNSPEC, Question};

/// The maximum length of a label of a host name, in bytes.
const MAX_LABEL_LENGTH: usize = 63;

/// The arguments for libc; None if the arguments, or the addresses of the family, are left to
/// `_socket`.
pub fn of(host: &Bound<'_, PyAny>, port: &Bound<'_, PyAny>, hints: &Hints) -> Option<Question> {
    if ![AF_UNSPEC, AF_INET, AF_INET6].contains(&hints.family) {
        return None;
    }
    Some(Question {
        host: if host.is_none() { None } else { Some(host_name(host)?) },
        service: if port.is_none() { None } else { Some(service(port)?) },
        family: hints.family,
        kind: hints.r#type,
        protocol: hints.proto,
        flags: hints.flags,
    })
}

fn host_name(host: &Bound<'_, PyAny>) -> Option<CString> {
    if let Ok(bytes) = host.cast::<PyBytes>() {
        return CString::new(bytes.as_bytes()).ok();
    }
    let name = host.cast::<PyString>().ok()?.to_str().ok()?;
    if is_plain(name) { CString::new(name).ok() } else { None }
}

/// Whether the IDNA codec would not change the name.
fn is_plain(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.is_ascii() && name.split('.').all(|label| (1..=MAX_LABEL_LENGTH).contains(&label.len()))
}

fn service(port: &Bound<'_, PyAny>) -> Option<CString> {
    if let Ok(name) = port.cast::<PyString>() {
        return CString::new(name.to_str().ok()?).ok();
    }
    if let Ok(name) = port.cast::<PyBytes>() {
        return CString::new(name.as_bytes()).ok();
    }
    // Python versions treat instances of subclasses, such as True, differently.
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
