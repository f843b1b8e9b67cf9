//! What a host relies on: options, modules, restarts, interpreters, and its own exit.

use std::num::NonZeroUsize;
use std::process::Command;
use std::time::Duration;

use ferroloop::{Builder, Runtime, coroutine, into_future, sleep, spawn_blocking, spawn_local};
use pyo3::prelude::*;

use crate::support::{Case, Factory, forever, fresh_counter, run, runtime, with_counted_drop};

pub const CASES: &[Case] = &[
    ("options of the builder", options),
    ("a function of a module is run", run_module),
    ("the package needs no installation", package),
    ("nothing is left after many restarts", restarts),
    ("a host exits while Python threads run", host_exit),
    ("a forked child of a host uses a loop of its own", forked),
];

fn options() {
    let runtime =
        Builder::new().debug(true).threads(NonZeroUsize::new(2).unwrap()).build().unwrap();
    Python::attach(|py| {
        let event_loop = runtime.event_loop(py);
        assert!(event_loop.call_method0("get_debug")?.is_truthy()?);
        let pool = event_loop.getattr("_default_executor")?;
        assert_eq!(pool.getattr("_max_workers")?.extract::<usize>()?, 2);
        Ok::<_, PyErr>(())
    })
    .unwrap();
    runtime.close().unwrap();
}

fn run_module() {
    let runtime = runtime();
    Python::attach(|py| {
        let slept = runtime.run_module(py, "asyncio", "sleep", (0.001, "x"))?;
        assert_eq!(slept.extract::<String>()?, "x");
        let plain = runtime.run_module(py, "math", "sqrt", (9.0,))?;
        assert_eq!(plain.extract::<f64>()?, 3.0);
        let error = runtime.run_module(py, "no_such_module", "main", ()).unwrap_err();
        assert!(error.is_instance_of::<pyo3::exceptions::PyModuleNotFoundError>(py));
        Ok::<_, PyErr>(())
    })
    .unwrap();
}

fn package() {
    runtime();
    let code = c"
import ferroloop, importlib, inspect, sys
assert ferroloop._ferroloop is sys.modules['ferroloop._ferroloop']
assert importlib.reload(ferroloop._ferroloop) is ferroloop._ferroloop
import ferroloop._ferroloop as native
assert native.__spec__.parent == native.__package__ == 'ferroloop'
assert importlib.util.find_spec('ferroloop._ferroloop').loader is native.__loader__
assert ferroloop.__file__ == 'embedded/ferroloop/__init__.py', ferroloop.__file__
assert 'class EventLoop' in inspect.getsource(ferroloop.EventLoop)
assert ferroloop.loop.__spec__.parent == 'ferroloop'
";
    Python::attach(|py| py.run(code, None, None)).unwrap();
}

fn restarts() {
    let alive = || {
        let code = c"(__import__('gc').collect(), sum(
            type(o).__module__.startswith('ferroloop') for o in __import__('gc').get_objects()
        ))[1]";
        let objects: usize = Python::attach(|py| py.eval(code, None, None)?.extract()).unwrap();
        let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        (objects, descriptors)
    };
    let once = || {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(ferroloop::yield_now()).unwrap();
        runtime.close().unwrap();
    };
    once();
    let before = alive();
    (0..50).for_each(|_| once());
    assert_eq!(alive(), before);
}

fn host_exit() {
    // Runs this program again, as a host that exits; see `main()`.
    let program = std::env::current_exe().unwrap();
    let done = Command::new(program).env("FERROLOOP_TEST_HOST", "").output().unwrap();
    let output = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{} {output}", done.status);
    assert_eq!(String::from_utf8_lossy(&done.stdout), "host ends\n", "{output}");
}

/// Uses the timers, the pool and a task of the loop that runs.
async fn use_loop() -> PyResult<i64> {
    sleep(Duration::from_millis(1)).await;
    let number = Python::attach(|py| spawn_blocking(py, || 40))?.await?;
    let two = Python::attach(|py| into_future(spawn_local(py, async { Ok(2) })?))?.await?;
    Ok(number + Python::attach(|py| two.extract::<i64>(py))?)
}

fn forked() {
    let start: Factory = |py| spawn_local(py, with_counted_drop(forever()));
    let work: Factory = |py| coroutine(py, "work", use_loop());
    // Another thread runs, so later versions of Python warn.
    let source = "
import os, traceback, warnings
import ferroloop
warnings.simplefilter('ignore', DeprecationWarning)

async def in_child():
    assert len(asyncio.all_tasks()) == 1
    return await work()

def child():
    try:
        # After a fork no loop runs in the child, as in asyncio.
        return int([ferroloop.run(in_child()) for _ in range(2)] != [42, 42])
    except BaseException:
        traceback.print_exc()
        return 1

async def main():
    waiting = start()
    assert await work() == 42
    for _ in range(3):
        if not (process := os.fork()):
            os._exit(child())
        assert os.waitpid(process, 0)[1] == 0
        assert await work() == 42
    assert not waiting.done()
    waiting.cancel()
";
    let drops = fresh_counter();
    run(source, &[("start", start), ("work", work)]).unwrap();
    assert_eq!(drops.count(), 1);
    drops.assert_here();
}

/// Runs `main()` of a Python module, after several threads at once have used ferroloop first.
pub fn running_host(module: &str) -> PyResult<()> {
    Python::initialize();
    let threads = [(); 8].map(|()| {
        std::thread::spawn(|| {
            let runtime = Runtime::new()?;
            runtime.block_on(async {})?;
            runtime.close()
        })
    });
    for thread in threads {
        thread.join().expect("no panic")?;
    }
    let runtime = Runtime::new()?;
    Python::attach(|py| runtime.run_module(py, module, "main", ()).map(drop))?;
    runtime.close()
}

/// Exits while Python threads compute, sleep and wait for a loop.
pub fn exiting_host(_module: &str) -> PyResult<()> {
    let runtime = Runtime::new()?;
    let code = c"
import threading, time, asyncio
def compute():
    while True:
        sum(range(1000))
def run_loop():
    import ferroloop
    ferroloop.run(asyncio.sleep(60))
for target in (compute, compute, lambda: time.sleep(60), run_loop):
    threading.Thread(target=target).start()
";
    Python::attach(|py| py.run(code, None, None))?;
    runtime.block_on(sleep(Duration::from_millis(20)))?;
    runtime.close()?;
    println!("host ends");
    Ok(())
}
