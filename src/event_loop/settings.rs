//! Debug mode, and the private attributes that asyncio's own code reads and writes.

use std::ffi::CStr;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

use super::EventLoop;
use crate::ffi::attribute;
use crate::ffi::method::Predicate;
use crate::ffi::objects::object::{self, HasBase};
use crate::scheduler::wait;

/// `get_debug()`, which asyncio's own futures and tasks call whenever one is created.
pub struct GetDebug;

impl Predicate for GetDebug {
    type Class = EventLoop;
    const IN_SECTION: bool = false;
    const NAME: &'static CStr = c"get_debug";
    const DOC: &'static CStr = c"get_debug($self, /)\n--\n\nReturn True in debug mode.\n";

    #[inline(always)]
    fn holds(slf: &Bound<'_, EventLoop>) -> bool {
        slf.base().is_debug(slf.py())
    }
}

#[pymethods]
impl EventLoop {
    /// Switch debug mode on or off.
    fn set_debug(slf: &Bound<'_, Self>, enabled: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let scheduler = slf.base();
        scheduler.set_debug(py, enabled.is_truthy()?);
        if scheduler.is_running(py) {
            let track = slf.getattr(intern!(py, "_set_coroutine_origin_tracking"))?;
            slf.call_method1(intern!(py, "call_soon_threadsafe"), (track, enabled))?;
        }
        Ok(())
    }

    /// Report callbacks that take longer than `slow_callback_duration` seconds, as debug mode
    /// does, also outside of debug mode. Costs two clock readings per callback.
    #[pyo3(signature = (enabled=true, /))]
    fn report_slow_callbacks(slf: &Bound<'_, Self>, enabled: bool) {
        slf.base().set_timed(slf.py(), enabled);
    }

    /// Notices assignments to the instance that replace a method, such as `time()` by tests and
    /// `call_soon()` by tools, or its class.
    fn __setattr__<'py>(
        slf: &Bound<'py, Self>,
        name: Bound<'py, PyString>,
        value: Bound<'py, PyAny>,
    ) -> PyResult<()> {
        object::generic_setattr(slf, &name, Some(&value))?;
        let patches = slf.base().patches();
        if name.to_str()? == "_scheduled" {
            patches.set_scheduled(slf.py(), value.cast_into::<PyList>().ok());
        } else if !attribute::is_data_of_class(slf, &name) {
            patches.note_instance_attribute(slf.py());
        }
        Ok(())
    }

    fn __delattr__<'py>(slf: &Bound<'py, Self>, name: Bound<'py, PyString>) -> PyResult<()> {
        object::generic_setattr(slf, &name, None)?;
        slf.base().patches().invalidate(slf.py());
        Ok(())
    }

    /// How long the loop polls repeatedly, with the GIL released, before it sleeps in the poller:
    /// 0.0 to 1.0 seconds. A reply that arrives meanwhile costs no wake-up, but an idle loop keeps
    /// a processor busy for that long after each turn.
    ///
    /// With None, the default, the loop adapts: it polls for at most 50 microseconds, and at most
    /// twice the processor time that a sleep costs, as long as five of six such polls find an
    /// event.
    ///
    /// Raises ValueError for a number out of range.
    #[getter(busy_poll)]
    fn busy_poll(slf: &Bound<'_, Self>) -> Option<f64> {
        let setting = slf.base().busy_poll(slf.py());
        setting.map(|duration| duration.as_secs_f64())
    }

    #[setter(busy_poll)]
    fn set_busy_poll(slf: &Bound<'_, Self>, seconds: Option<f64>) -> PyResult<()> {
        if let Some(seconds) = seconds.filter(|seconds| !(0.0..=1.0).contains(seconds)) {
            let text = format!("busy_poll must be from 0 to 1 seconds, got {seconds}");
            return Err(PyValueError::new_err(text));
        }
        let setting = seconds.map(Duration::from_secs_f64);
        slf.base().set_busy_poll(slf.py(), setting);
        Ok(())
    }

    /// Sets whether turns must call `loop._selector.select()`, which the program has replaced.
    fn _use_foreign_select(slf: &Bound<'_, Self>, foreign: bool) {
        slf.base().patches().set_foreign_select(slf.py(), foreign);
    }

    /// From now on the loop sleeps in `loop._selector`, which also waits for the descriptor
    /// returned.
    fn _use_given_selector(slf: &Bound<'_, Self>) -> PyResult<i32> {
        wait::use_given_selector(slf.as_super())
    }

    /// Poll for at most `timeout` seconds; return how many callbacks became ready.
    fn _select(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<usize> {
        let timeout = timeout.map(|timeout| Duration::from_secs_f64(timeout.clamp(0.0, 86400.0)));
        wait::select(slf.as_super(), timeout).map_err(PyErr::from)
    }

    #[getter(_debug)]
    fn debug_flag(slf: &Bound<'_, Self>) -> bool {
        slf.base().is_debug(slf.py())
    }

    #[setter(_debug)]
    fn set_debug_flag(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        slf.base().set_debug(slf.py(), value.is_truthy()?);
        Ok(())
    }

    #[getter(_closed)]
    fn closed_flag(slf: &Bound<'_, Self>) -> bool {
        slf.base().is_closed(slf.py())
    }

    #[setter(_closed)]
    fn set_closed_flag(slf: &Bound<'_, Self>, value: bool) {
        slf.base().set_closed(slf.py(), value);
    }

    #[getter(_stopping)]
    fn stopping_flag(slf: &Bound<'_, Self>) -> bool {
        slf.base().is_stopping(slf.py())
    }

    #[setter(_stopping)]
    fn set_stopping_flag(slf: &Bound<'_, Self>, value: bool) {
        slf.base().set_stopping(slf.py(), value);
    }

    #[getter(_thread_id)]
    fn thread_id(slf: &Bound<'_, Self>) -> Option<u64> {
        Some(slf.base().thread(slf.py())).filter(|thread| *thread != 0)
    }

    #[setter(_thread_id)]
    fn set_thread_id(slf: &Bound<'_, Self>, value: Option<u64>) -> PyResult<()> {
        // Code that runs the loop's turns itself, such as asyncio's own, marks the run by this.
        let py = slf.py();
        let scheduler = slf.base();
        let (before, thread) = (scheduler.thread(py), value.unwrap_or(0));
        scheduler.set_thread(py, thread);
        if before == 0 && thread != 0 {
            Self::on_run_start(slf);
        } else if thread == 0 {
            scheduler.track_scheduled(py);
            if before != 0 {
                return Self::on_run_end(slf);
            }
        }
        Ok(())
    }

    #[getter(_task_factory)]
    fn task_factory<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.task_factory.get_bound(py)
    }

    #[setter(_task_factory)]
    fn set_task_factory_attribute(&self, py: Python<'_>, value: Option<Bound<'_, PyAny>>) {
        self.task_factory.store(py, value);
    }
}
