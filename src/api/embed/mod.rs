//! Embeds the loop in a Rust program: starts Python and runs both languages on one loop. Feature
//! `embed`.
//!
//! A program needs libpython and Python's standard library, nothing else: the Python part of
//! ferroloop is inside the crate.
//!
//! * `runtime.rs`: [`Runtime`] and its [`Builder`];
//! * `package.rs`: [`register`] makes the built-in Python package importable, by `importer.py`.
//!
//! ```
//! use ferroloop::Runtime;
//! use pyo3::prelude::*;
//!
//! # fn main() -> PyResult<()> {
//! let runtime = Runtime::new()?;
//! let answer = runtime.block_on(async {
//!     let sleep = Python::attach(|py| -> PyResult<_> {
//!         ferroloop::into_future(py.import("asyncio")?.call_method1("sleep", (0.01, 42))?)
//!     })?;
//!     sleep.await
//! })??;
//! assert_eq!(Python::attach(|py| answer.extract::<i32>(py))?, 42);
//! runtime.close()
//! # }
//! ```

mod package;
mod runtime;

pub use package::register;
pub use runtime::{Builder, Runtime};
