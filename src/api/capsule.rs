//! The loop for other extension modules, which share no Rust type with this crate.

use std::os::fd::RawFd;
use std::time::Duration;

use pyo3::prelude::*;

use crate::api::futures::{self, Handle, RustCoroutine, SpawnOptions};
use crate::api::net::{AsyncFd, Direction};
use crate::ffi::c_api::{self, ExportedFuture, ForeignCall, ForeignFuture, Implementation};

/// Implements the functions of the C table.
struct CapsuleFunctions;

impl Implementation for CapsuleFunctions {
    type Handle = Handle;

    fn coroutine<'py>(
        py: Python<'py>,
        name: String,
        future: ForeignFuture,
    ) -> PyResult<Bound<'py, PyAny>> {
        Ok(RustCoroutine::new(py, name.into(), Box::pin(future))?.into_any())
    }

    fn spawn<'py>(
        py: Python<'py>,
        name: Option<String>,
        context: Option<Bound<'py, PyAny>>,
        future: ForeignFuture,
    ) -> PyResult<Bound<'py, PyAny>> {
        let options = SpawnOptions { name: name.map(Into::into), context };
        futures::start(&futures::running_loop(py)?, options, Box::pin(future))
    }

    fn await_object(awaitable: Bound<'_, PyAny>) -> PyResult<ExportedFuture> {
        Ok(Box::pin(futures::into_future(awaitable)?))
    }

    fn sleep(duration: Duration) -> ExportedFuture {
        futures::boxed(async move {
            futures::sleep(duration).await;
            Ok(())
        })
    }

    fn ready(fd: RawFd, for_writing: bool) -> ExportedFuture {
        let direction = if for_writing { Direction::Write } else { Direction::Read };
        futures::boxed(async move { Ok(AsyncFd::new(fd)?.ready(direction).await?) })
    }

    fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        Ok(futures::running_loop(py)?.into_any())
    }

    fn handle(event_loop: &Bound<'_, PyAny>) -> PyResult<Handle> {
        Handle::of(event_loop)
    }

    fn call(handle: &Handle, call: ForeignCall) -> bool {
        handle.call(|event_loop| call.make(event_loop)).is_ok()
    }
}

/// Makes the capsule `_ferroloop._C_API`.
pub fn make(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    c_api::capsule::<CapsuleFunctions>(py)
}
