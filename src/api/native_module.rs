//! The native half of the Python package `ferroloop`: registers the classes and completes them.

use pyo3::prelude::*;

/// The native module as an object, for [`register`](crate::register).
#[cfg(feature = "embed")]
pub fn object(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    Ok(pyo3::wrap_pymodule!(_ferroloop)(py).into_bound(py).into_any())
}

/// The native half of the Python package `ferroloop`.
#[pymodule(gil_used = false)]
pub mod _ferroloop {
    use pyo3::prelude::*;
    use pyo3::types::PyType;

    use crate::{
        api, event_loop, executor, ffi, future, handle, interop, scheduler, signals, socket_calls,
        streams, task, tls, transport,
    };

    #[pymodule_export]
    use crate::event_loop::EventLoop;
    #[pymodule_export]
    use crate::executor::ThreadPool;
    #[pymodule_export]
    use crate::future::Future;
    #[pymodule_export]
    use crate::handle::{Handle, TimerHandle};
    #[pymodule_export]
    use crate::scheduler::Scheduler;
    #[pymodule_export]
    use crate::streams::StreamReaderState;
    #[pymodule_export]
    use crate::task::Task;
    #[pymodule_export]
    use crate::tls::{TlsProtocol, TlsTransport};
    #[pymodule_export]
    use crate::transport::{
        DatagramTransport, ReadPipeTransport, StreamTransport, Transport, WritePipeTransport,
    };
    #[pymodule_export]
    use crate::watchdog::Watchdog;

    /// Return the tasks of this crate that are not done, of all loops, unless asyncio itself lists
    /// them.
    #[pyfunction]
    fn live_tasks(py: Python<'_>) -> Vec<Bound<'_, PyAny>> {
        task::current::unlisted_tasks(py)
    }

    /// Return whether a task is one of `live_tasks()`, or one that asyncio lists.
    #[pyfunction]
    fn is_listed(task: &Bound<'_, Task>) -> bool {
        ffi::section::enter_of(task, || task.get().is_listed(task.py()))
    }

    /// Add a task to those that `all_tasks()` shows, or remove it.
    #[pyfunction]
    fn set_listed(task: &Bound<'_, Task>, listed: bool) {
        ffi::section::enter_of(task, || Task::set_listed(task, listed));
    }

    /// Return code object, line and globals of the frames of a thread, which may run, innermost first.
    #[pyfunction]
    fn thread_stack(
        py: Python<'_>,
        thread: u64,
    ) -> PyResult<Vec<ffi::thread_stack::StackEntry<'_>>> {
        ffi::thread_stack::of_thread(py, thread)
    }

    /// Share the counter by which asyncio's C module numbers tasks. `make` creates one of its tasks
    /// and returns the task's number. Return False if the counter was not found.
    #[pyfunction]
    fn share_task_counter(module: &Bound<'_, PyModule>, make: &Bound<'_, PyAny>) -> PyResult<bool> {
        ffi::layout::task_number::probe(module, make)
    }

    /// Put the tasks of this crate into the interpreter's lists, from which tools and asyncio's C
    /// module read them. `make` makes a task of the module of the given name that never runs. Return
    /// False if the lists, or the layout of the module's tasks, are not the expected ones.
    #[pyfunction]
    fn join_task_lists(module: &Bound<'_, PyModule>, make: &Bound<'_, PyAny>) -> PyResult<bool> {
        #[cfg(published_tasks)]
        return Task::join_lists(module, make);
        #[cfg(not(published_tasks))]
        {
            let _ = (module, make);
            Ok(false)
        }
    }

    /// asyncio's `future_add_to_awaited_by()`, which also knows the tasks of this crate.
    #[cfg(Py_3_14)]
    #[pyfunction]
    #[pyo3(signature = (fut, waiter, /))]
    fn add_to_awaited_by<'py>(fut: &Bound<'py, PyAny>, waiter: &Bound<'py, PyAny>) -> PyResult<()> {
        task::awaited_by::add(fut, waiter)
    }

    /// asyncio's `future_discard_from_awaited_by()`, which also knows the tasks of this crate.
    #[cfg(Py_3_14)]
    #[pyfunction]
    #[pyo3(signature = (fut, waiter, /))]
    fn discard_from_awaited_by<'py>(
        fut: &Bound<'py, PyAny>,
        waiter: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        task::awaited_by::discard(fut, waiter)
    }

    /// Return the tasks that are recorded as waiting for a task.
    #[cfg(Py_3_14)]
    #[pyfunction]
    fn recorded_waiters<'py>(task: &Bound<'py, Task>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        task::awaited_by::recorded(task)
    }

    /// Return what the probed offsets lead to in the interpreter's memory, and whether each offset
    /// was found. Without one the native code takes a slower path.
    #[pyfunction]
    fn probed_offsets(py: Python<'_>) -> Vec<(&'static str, bool)> {
        vec![
            ("the current context", ffi::layout::context::is_comparable()),
            ("the counter of tasks", ffi::layout::task_number::is_shared()),
            ("the SSL of a connection", ffi::layout::ssl_socket::is_known(py)),
            #[cfg(Py_3_14)]
            ("the running task", ffi::layout::running_task::is_known()),
            #[cfg(all(Py_3_14, not(Py_GIL_DISABLED)))]
            ("the lists of tasks", Task::is_in_lists_of_asyncio()),
            #[cfg(Py_GIL_DISABLED)]
            ("the innermost critical section", ffi::layout::critical_section::is_known()),
        ]
    }

    /// Add the native methods to the subclasses of asyncio's stream classes, and use them for what
    /// native transports serve.
    #[pyfunction]
    fn register_streams(reader: &Bound<'_, PyType>, writer: &Bound<'_, PyType>) -> PyResult<()> {
        streams::register(reader, writer)
    }

    /// Return the event loops that have run and are not closed.
    #[pyfunction]
    fn live_loops(py: Python<'_>) -> Vec<Bound<'_, PyAny>> {
        scheduler::LOOPS.snapshot(py)
    }

    /// Must be called in a forked child, before any other function of this module.
    #[pyfunction]
    fn after_fork(py: Python<'_>) -> PyResult<()> {
        // The parent's tasks do not exist in the child, as in asyncio from 3.14 on.
        #[cfg(Py_3_14)]
        task::current::clear_unlisted_tasks(py);
        signals::after_fork(py)
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        ffi::interpreter::claim(py)?;
        #[cfg(Py_GIL_DISABLED)]
        {
            ffi::section_waiters::install(py)?;
            ffi::layout::critical_section::probe_layout(py)?;
        }
        ffi::layout::context::probe_layout(py)?;
        #[cfg(Py_3_14)]
        ffi::layout::running_task::probe_layout(py)?;
        static CLASSES: std::sync::Once = std::sync::Once::new();
        // A program may import the module a second time, with the same classes.
        if !CLASSES.is_completed() {
            complete_classes(py)?;
            CLASSES.call_once(|| {});
        }
        interop::imports::load(py)?;
        #[cfg(Py_3_12)]
        interop::imports::load_for_3_12(py)?;
        #[cfg(Py_3_14)]
        interop::imports::load_for_3_14(py)?;
        #[cfg(not(Py_3_14))]
        interop::imports::load_before_3_14(py)?;
        module.add("_C_API", api::capsule::make(py)?)?;
        module.add("_GUARDED", pyo3::types::PyTuple::new(py, event_loop::GUARDED)?)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }

    /// Fills the slots that PyO3 leaves empty, before a class can be subclassed, and base classes
    /// first, so that slots are inherited.
    fn complete_classes(py: Python<'_>) -> PyResult<()> {
        handle::install(py);
        future::install(py)?;
        task::install(py)?;
        transport::install(py);
        tls::install(py)?;
        streams::install(py);
        socket_calls::install(py);
        api::futures::install(py);
        event_loop::install(py)?;
        executor::install(py)
    }
}
