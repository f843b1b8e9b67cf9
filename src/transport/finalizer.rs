//! Finalizers: a transport that is deallocated while open warns and closes its descriptor.

use pyo3::prelude::*;

use crate::ffi::exception::{Raised, write_unraisable};
use crate::ffi::objects::slots::{Finalize, original_dealloc};
use crate::interop::warning::resource_warning;
use crate::transport::lifecycle::detach;
use crate::transport::{
    DatagramTransport, Endpoint, ReadPipeTransport, StreamTransport, Transport, WritePipeTransport,
};

impl Finalize for Transport {
    original_dealloc!();

    fn needs_finalizing(slf: &Bound<'_, Self>) -> bool {
        !slf.get().endpoint.inspect(slf.py(), Endpoint::is_closed)
    }

    fn finalize(slf: &Bound<'_, Self>) {
        let py = slf.py();
        let unraisable = |error: PyErr| {
            write_unraisable(Raised::of(py, error), slf);
        };
        warn_unclosed(slf).unwrap_or_else(unraisable);
        Self::close_endpoint(slf).unwrap_or_else(unraisable);
        let server = slf.get().server.take(py);
        // Before 3.13 asyncio did not detach it.
        if let Some(server) = server.filter(|_| cfg!(Py_3_13)) {
            detach(server.bind(py), slf).unwrap_or_else(unraisable);
        }
    }
}

macro_rules! finalize_as_transports {
    ($($class:ident),*) => {$(
        impl Finalize for $class {
            original_dealloc!();

            #[inline(always)]
            fn needs_finalizing(slf: &Bound<'_, Self>) -> bool {
                Transport::needs_finalizing(slf.as_super())
            }

            fn finalize(slf: &Bound<'_, Self>) {
                Transport::finalize(slf.as_super());
            }
        }
    )*};
}

finalize_as_transports!(StreamTransport, DatagramTransport, ReadPipeTransport, WritePipeTransport);

fn warn_unclosed(slf: &Bound<'_, Transport>) -> PyResult<()> {
    let py = slf.py();
    let message = format!("unclosed transport {}", slf.repr()?);
    resource_warning((slf.get().kind.class)(py)?, 2, &message, Some(slf))
}
