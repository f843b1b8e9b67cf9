//! Finds the `SSL*` of Python's `_ssl._SSLSocket` objects, and the lock under which `_ssl` uses it.
//!
//! The first fields are the same since Python 3.6. They are believed only if the object has no
//! socket, the field after the pointer is the object's context, and OpenSSL's own data of that `SSL`
//! refers back to the object.
//!
//! Some versions (3.13.6, for one) hold a lock of the object while they have released the GIL inside
//! OpenSSL. Such a version is recognised by a byte of the object that is 1 only while OpenSSL calls
//! back, and its connections are not used directly.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCFunction, PyDict, PyTuple, PyType};

use crate::ffi::openssl::library::{Bio, Library, Ssl};

/// The first fields of CPython's `PySSLSocket`.
#[repr(C)]
struct SslSocket {
    head: ffi::PyObject,
    socket: *mut ffi::PyObject,
    ssl: *mut Ssl,
    context: *mut ffi::PyObject,
}

/// The `SSL` of an object of exactly `_ssl._SSLSocket`, if it is found.
pub fn ssl_of(object: &Bound<'_, PyAny>) -> Option<NonNull<Ssl>> {
    let py = object.py();
    let library = Library::get(py)?;
    if !is_without_lock(py) {
        return None;
    }
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let class = CLASS.import(py, "_ssl", "_SSLSocket").ok()?;
    if !object.get_type().is(class) {
        return None;
    }
    let size: usize = class.getattr(intern!(py, "__basicsize__")).ok()?.extract().ok()?;
    if size < size_of::<SslSocket>() {
        return None;
    }
    let context = object.getattr(intern!(py, "context")).ok()?;
    let fields = object.as_ptr().cast::<SslSocket>();
    // SAFETY: a live object with at least these bytes. The pointer is followed only if the fields
    // around it have the expected values; then it is what `SSL_new()` returned, if not null.
    unsafe {
        if !(*fields).socket.is_null() || (*fields).context != context.as_ptr() {
            return None;
        }
        let ssl =
            NonNull::new((*fields).ssl).filter(|ssl| ssl.addr().get() % size_of::<usize>() == 0)?;
        let owner = (library.SSL_get_ex_data)(ssl.as_ptr(), 0);
        (owner == object.as_ptr().cast()).then_some(ssl)
    }
}

/// The first fields of CPython's `PySSLMemoryBIO`.
#[repr(C)]
struct MemoryBio {
    head: ffi::PyObject,
    bio: *mut Bio,
}

/// The BIO of an object of exactly `_ssl.MemoryBIO`, to be compared, not to be used.
pub fn bio_of(object: &Bound<'_, PyAny>) -> Option<NonNull<Bio>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let class = CLASS.import(object.py(), "_ssl", "MemoryBIO").ok()?;
    let size: usize = class.getattr(intern!(object.py(), "__basicsize__")).ok()?.extract().ok()?;
    if !object.get_type().is(class) || size < size_of::<MemoryBio>() {
        return None;
    }
    // SAFETY: a live object with at least these bytes.
    NonNull::new(unsafe { (*object.as_ptr().cast::<MemoryBio>()).bio })
}

/// Whether the `SSL*` of a new object is found.
pub fn is_known(py: Python<'_>) -> bool {
    let made = py.import("_ssl").and_then(|module| {
        let protocol = module.getattr("PROTOCOL_TLS_CLIENT")?;
        let context = module.getattr("_SSLContext")?.call1((protocol,))?;
        let bio = module.getattr("MemoryBIO")?;
        context.call_method1("_wrap_bio", (bio.call0()?, bio.call0()?, false))
    });
    made.is_ok_and(|object| ssl_of(&object).is_some())
}

/// Whether `_ssl` is known to hold no lock inside OpenSSL. The first call makes a trial connection.
fn is_without_lock(py: Python<'_>) -> bool {
    static ANSWER: PyOnceLock<bool> = PyOnceLock::new();
    *ANSWER.get_or_init(py, || find_lock(py).is_ok_and(|found| found == Some(false)))
}

/// The bytes of an object after the fields that are known.
fn rest_of(object: &Bound<'_, PyAny>, size: usize) -> Vec<u8> {
    (size_of::<SslSocket>()..size)
        .map(|offset| {
            // SAFETY: inside the live object. Another thread may write the lock.
            unsafe {
                AtomicU8::from_ptr(object.as_ptr().cast::<u8>().add(offset)).load(Ordering::Relaxed)
            }
        })
        .collect()
}

/// Sends a ClientHello into a memory BIO, and compares the object's bytes before, while OpenSSL
/// reports the message, and afterwards. Returns whether a byte looks like a lock, or `None` if
/// OpenSSL has not reported.
#[cold]
fn find_lock(py: Python<'_>) -> PyResult<Option<bool>> {
    let module = py.import("_ssl")?;
    let size: usize = module.getattr("_SSLSocket")?.getattr("__basicsize__")?.extract()?;
    let context =
        module.getattr("_SSLContext")?.call1((module.getattr("PROTOCOL_TLS_CLIENT")?,))?;
    let during = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&during);
    let report = move |arguments: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| {
        if let (Ok(object), Ok(mut seen)) = (arguments.get_item(0), seen.lock()) {
            seen.push(rest_of(&object, size));
        }
    };
    let report = PyCFunction::new_closure(py, None, None, report)?;
    context.setattr("_msg_callback", &report)?;
    let bio = module.getattr("MemoryBIO")?;
    let bios = (bio.call0()?, bio.call0()?, false);
    let object = context.call_method1("_wrap_bio", bios)?;
    // The callback gets the object, since it has no owner.
    let before = rest_of(&object, size);
    let _wants_answer = object.call_method0("do_handshake");
    let after = rest_of(&object, size);
    context.setattr("_msg_callback", py.None())?;
    let Ok(during) = during.lock() else { return Ok(None) };
    let locked = |during: &Vec<u8>| {
        (0..before.len()).any(|at| (before[at], during[at], after[at]) == (0, 1, 0))
    };
    Ok(during.first().map(locked))
}
