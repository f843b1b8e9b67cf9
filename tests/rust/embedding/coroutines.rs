//! Rust futures as Python's coroutines and tasks.

use std::io;

use ferroloop::{SpawnOptions, coroutine, into_future, spawn_local, spawn_local_with, yield_now};
use pyo3::exceptions::PyLookupError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::support::{Case, Factory, fresh_counter, module, run, runtime, with_counted_drop};

pub const CASES: &[Case] = &[
    ("a coroutine is awaited", awaited),
    ("a coroutine runs only once", once),
    ("a coroutine that is never awaited warns", unawaited),
    ("a coroutine works with asyncio's own tasks", c_tasks),
    ("a task is one of asyncio's", task),
    ("a future runs in the context of its task", contexts),
    ("errors and panics are exceptions", errors),
    ("exceptions with a meaning for coroutines are treated as Python does", special_errors),
    ("exceptions thrown in are raised as by Python's coroutines", thrown_in),
    ("other loops are refused", foreign_loop),
    ("a running coroutine cannot be resumed", reentrant),
    ("wake-ups keep their order", order),
    ("no output is None", no_output),
    ("errors of the system have their number", system_errors),
    ("a coroutine can be inspected", inspected),
    ("tools that read memory find a frame with the name of a coroutine", seen_from_outside),
];

const ANSWER: Factory = |py| {
    coroutine(
        py,
        "answer",
        with_counted_drop(async {
            for _ in 0..3 {
                yield_now().await;
            }
            Ok(42)
        }),
    )
};

fn awaited() {
    let drops = fresh_counter();
    let source = "
async def main():
    assert await answer() == 42
    assert await asyncio.gather(answer(), answer()) == [42, 42]
    assert await asyncio.wait_for(answer(), 5) == 42
    coroutine = answer()
    assert asyncio.iscoroutine(coroutine) and coroutine.__name__ == 'answer', coroutine
    assert repr(coroutine).startswith('<coroutine object answer at 0x'), coroutine
    assert await coroutine == 42
    closed = answer()
    closed.close()
";
    run(source, &[("answer", ANSWER)]).unwrap();
    assert_eq!(drops.count(), 5);
    drops.assert_here();
}

fn once() {
    let source = "
async def main():
    coroutine = answer()
    assert await coroutine == 42
    try:
        await coroutine
    except RuntimeError as error:
        assert str(error) == 'cannot reuse already awaited coroutine', error
    else:
        raise AssertionError('awaited twice')
";
    run(source, &[("answer", ANSWER)]).unwrap();
}

fn unawaited() {
    let drops = fresh_counter();
    let source = "
import warnings
async def main():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        answer()
    texts = [str(warning.message) for warning in caught]
    assert texts == [\"coroutine 'answer' was never awaited\"], texts
";
    run(source, &[("answer", ANSWER)]).unwrap();
    assert_eq!(drops.count(), 0, "with_counted_drop() had not begun");
}

fn c_tasks() {
    let source = "
async def main():
    assert await asyncio.Task(answer()) == 42
    task = asyncio.Task(forever())
    await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass
    else:
        raise AssertionError('not cancelled')
";
    let drops = fresh_counter();
    let forever: Factory =
        |py| coroutine(py, "forever", with_counted_drop(crate::support::forever()));
    run(source, &[("answer", ANSWER), ("forever", forever)]).unwrap();
    assert_eq!(drops.count(), 2);
}

fn task() {
    let start: Factory = |py| {
        let options = SpawnOptions { name: Some("rusty".into()), context: None };
        spawn_local_with(py, options, async {
            yield_now().await;
            Python::attach(|py| Ok(py.import("asyncio")?.call_method0("current_task")?.unbind()))
        })
    };
    let source = "
async def main():
    task = start()
    assert isinstance(task, asyncio.Task) and task.get_name() == 'rusty', task
    assert task in asyncio.all_tasks()
    assert 'rusty' in repr(task), task
    assert await task is task
    assert task.done() and task not in asyncio.all_tasks()
";
    run(source, &[("start", start)]).unwrap();
}

fn contexts() {
    let start: Factory = |py| {
        spawn_local(py, async {
            let mut seen = Vec::new();
            for number in 0..3 {
                yield_now().await;
                Python::attach(|py| -> PyResult<()> {
                    let variable = py.import("__main__")?.getattr("variable")?;
                    seen.push(variable.call_method0("get")?.extract::<i32>()?);
                    variable.call_method1("set", (number,))?;
                    Ok(())
                })?;
            }
            Ok(seen)
        })
    };
    let source = "
import contextvars, __main__
variable = __main__.variable = contextvars.ContextVar('variable')
async def main():
    variable.set(7)
    assert await start() == [7, 0, 1]
    assert variable.get() == 7
    del __main__.variable
";
    run(source, &[("start", start)]).unwrap();
}

fn errors() {
    let error: Factory = |py| {
        spawn_local(
            py,
            with_counted_drop(async {
                yield_now().await;
                Err::<(), _>(PyLookupError::new_err("lost"))
            }),
        )
    };
    let panic: Factory = |py| {
        spawn_local(
            py,
            with_counted_drop(async {
                yield_now().await;
                if true {
                    panic!("out of {}", "luck");
                }
                Ok(())
            }),
        )
    };
    let drops = fresh_counter();
    let source = "
async def main():
    for start, kind, text in (error, LookupError, 'lost'), (
        panic, RuntimeError, 'Rust future panicked: out of luck'
    ):
        task = start()
        try:
            await task
        except kind as raised:
            assert type(raised) is kind and str(raised) == text, raised
        else:
            raise AssertionError('nothing raised')
        assert isinstance(task.exception(), kind)
";
    run(source, &[("error", error), ("panic", panic)]).unwrap();
    assert_eq!(drops.count(), 2);
}

fn foreign_loop() {
    Python::initialize();
    Python::attach(|py| {
        let error = spawn_local(py, async { Ok(()) }).unwrap_err();
        assert_eq!(error.to_string(), "RuntimeError: no running event loop");
        let source = "
async def inner():
    try:
        await answer()
    except RuntimeError as error:
        assert str(error) == (
            'Rust futures need an event loop of ferroloop; another one runs'
        ), error
    else:
        raise AssertionError('awaited')
asyncio.run(inner())
";
        ferroloop::register(py)?;
        crate::support::module(py, source, &[("answer", ANSWER)]).map(drop)
    })
    .unwrap();
}

fn reentrant() {
    let start: Factory = |py| {
        spawn_local(py, async {
            yield_now().await;
            Python::attach(|py| {
                let task = py.import("asyncio")?.call_method0("current_task")?;
                let coroutine = task.call_method0("get_coro")?;
                let mut texts = Vec::new();
                for (method, arguments) in
                    [("close", vec![]), ("send", vec![py.None()]), ("throw", vec![py.None()])]
                {
                    let arguments = pyo3::types::PyTuple::new(py, arguments)?;
                    texts.push(coroutine.call_method1(method, arguments).unwrap_err().to_string());
                }
                Ok(texts)
            })
        })
    };
    let source = "
async def main():
    assert await start() == ['ValueError: coroutine already executing'] * 3
";
    run(source, &[("start", start)]).unwrap();
}

fn order() {
    let source = "
async def main():
    log = []
    async def one(name):
        for _ in range(3):
            await answer()
            log.append(name)
    await asyncio.gather(*map(one, 'abc'))
    assert ''.join(log) == 'abcabcabc', log
";
    run(source, &[("answer", ANSWER)]).unwrap();
}

fn the_error(py: Python<'_>) -> PyResult<PyErr> {
    Ok(PyErr::from_value(py.import("__main__")?.getattr("error")?))
}

async fn fail() -> PyResult<()> {
    yield_now().await;
    Err(Python::attach(|py| the_error(py).unwrap_or_else(|error| error)))
}

fn special_errors() {
    let failing: Factory = |py| coroutine(py, "failing", fail());
    let spawned: Factory = |py| spawn_local(py, fail());
    let source = "
import _asyncio, ferroloop, __main__

async def python():
    await asyncio.sleep(0)
    raise __main__.error

async def awaiting(make):
    await make()

def outcome(start):
    loop = ferroloop.new_event_loop()
    async def main():
        loop.task = asyncio.ensure_future(start())
        await asyncio.wait([loop.task])
    raised = None
    try:
        try:
            loop.run_until_complete(main())
        except BaseException as error:
            raised = type(error)
            loop.run_until_complete(asyncio.sleep(0))
        if loop.task.cancelled():
            return raised, 'cancelled'
        error = loop.task.exception()
        about = lambda error: error and (type(error), error.args, error is __main__.error)
        return raised, about(error), about(error.__cause__), error.__suppress_context__
    finally:
        loop.close()

for kind, arguments in (
    (StopIteration, (3,)),
    (StopIteration, ()),
    (StopAsyncIteration, ()),
    (GeneratorExit, ()),
    (asyncio.CancelledError, ('m',)),
    (KeyboardInterrupt, ()),
    (SystemExit, (3,)),
    (BaseException, ('b',)),
    (ExceptionGroup, ('g', [ValueError(1)])),
):
    found = []
    for start in (
        python,
        failing,
        lambda: spawned(),
        lambda: awaiting(python),
        lambda: awaiting(failing),
        lambda: _asyncio.Task(failing()),
    ):
        __main__.error = kind(*arguments)
        found.append(outcome(start))
    assert found == found[:1] * 6, (kind, found)
    if kind is StopIteration:
        assert found[0][1][:2] == (RuntimeError, ('coroutine raised StopIteration',)), found[0]
del __main__.error
";
    runtime().close().unwrap();
    Python::attach(|py| {
        module(py, source, &[("failing", failing), ("spawned", spawned)]).map(drop)
    })
    .unwrap();
}

fn thrown_in() {
    let waiting: Factory = |py| coroutine(py, "waiting", crate::support::forever());
    let source = "
import types
@types.coroutine
def pause():
    while True:
        yield
async def python():
    await pause()

def outcome(make, prepare, act):
    coroutine = make()
    prepare(coroutine)
    try:
        act(coroutine)
    except BaseException as error:
        return type(error), error.args
    finally:
        coroutine.close()

async def main():
    unstarted = lambda coroutine: None
    started = lambda coroutine: coroutine.send(None)
    ended = lambda coroutine: coroutine.close()
    for prepare in unstarted, started, ended:
        for error in StopAsyncIteration(1), GeneratorExit(), KeyError(2), ValueError:
            throw = lambda coroutine: coroutine.throw(error)
            theirs, ours = outcome(python, prepare, throw), outcome(waiting, prepare, throw)
            assert theirs == ours is not None, (prepare, error, theirs, ours)
    stop = lambda coroutine: coroutine.throw(StopIteration(3))
    assert outcome(waiting, unstarted, stop) == outcome(python, unstarted, stop)
    assert outcome(waiting, started, stop) == (
        RuntimeError, ('coroutine raised StopIteration',)
    )
    for prepare in unstarted, ended:
        send = lambda coroutine: coroutine.send(5)
        theirs, ours = outcome(python, prepare, send), outcome(waiting, prepare, send)
        assert theirs == ours is not None, (prepare, theirs, ours)
";
    run(source, &[("waiting", waiting)]).unwrap();
}

fn no_output() {
    let source = "
async def main():
    assert await unit() is None
    assert await empty() == ()
    assert await spawned() is None
";
    let unit: Factory = |py| coroutine(py, "unit", async { Ok(()) });
    let empty: Factory =
        |py| coroutine(py, "empty", async { Ok(Python::attach(|py| PyTuple::empty(py).unbind())) });
    let spawned: Factory = |py| spawn_local(py, async { Ok(()) });
    run(source, &[("unit", unit), ("empty", empty), ("spawned", spawned)]).unwrap();
}

fn system_errors() {
    let failing: Factory = |py| {
        coroutine(py, "failing", async {
            let number = Python::attach(|py| {
                py.import("__main__")?.getattr("number")?.extract::<Option<i32>>()
            })?;
            Err::<(), _>(PyErr::from(number.map_or_else(
                || io::Error::other("not of the system"),
                io::Error::from_raw_os_error,
            )))
        })
    };
    let source = "
import errno, __main__
async def main():
    for __main__.number in errno.errorcode:
        expected = OSError(number := __main__.number, 'text')
        try:
            await failing()
        except MemoryError:
            assert number == errno.ENOMEM
        except OSError as error:
            assert type(error) is type(expected), error
            assert error.errno == number and error.strerror, error
        else:
            raise AssertionError('not raised')
    __main__.number = None
    try:
        await failing()
    except OSError as error:
        assert error.args == ('not of the system',) and error.errno is None, error
    # Exceptions of Python code stay what they are.
    ours = OSError('text (os error 2)')
    async def fail():
        raise ours
    __main__.fail = fail
    try:
        await passing()
    except OSError as error:
        assert error is ours and error.errno is None, error
    del __main__.number, __main__.fail
";
    let passing: Factory = |py| {
        coroutine(py, "passing", async {
            let fail =
                Python::attach(|py| into_future(py.import("__main__")?.getattr("fail")?.call0()?))?;
            fail.await
        })
    };
    run(source, &[("failing", failing), ("passing", passing)]).unwrap();
}

fn inspected() {
    let state: Factory = |py| coroutine(py, "module.state", crate::support::forever());
    let source = "
import io, inspect, types, warnings, collections.abc

async def python():
    await asyncio.sleep(60)

def attributes(coroutine):
    return {name for name in dir(coroutine) if name.startswith('cr_')}

async def main():
    assert attributes(state()) == attributes(python())
    coroutine = state()
    assert inspect.isawaitable(coroutine) and asyncio.iscoroutine(coroutine)
    assert isinstance(coroutine, collections.abc.Coroutine)
    # Nothing but a coroutine of the interpreter is an instance of that class.
    assert not inspect.iscoroutine(coroutine)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED
    assert inspect.getcoroutinelocals(coroutine) == {}
    assert coroutine.cr_frame.f_code.co_name == coroutine.cr_code.co_name == 'state'
    assert coroutine.cr_code.co_qualname == coroutine.__qualname__ == 'module.state'
    assert coroutine.cr_code.co_flags & inspect.CO_COROUTINE
    assert coroutine.cr_origin is coroutine.cr_await is None

    task = asyncio.create_task(coroutine)
    await asyncio.sleep(0.001)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_SUSPENDED
    assert coroutine.cr_await is not None and not coroutine.cr_running
    output = io.StringIO()
    task.print_stack(file=output)
    assert 'File \"<rust>\", line 1, in state' in output.getvalue(), output.getvalue()
    assert 'coro=<module.state() running at <rust>:1>' in repr(task), task
    if hasattr(asyncio, 'format_call_graph'):
        assert 'in module.state()' in asyncio.format_call_graph(task), asyncio.format_call_graph(task)
    task.cancel()
    await asyncio.wait([task])
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
    assert coroutine.cr_frame is None and coroutine.cr_code is not None

    task = asyncio.create_task(ended())
    assert await task == inspect.CORO_RUNNING
import warnings
warnings.simplefilter('ignore')
";
    let ended: Factory = |py| {
        coroutine(py, "ended", async {
            Python::attach(|py| {
                let own = py.import("asyncio")?.call_method0("current_task")?;
                let own = own.call_method0("get_coro")?;
                py.import("inspect")?.call_method1("getcoroutinestate", (own,)).map(Bound::unbind)
            })
        })
    };
    run(source, &[("state", state), ("ended", ended)]).unwrap();
}

fn seen_from_outside() {
    // Where tools find the coroutine of a task: see tests/parity/test_task_tools.py.
    let source = "
import ctypes, sys
from ferroloop import _ferroloop

def shown(task):
    return ctypes.cast(ctypes.c_void_p.from_address(id(task) + 128).value, ctypes.py_object).value

async def waits():
    return await answer()

async def main():
    tasks = [asyncio.create_task(answer()) for _ in range(2)]
    other = asyncio.create_task(waits())
    await asyncio.sleep(0)
    if sys.version_info >= (3, 14):
        assert ('the lists of tasks', True) in _ferroloop.probed_offsets()
        found = shown(tasks[0])
        assert found is shown(tasks[1])
        assert type(found) is type(other.get_coro()), found
        assert found.cr_code.co_qualname == 'module.answer', found
        assert found.cr_code.co_filename == '<rust>', found
        assert shown(other) is other.get_coro()
    assert [task.get_coro().__qualname__ for task in tasks] == ['module.answer'] * 2
    for task in (*tasks, other):
        task.cancel()
    await asyncio.wait([*tasks, other])
";
    let pending: Factory =
        |py| coroutine(py, "module.answer", std::future::pending::<PyResult<()>>());
    run(source, &[("answer", pending)]).unwrap();
}
