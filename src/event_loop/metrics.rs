//! The loop's metrics for Python.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::EventLoop;
use crate::ffi::objects::object::HasBase;
use crate::metrics::TransportClass;
use crate::reactor::clock;

#[pymethods]
impl EventLoop {
    /// The fields of `ferroloop.metrics.LoopMetrics`, by name. Times are in seconds.
    fn _metrics<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyDict>> {
        let py = slf.py();
        let scheduler = slf.base();
        let metrics = scheduler.metrics();
        let time = metrics.time(clock::nanoseconds());
        let found = PyDict::new(py);
        for (name, value) in [
            (intern!(py, "number"), metrics.number.get()),
            (intern!(py, "turns"), metrics.turns.get()),
            (intern!(py, "callbacks"), metrics.callbacks.get()),
            (intern!(py, "task_steps"), metrics.task_steps.get()),
            (intern!(py, "polls"), metrics.polls.get()),
            (intern!(py, "ready"), scheduler.ready_count(py) as u64),
            (intern!(py, "ready_max"), metrics.ready_max.get()),
            (intern!(py, "threadsafe_calls"), metrics.threadsafe_calls.get()),
            (intern!(py, "slow_callbacks"), metrics.slow_callbacks.get()),
            (intern!(py, "accepts"), metrics.accepts.get()),
            (intern!(py, "bytes_received"), metrics.bytes_received.get()),
            (intern!(py, "bytes_sent"), metrics.bytes_sent.get()),
        ] {
            found.set_item(name, value)?;
        }
        let (timers, cancelled) = scheduler.timer_counts(py);
        found.set_item(intern!(py, "timers"), timers - cancelled.min(timers))?;
        found.set_item(intern!(py, "timers_cancelled"), cancelled)?;
        found.set_item(intern!(py, "time_running"), clock::seconds(time.running))?;
        found.set_item(intern!(py, "time_idle"), clock::seconds(time.idle))?;
        let transports = PyDict::new(py);
        for class in TransportClass::ALL {
            transports.set_item(class.name(), metrics.open_transports(class))?;
        }
        found.set_item(intern!(py, "transports"), transports)?;
        let lag = PyList::empty(py);
        for (bound, count) in metrics.lag.buckets() {
            let bound = if bound == u64::MAX { f64::INFINITY } else { clock::seconds(bound) };
            lag.append((bound, count))?;
        }
        found.set_item(intern!(py, "lag_buckets"), lag)?;
        found.set_item(intern!(py, "lag_sum"), clock::seconds(metrics.lag.sum()))?;
        found.set_item(intern!(py, "lag_max"), clock::seconds(metrics.lag.max()))?;
        found.set_item(intern!(py, "pool"), Self::pool_metrics(slf)?)?;
        Ok(found)
    }
}
