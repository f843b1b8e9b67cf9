//! What the cases share.

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

/// Counts drops, and notes their threads.
#[derive(Clone, Default)]
pub struct Drops {
    made: Arc<AtomicUsize>,
    count: Arc<AtomicUsize>,
    threads: Arc<Mutex<Vec<ThreadId>>>,
}

impl Drops {
    /// A value whose drop is counted.
    pub fn witness(&self) -> Witness {
        self.made.fetch_add(1, Ordering::SeqCst);
        Witness(self.clone(), Rc::new(()))
    }

    /// How many witnesses there ever were.
    pub fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }

    /// How many witnesses are gone.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Checks that all of them went in this thread.
    pub fn assert_here(&self) {
        let here = std::thread::current().id();
        assert!(self.threads.lock().iter().all(|thread| *thread == here), "dropped elsewhere");
    }
}

/// Must not leave its thread, as its `Rc` says.
pub struct Witness(Drops, #[expect(dead_code, reason = "makes it !Send")] Rc<()>);

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.count.fetch_add(1, Ordering::SeqCst);
        self.0.threads.lock().push(std::thread::current().id());
    }
}

thread_local! {
    /// The drops of the case that runs.
    pub static DROPS: RefCell<Drops> = RefCell::default();
}

/// The drops of the case that runs, from zero.
pub fn fresh_drops() -> Drops {
    let drops = Drops::default();
    DROPS.with(|cell| *cell.borrow_mut() = drops.clone());
    drops
}

/// A witness of the case that runs.
pub fn witness() -> Witness {
    DROPS.with(|cell| cell.borrow().witness())
}

/// Never ready.
pub async fn forever() -> PyResult<()> {
    std::future::pending().await
}

/// `future`, with a witness that is dropped with it.
pub async fn watched<F: Future>(future: F) -> F::Output {
    let _witness = witness();
    future.await
}
