//! Exceptions.

#[allow(missing_docs, reason = "the macro takes no comment")]
mod exceptions {
    pyo3::create_exception!(
        ferroloop_async_runtimes,
        RustPanic,
        pyo3::exceptions::PyException,
        "A Rust future panicked."
    );
}

pub use exceptions::RustPanic;
