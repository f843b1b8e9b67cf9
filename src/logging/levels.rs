//! The levels that Python's loggers let pass. Records below WARNING are sent only if `setLevel()`
//! was called on the logger or on the logger `ferroloop`; a level of the root logger is not enough,
//! since asyncio would log nothing here.

use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;
use tracing::Level;
use tracing::level_filters::LevelFilter;

use crate::ffi::exception::{Raised, write_unraisable};

/// The loggers of the crate's targets.
pub const LOGGERS: [&str; 6] = [
    "ferroloop",
    "ferroloop.loop",
    "ferroloop.transport",
    "ferroloop.tls",
    "ferroloop.subprocess",
    "ferroloop.pool",
];

const FILTERS: [LevelFilter; 6] = [
    LevelFilter::OFF,
    LevelFilter::ERROR,
    LevelFilter::WARN,
    LevelFilter::INFO,
    LevelFilter::DEBUG,
    LevelFilter::TRACE,
];

/// Index into [`FILTERS`]: the most verbose of the loggers.
static FILTER: AtomicUsize = AtomicUsize::new(0);

/// The first logger's cache of `isEnabledFor()`, which `logging` clears whenever any level changes.
static CACHE: PyOnceLock<Py<PyDict>> = PyOnceLock::new();

/// The filter now.
pub fn filter() -> LevelFilter {
    FILTERS[FILTER.load(Ordering::Relaxed)]
}

/// Whether a logger is to get records of a level, which is `logging`'s number. Runs Python code.
pub fn is_wanted(logger: &Bound<'_, PyAny>, level: u8) -> PyResult<bool> {
    let py = logger.py();
    let enabled = logger.call_method1(intern!(py, "isEnabledFor"), (level,))?.is_truthy()?;
    Ok(enabled && (level >= number(&Level::WARN) || has_own_level(logger)?))
}

/// Whether `setLevel()` was called on the logger or on one of its parents except the root.
fn has_own_level(logger: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = logger.py();
    let mut logger = logger.clone();
    loop {
        let parent = logger.getattr(intern!(py, "parent"))?;
        if parent.is_none() {
            return Ok(false);
        }
        if logger.getattr(intern!(py, "level"))?.is_truthy()? {
            return Ok(true);
        }
        logger = parent;
    }
}

/// The number of a level in `logging`.
pub fn number(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 40,
        Level::WARN => 30,
        Level::INFO => 20,
        Level::DEBUG => 10,
        Level::TRACE => 5,
    }
}

/// Reads the levels again if that of any logger may have changed.
#[inline]
pub fn refresh(py: Python<'_>) {
    let unchanged = CACHE.get(py).is_some_and(|cache| !cache.bind(py).is_empty());
    if !unchanged {
        refresh_now(py);
    }
}

#[cold]
fn refresh_now(py: Python<'_>) {
    match read(py) {
        Ok(true) => tracing::callsite::rebuild_interest_cache(),
        Ok(false) => {}
        Err(error) => {
            let raised = Raised::of(py, error);
            write_unraisable(raised, py.None().bind(py));
        }
    }
}

/// Reads the levels; returns whether the filter has changed.
pub fn read(py: Python<'_>) -> PyResult<bool> {
    let get_logger = py.import("logging")?.getattr(intern!(py, "getLogger"))?;
    let mut most = 0;
    for name in LOGGERS {
        let logger = get_logger.call1((name,))?;
        for (index, number) in [(1, 40), (2, 30), (3, 20), (4, 10), (5, 5)] {
            // Also fills the cache that `refresh` checks.
            if is_wanted(&logger, number)? {
                most = most.max(index);
            }
        }
        if name == LOGGERS[0] {
            let cache = logger.getattr(intern!(py, "_cache"))?.cast_into::<PyDict>()?;
            let _kept = CACHE.get_or_init(py, || cache.unbind());
        }
    }
    Ok(FILTER.swap(most, Ordering::Relaxed) != most)
}
