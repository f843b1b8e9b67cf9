//! A separate extension module whose functions Python code awaits on ferroloop's event loop.
//!
//! It does not depend on ferroloop's crate: `include/ferroloop.rs` is all that it needs.

use std::io::Read;
use std::mem::ManuallyDrop;
use std::net::TcpStream;
use std::os::fd::{FromRawFd, RawFd};
use std::time::Duration;

use ferroloop::{AsyncFd, Direction, SpawnOptions};
use futures_channel::oneshot;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

#[path = "../../../include/ferroloop.rs"]
mod ferroloop;

/// Functions for the program beside this crate.
#[pymodule(gil_used = true)]
mod rust_function {
    use super::*;

    /// Return the sum of the bytes that a non-blocking socket receives until its end.
    #[pyfunction]
    fn checksum(py: Python<'_>, fd: RawFd) -> PyResult<Bound<'_, PyAny>> {
        ferroloop::coroutine(py, "checksum", async move {
            // SAFETY: the caller keeps the socket open, and it is not closed here.
            let stream = ManuallyDrop::new(unsafe { TcpStream::from_raw_fd(fd) });
            let ready = AsyncFd::new(fd)?;
            let (mut sum, mut buffer) = (0_u64, vec![0; 65536]);
            loop {
                match ready.io(Direction::Read, |_fd| (&*stream).read(&mut buffer)).await? {
                    0 => return Ok(sum),
                    count => {
                        sum += buffer[..count].iter().map(|&byte| u64::from(byte)).sum::<u64>()
                    }
                }
            }
        })
    }

    /// Start a task that awaits `function(n)` for n from `start` down to 1, pauses for `pause`
    /// seconds after each, and returns the list of the results.
    #[pyfunction]
    fn countdown(
        py: Python<'_>,
        start: u32,
        pause: f64,
        function: Py<PyAny>,
    ) -> PyResult<Bound<'_, PyAny>> {
        let options = SpawnOptions { name: Some("countdown".into()), ..Default::default() };
        ferroloop::spawn_local_with(py, options, async move {
            let mut results = Vec::new();
            for number in (1..=start).rev() {
                let awaited = Python::attach(|py| {
                    ferroloop::into_future(function.bind(py).call1((number,))?)
                })?;
                results.push(awaited.await?);
                ferroloop::sleep(Duration::from_secs_f64(pause)).await;
            }
            Ok(results)
        })
    }

    /// Return the nth Fibonacci number, which a new thread computes.
    #[pyfunction]
    fn fibonacci(py: Python<'_>, n: u32) -> PyResult<Bound<'_, PyAny>> {
        ferroloop::coroutine(py, "fibonacci", async move {
            let (sender, receiver) = oneshot::channel();
            std::thread::spawn(move || {
                let number = (0..n).fold((0_u64, 1_u64), |(a, b), _| (b, a.wrapping_add(b))).0;
                // Fails if the coroutine was cancelled and dropped the receiver.
                let _ = sender.send(number);
            });
            receiver.await.map_err(|_| PyRuntimeError::new_err("the thread is gone"))
        })
    }

    /// Panic once awaited: the caller gets RuntimeError.
    #[pyfunction]
    fn panics(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        ferroloop::coroutine(py, "panics", async {
            ferroloop::sleep(Duration::ZERO).await;
            if true {
                panic!("as it should");
            }
            Ok(())
        })
    }
}
