//! A Rust program that hosts a plug-in in Python, restarts it and shuts it down cleanly.
//!
//!     make example-plugin-host
//!
//! Each round has its own loop. The plug-in awaits jobs from the host and reports results; the host
//! decides when a round is over, even if the plug-in is still working.

#![allow(clippy::print_stdout, reason = "it is a program")]

use std::sync::Arc;
use std::time::Duration;

use ferroloop::{Runtime, coroutine, into_future, sleep};
use futures_channel::mpsc::{UnboundedReceiver, unbounded};
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::lock::Mutex;
use pyo3::prelude::*;

type Reports = Arc<std::sync::Mutex<Vec<String>>>;

/// The host's interface for the plug-in.
#[pyclass(frozen)]
struct Host {
    jobs: Arc<Mutex<UnboundedReceiver<String>>>,
    reports: Reports,
}

#[pymethods]
impl Host {
    /// Return the next job, or None when there will be no more: a coroutine.
    fn next_job<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let jobs = self.jobs.clone();
        coroutine(py, "next_job", async move { Ok(jobs.lock().await.next().await) })
    }

    /// Report a result to the host.
    fn report(&self, text: String) {
        if let Ok(mut reports) = self.reports.lock() {
            reports.push(text);
        }
    }
}

fn main() -> PyResult<()> {
    for round in 1..=3 {
        println!("round {round}");
        let runtime = Runtime::new()?;
        let reports = Reports::default();
        runtime.block_on(play(round, reports.clone()))??;
        // Cancels the plug-in's remaining tasks, lets it clean up, and closes the loop.
        runtime.close()?;
        println!("  the host got {:?}", reports.lock().map(|it| it.join(", ")).unwrap_or_default());
        forget_plugin()?;
    }
    println!("done");
    Ok(())
}

/// Has the plug-in work on a few jobs; cancels it if it takes too long.
async fn play(round: u32, reports: Reports) -> PyResult<()> {
    let (sender, receiver) = unbounded();
    for number in 1..=round {
        // Cannot fail: the receiver is still alive in this function.
        sender.unbounded_send(format!("{round}.{number}")).ok();
    }
    // In the last round there is always one more job to wait for.
    let kept_open = (round == 3).then_some(sender);
    let host = Host { jobs: Arc::new(Mutex::new(receiver)), reports };
    let plugin = Python::attach(|py| into_future(load(py)?.call1((host,))?))?;
    match select(plugin, std::pin::pin!(sleep(Duration::from_millis(300)))).await {
        Either::Left((result, _sleep)) => println!("  the plug-in ended with {}", result?),
        // Dropped at the end of this function, which cancels the plug-in's coroutine.
        Either::Right(((), _plugin)) => println!("  the plug-in was too slow"),
    }
    drop(kept_open);
    Ok(())
}

/// Imports the plug-in and returns its coroutine function.
fn load(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/plugin_host");
    let path = py.import("sys")?.getattr("path")?;
    if !path.contains(directory)? {
        path.call_method1("insert", (0, directory))?;
    }
    py.import("plugin")?.getattr("run")
}

/// Removes the plug-in from `sys.modules`, so that the next round imports it again from disk.
fn forget_plugin() -> PyResult<()> {
    Python::attach(|py| {
        py.import("sys")?.getattr("modules")?.call_method1("pop", ("plugin",)).map(drop)
    })
}
