//! Nothing is left of futures that are done or cancelled, however many there were.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, Ordering};

use ferroloop::{Runtime, coroutine, into_future, spawn_blocking, spawn_local, yield_now};
use pyo3::prelude::*;

use crate::support::{Case, forever, runtime};

pub const CASES: &[Case] = &[("nothing is left of many futures", many)];

/// Counts the blocks that Rust code has allocated and not freed: this program's and the crate's.
pub struct CountingAllocator;

static BLOCKS: AtomicIsize = AtomicIsize::new(0);

// SAFETY: the system's allocator does the work.
#[allow(unsafe_code, reason = "an allocator")]
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BLOCKS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        BLOCKS.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: passed on.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: passed on.
        unsafe { System.realloc(block, layout, size) }
    }
}

/// How many futures of each kind; a million takes three minutes with a debug build.
fn count() -> usize {
    std::env::var("FERROLOOP_TEST_FUTURES").map_or(5_000, |count| count.parse().unwrap())
}

/// Futures that are alive at the same time.
const GROUP: usize = 50;

/// Starts a future of one kind. The receiver awaits what it returns.
type Start = fn(Python<'_>) -> PyResult<Py<PyAny>>;

const KINDS: &[(&str, Start)] = &[
    ("coroutine", |py| {
        let awaited = coroutine(py, "counted", async {
            yield_now().await;
            Ok(1)
        })?;
        Ok(awaited.unbind())
    }),
    ("spawn_local", |py| {
        let task = spawn_local(py, async {
            yield_now().await;
            Ok(vec![1])
        })?;
        Ok(task.unbind())
    }),
    ("an error", |py| {
        let task = spawn_local(py, async {
            yield_now().await;
            Err::<(), _>(pyo3::exceptions::PyLookupError::new_err("as it should"))
        })?;
        Ok(task.unbind())
    }),
    ("spawn_blocking", |py| {
        let task = spawn_local(py, async {
            let length = Python::attach(|py| spawn_blocking(py, || vec![1].len()))?;
            length.await
        })?;
        Ok(task.unbind())
    }),
    ("into_future", |py| {
        let task = spawn_local(py, async {
            let slept = Python::attach(|py| {
                into_future(py.import("asyncio")?.call_method1("sleep", (0, vec![1]))?)
            })?;
            slept.await
        })?;
        Ok(task.unbind())
    }),
    ("cancelled", |py| {
        let task = spawn_local(py, forever())?;
        let event_loop = py.import("asyncio")?.call_method0("get_running_loop")?;
        event_loop.call_method1("call_soon", (task.getattr("cancel")?,))?;
        Ok(task.unbind())
    }),
];

fn start_and_await(runtime: &Runtime, start: Start, count: usize) {
    runtime
        .block_on(async move {
            for _ in 0..count.div_ceil(GROUP) {
                let started = [(); GROUP]
                    .map(|()| Python::attach(|py| into_future(start(py)?.into_bound(py))).unwrap());
                for future in started {
                    // Some fail, as they should.
                    let _ = future.await;
                }
            }
        })
        .unwrap();
}

/// Blocks of Rust code, and of Python's allocator.
fn blocks() -> [isize; 2] {
    let python = Python::attach(|py| {
        let code = c"(__import__('gc').collect(), __import__('sys').getallocatedblocks())[1]";
        py.eval(code, None, None)?.extract()
    });
    [BLOCKS.load(Ordering::Relaxed), python.unwrap()]
}

fn many() {
    let runtime = runtime();
    for (kind, start) in KINDS {
        // What is allocated once: caches, the threads of the pool, tables of this size.
        start_and_await(&runtime, *start, 20 * GROUP);
        let before = blocks();
        start_and_await(&runtime, *start, count());
        let grown = std::iter::zip(blocks(), before).map(|(after, before)| after - before);
        let grown: Vec<_> = grown.collect();
        // A leak would have as many as there were futures.
        assert!(grown.iter().all(|&blocks| blocks < 500), "{kind}: {grown:?} blocks are left");
        if std::env::var_os("FERROLOOP_TEST_FUTURES").is_some() {
            println!("    {kind}: {grown:?} blocks, {} KiB resident", resident());
        }
    }
    runtime.close().unwrap();
}

/// The resident size of this process in KiB, where Linux tells it.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
