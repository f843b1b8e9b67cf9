//! ferroloop: asyncio's event loop, `Task` and `Future` in Rust.
//!
//! Layers, arrows point down only:
//! `lib → event_loop → {transport, tls, subprocess, signals} → {handle, future, task}
//! → scheduler → {reactor, pool, interop, error} → {ffi, sys}`.

use pyo3::prelude::*;

pub mod reactor;
mod sys;

/// The native half of the Python package `ferroloop`.
#[pymodule(gil_used = true)]
pub mod _ferroloop {
    use super::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
