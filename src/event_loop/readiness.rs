//! `_add_reader()`, `_add_writer()` and their opposites, which asyncio's own code uses.

use std::os::fd::RawFd;

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyTuple};

use super::EventLoop;
use super::foreign_handle::FOREIGN_HANDLE;
use super::ready_view::queued;
use crate::ffi::objects::object::HasBase;
use crate::handle::{CallbackArguments, HANDLE, Handle};
use crate::interop::error::os_error;
use crate::scheduler::watch::Direction;
use crate::scheduler::{Runnable, RunnableKind};
use crate::socket_calls::is_idle_reader;

/// The descriptor of an int or of an object with `fileno()`; the errors are those of Python's
/// `selectors`.
pub fn descriptor(object: &Bound<'_, PyAny>) -> PyResult<RawFd> {
    let py = object.py();
    let invalid = || PyValueError::new_err(format!("Invalid file object: {object:?}"));
    let number = if object.is_instance_of::<PyInt>() {
        object.extract::<i64>().map_err(|_| invalid())?
    } else {
        let fileno = object.call_method0(intern!(py, "fileno")).map_err(|_| invalid())?;
        fileno.extract::<i64>().map_err(|_| invalid())?
    };
    if number < 0 {
        return Err(PyValueError::new_err(format!("Invalid file descriptor: {number}")));
    }
    RawFd::try_from(number).map_err(|_| invalid())
}

impl EventLoop {
    fn watch<'py>(
        slf: &Bound<'py, Self>,
        fd: &Bound<'py, PyAny>,
        direction: Direction,
        callback: Bound<'py, PyAny>,
        arguments: Bound<'py, PyTuple>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Handle>> {
        let py = slf.py();
        let scheduler = slf.as_super();
        let this = scheduler.get();
        this.check_open(py)?;
        let file_object = (!fd.is_instance_of::<PyInt>()).then(|| fd.clone().unbind());
        let fd = descriptor(fd)?;
        let handle = Handle::create(
            callback,
            CallbackArguments::from_tuple(arguments),
            scheduler.clone().into_any(),
            context,
            this.is_debug(py),
        )?;
        // The file object identifies the watch if it is closed before the watch is removed.
        let runnable = Runnable { argument: file_object, ..Runnable::new(&HANDLE, handle.clone()) };
        let replaced = this.watch(py, fd, direction, runnable);
        let mut replaced = replaced.map_err(|refused| os_error(py, &refused.error))?;
        cancel(py, replaced.same.take())?;
        cancel(py, replaced.stale.take())?;
        Ok(handle)
    }

    fn unwatch(
        slf: &Bound<'_, Self>,
        fd: &Bound<'_, PyAny>,
        direction: Direction,
    ) -> PyResult<bool> {
        let py = slf.py();
        let this = slf.base();
        if this.is_closed(py) {
            return Ok(false);
        }
        let fd = match descriptor(fd) {
            Ok(fd) => fd,
            Err(invalid) => this.watched_with_argument(fd).ok_or(invalid)?,
        };
        let removed = this.unwatch(py, fd, direction);
        let was_set = removed.as_ref().is_some_and(|runnable| !is_idle_reader(py, runnable));
        cancel(py, removed)?;
        Ok(was_set)
    }
}

fn is_handle(kind: &'static RunnableKind) -> bool {
    std::ptr::eq(kind, &HANDLE) || std::ptr::eq(kind, &FOREIGN_HANDLE)
}

/// Cancels a handle: once its watch is removed it must not run even if it is queued. Other owners
/// are told.
fn cancel(py: Python<'_>, runnable: Option<Runnable>) -> PyResult<()> {
    let Some(runnable) = runnable else { return Ok(()) };
    let object = runnable.object.bind(py);
    if is_handle(runnable.kind) {
        object.call_method0(intern!(py, "cancel"))?;
    } else {
        (runnable.kind.lost_watch)(object);
    }
    Ok(())
}

#[pymethods]
impl EventLoop {
    #[pyo3(signature = (fd, callback, *args, context=None))]
    fn _add_reader<'py>(
        slf: &Bound<'py, Self>,
        fd: Bound<'py, PyAny>,
        callback: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Handle>> {
        Self::watch(slf, &fd, Direction::Read, callback, args, context)
    }

    #[pyo3(signature = (fd, callback, *args, context=None))]
    fn _add_writer<'py>(
        slf: &Bound<'py, Self>,
        fd: Bound<'py, PyAny>,
        callback: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Handle>> {
        Self::watch(slf, &fd, Direction::Write, callback, args, context)
    }

    /// Return for which events a descriptor is watched, as a mask of `selectors` events, or 0.
    fn _watched_events(slf: &Bound<'_, Self>, fd: RawFd) -> u32 {
        let is_watched = |direction| slf.base().is_watched(slf.py(), fd, direction);
        u32::from(is_watched(Direction::Read)) | u32::from(is_watched(Direction::Write)) << 1
    }

    /// The handles of a descriptor for reading and for writing. None for a direction that is not
    /// watched, or that a transport watches.
    fn _watched_handles<'py>(
        slf: &Bound<'py, Self>,
        fd: RawFd,
    ) -> (Option<Bound<'py, PyAny>>, Option<Bound<'py, PyAny>>) {
        let handle = |direction| {
            let (kind, object) = slf.base().watcher(slf.py(), fd, direction)?;
            is_handle(kind).then_some(object)
        };
        (handle(Direction::Read), handle(Direction::Write))
    }

    /// All watched descriptors.
    fn _watched_descriptors(slf: &Bound<'_, Self>) -> Vec<RawFd> {
        slf.base().watched_descriptors(slf.py())
    }

    /// Replaces the watches of a descriptor: these handles run when it is ready.
    fn _watch_handles<'py>(
        slf: &Bound<'py, Self>,
        fd: RawFd,
        reader: Option<Bound<'py, PyAny>>,
        writer: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.base();
        for (direction, handle) in [(Direction::Read, reader), (Direction::Write, writer)] {
            match handle {
                Some(handle) => {
                    let runnable = queued(handle);
                    let set = this.watch(py, fd, direction, runnable);
                    drop(set.map_err(|refused| os_error(py, &refused.error))?);
                }
                None => drop(this.unwatch(py, fd, direction)),
            }
        }
        Ok(())
    }

    fn _remove_reader(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        Self::unwatch(slf, fd, Direction::Read)
    }

    fn _remove_writer(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        Self::unwatch(slf, fd, Direction::Write)
    }
}
