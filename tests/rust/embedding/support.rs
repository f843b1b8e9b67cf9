//! Shared by the cases.

use std::cell::RefCell;
use std::ffi::CString;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ThreadId;

use ferroloop::Runtime;
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict};

/// Name and body.
pub type Case = (&'static str, fn());

/// A runtime for one case.
pub fn runtime() -> Runtime {
    Runtime::new().expect("a runtime")
}

/// Runs the coroutine function `main()` of `source` on a new runtime, with the functions given as
/// globals, and closes the runtime.
pub fn run(source: &str, functions: &[(&str, Factory)]) -> PyResult<()> {
    let runtime = runtime();
    let result = Python::attach(|py| {
        let main = module(py, source, functions)?.get_item("main")?.expect("main()");
        runtime.run(&main.call0()?).map(drop)
    });
    runtime.close()?;
    result
}

/// Makes an awaitable for Python.
pub type Factory = for<'py> fn(Python<'py>) -> PyResult<Bound<'py, PyAny>>;

/// The globals of a module made of `source`.
pub fn module<'py>(
    py: Python<'py>,
    source: &str,
    functions: &[(&str, Factory)],
) -> PyResult<Bound<'py, PyDict>> {
    let globals = PyDict::new(py);
    globals.set_item("asyncio", py.import("asyncio")?)?;
    globals.set_item("__builtins__", py.import("builtins")?)?;
    for (name, function) in functions {
        let function = *function;
        let callable = PyCFunction::new_closure(py, None, None, move |arguments, _| {
            function(arguments.py()).map(Bound::unbind)
        })?;
        globals.set_item(name, callable)?;
    }
    py.run(&CString::new(source).expect("no zeros"), Some(&globals), None)?;
    Ok(globals)
}

/// Counts drops, and records the threads they happen in.
#[derive(Clone, Default)]
pub struct DropCounter {
    made: Arc<AtomicUsize>,
    count: Arc<AtomicUsize>,
    threads: Arc<Mutex<Vec<ThreadId>>>,
}

impl DropCounter {
    /// A value whose drop is counted.
    pub fn counted_drop(&self) -> CountedDrop {
        self.made.fetch_add(1, Ordering::SeqCst);
        CountedDrop(self.clone(), Rc::new(()))
    }

    /// The number of values ever made.
    pub fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }

    /// The number of values dropped so far.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Checks that all of them were dropped in this thread.
    pub fn assert_here(&self) {
        let here = std::thread::current().id();
        assert!(self.threads.lock().iter().all(|thread| *thread == here), "dropped elsewhere");
    }
}

/// A value whose drop is counted. The `Rc` keeps it in its thread.
pub struct CountedDrop(DropCounter, #[expect(dead_code, reason = "makes it !Send")] Rc<()>);

impl Drop for CountedDrop {
    fn drop(&mut self) {
        self.0.count.fetch_add(1, Ordering::SeqCst);
        self.0.threads.lock().push(std::thread::current().id());
    }
}

thread_local! {
    /// The counter of the running case.
    pub static DROPS: RefCell<DropCounter> = RefCell::default();
}

/// Installs a new counter for the running case.
pub fn fresh_counter() -> DropCounter {
    let drops = DropCounter::default();
    DROPS.with(|cell| *cell.borrow_mut() = drops.clone());
    drops
}

/// A value whose drop the running case counts.
pub fn counted_drop() -> CountedDrop {
    DROPS.with(|cell| cell.borrow().counted_drop())
}

/// Never ready.
pub async fn forever() -> PyResult<()> {
    std::future::pending().await
}

/// `future`, with a counted value that is dropped with it.
pub async fn with_counted_drop<F: Future>(future: F) -> F::Output {
    let _counted = counted_drop();
    future.await
}
