//! Names of the module `ssl`, imported when TLS is first used: an interpreter may lack it.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::ffi::exception::Raised;
use crate::interop::imports::imports;

imports! {
    memory_bio = "ssl": "MemoryBIO";
    ssl_object = "ssl": "SSLObject";
    pem_function = "ssl": "DER_cert_to_PEM_cert";
    ssl_error = "ssl": "SSLError";
    want_read_error = "ssl": "SSLWantReadError";
    syscall_error = "ssl": "SSLSyscallError";
    certificate_error = "ssl": "CertificateError";
    create_transport_context = "asyncio.sslproto": "_create_transport_context";
    add_flowcontrol_defaults = "asyncio.sslproto": "add_flowcontrol_defaults";
    protocol_state = "asyncio.sslproto": "SSLProtocolState";
    app_protocol_state = "asyncio.sslproto": "AppProtocolState";
    timeout_error = "asyncio.exceptions": "TimeoutError";
}

/// Whether a transport counts as closing together with the underlying one, as in later versions of
/// asyncio.
pub fn closing_follows_underlying(py: Python<'_>) -> PyResult<bool> {
    static CELL: PyOnceLock<bool> = PyOnceLock::new();
    CELL.get_or_try_init(py, || {
        let class = crate::interop::imports::ssl_protocol(py)?;
        class.hasattr(pyo3::intern!(py, "_is_transport_closing"))
    })
    .copied()
}

/// Whether the exception means that the SSL object needs more data from the peer.
pub fn wants_more(raised: &Raised<'_>) -> PyResult<bool> {
    let value = raised.value();
    let py = value.py();
    if value.get_type().is(want_read_error(py)?) {
        return Ok(true);
    }
    Ok(value.is_instance(want_read_error(py)?)? || value.is_instance(syscall_error(py)?)?)
}

/// Whether the exception is an error of TLS.
pub fn is_ssl_error(raised: &Raised<'_>) -> PyResult<bool> {
    raised.value().is_instance(ssl_error(raised.value().py())?)
}
