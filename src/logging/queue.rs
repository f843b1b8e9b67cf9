//! The queue of log records for Python.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use tracing::{Level, Metadata};

use super::levels;
use crate::ffi::exception::{Raised, write_unraisable};

/// Maximum number of queued records; further ones are counted and dropped.
const MAXIMUM_RECORDS: usize = 1000;
/// How often to try for the lock. Threads hold it only briefly, except one that does not exist in a
/// forked child.
const LOCK_ATTEMPTS: u32 = 10_000;

/// An event.
struct Record {
    target: &'static str,
    level: Level,
    file: &'static str,
    line: u32,
    text: String,
    time: SystemTime,
}

static QUEUE: Mutex<VecDeque<Record>> = Mutex::new(VecDeque::new());
static WAITING: AtomicBool = AtomicBool::new(false);
static DROPPED: AtomicU64 = AtomicU64::new(0);

fn with_queue<R>(body: impl FnOnce(&mut VecDeque<Record>) -> R) -> Option<R> {
    for _ in 0..LOCK_ATTEMPTS {
        if let Ok(mut queue) = QUEUE.try_lock() {
            return Some(body(&mut queue));
        }
        std::hint::spin_loop();
    }
    None
}

/// Queues an event. Callable from any thread, whatever locks it holds.
pub fn push(metadata: &'static Metadata<'static>, text: String) {
    let record = Record {
        target: metadata.target(),
        level: *metadata.level(),
        file: metadata.file().unwrap_or("?"),
        line: metadata.line().unwrap_or(0),
        text,
        time: SystemTime::now(),
    };
    let queued = with_queue(|queue| {
        let fits = queue.len() < MAXIMUM_RECORDS;
        if fits {
            queue.push_back(record);
        }
        fits
    });
    if queued != Some(true) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
    WAITING.store(true, Ordering::Release);
}

/// Passes the records to their loggers. Runs Python code if there are any.
#[inline]
pub fn deliver(py: Python<'_>) {
    if WAITING.load(Ordering::Relaxed) {
        deliver_all(py);
    }
}

#[cold]
fn deliver_all(py: Python<'_>) {
    WAITING.store(false, Ordering::Relaxed);
    // Handlers may cause further events, which wait for the next call.
    let Some(records) = with_queue(std::mem::take) else { return };
    for record in records {
        if let Err(error) = log(py, &record) {
            let raised = Raised::of(py, error);
            write_unraisable(raised, py.None().bind(py));
        }
    }
    let dropped = DROPPED.swap(0, Ordering::Relaxed);
    if dropped != 0 {
        tracing::warn!(target: "ferroloop", dropped, "log records came too fast");
    }
}

/// Calls `logger.handle(record)` with the time and the source location of the event.
fn log(py: Python<'_>, record: &Record) -> PyResult<()> {
    let name = record.target.replace("::", ".");
    let logger = py.import("logging")?.getattr(intern!(py, "getLogger"))?.call1((&name,))?;
    let level = levels::number(&record.level);
    if !levels::is_wanted(&logger, level)? {
        return Ok(());
    }
    let none = py.None();
    let arguments =
        (&name, level, record.file, record.line, &record.text, PyTuple::empty(py), none);
    let made = logger.call_method1(intern!(py, "makeRecord"), arguments)?;
    let since = record.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let late: f64 = made.getattr(intern!(py, "created"))?.extract::<f64>()? - since.as_secs_f64();
    let relative: f64 = made.getattr(intern!(py, "relativeCreated"))?.extract()?;
    made.setattr(intern!(py, "created"), since.as_secs_f64())?;
    made.setattr(intern!(py, "msecs"), f64::from(since.subsec_millis()))?;
    made.setattr(intern!(py, "relativeCreated"), relative - late * 1000.0)?;
    logger.call_method1(intern!(py, "handle"), (made,))?;
    Ok(())
}
