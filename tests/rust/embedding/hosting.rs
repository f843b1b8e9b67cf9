//! What a host relies on: options, modules, restarts, interpreters, and its own exit.

use std::num::NonZeroUsize;
use std::process::Command;

use ferroloop::{Builder, Runtime};
use pyo3::prelude::*;

use crate::support::{Case, runtime};

pub const CASES: &[Case] = &[
    ("options of the builder", options),
    ("a function of a module is run", run_module),
    ("the package needs no installation", package),
    ("nothing is left after many restarts", restarts),
    ("a host exits while Python threads run", host_exit),
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
    runtime.block_on(ferroloop::sleep(std::time::Duration::from_millis(20)))?;
    runtime.close()?;
    println!("host ends");
    Ok(())
}
