"""install, uninstall, run, new_event_loop, EventLoopPolicy, `python -m ferroloop`."""

import asyncio
import os
import subprocess
import sys
import warnings

import ferroloop
import pytest

from ..support.flavours import Flavour
from ..support.programs import run_program

PLAIN = Flavour("ferroloop", False)


@pytest.fixture(autouse=True)
def policy_restored():
    """Restores the policy and the current loop after each test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(None)


def python(*arguments, stdin="", **environment):
    """Run `python ...` with this process's import path; return status, output, errors."""
    done = subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)), **environment),
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


async def which_loop():
    return type(asyncio.get_running_loop())


def test_names():
    for name in ferroloop.__all__:
        assert getattr(ferroloop, name) is not None
    assert ferroloop.Loop is ferroloop.EventLoop
    assert isinstance(ferroloop.__version__, str)
    assert isinstance(ferroloop.__doc__, str)
    expected = {
        "EventLoop",
        "EventLoopPolicy",
        "Future",
        "Handle",
        "Loop",
        "Task",
        "TimerHandle",
        "__version__",
        "install",
        "new_event_loop",
        "run",
        "uninstall",
    }
    assert expected <= set(ferroloop.__all__)


def test_new_event_loop():
    loop = ferroloop.new_event_loop()
    assert type(loop) is ferroloop.EventLoop
    loop.close()


def test_run():
    assert ferroloop.run(which_loop()) is ferroloop.EventLoop


def test_run_in_debug():
    async def main():
        return asyncio.get_running_loop().get_debug()

    assert ferroloop.run(main(), debug=True) is True
    assert ferroloop.run(main(), debug=False) is False


def test_run_with_a_loop_factory():
    class Special(ferroloop.EventLoop):
        pass

    assert ferroloop.run(which_loop(), loop_factory=Special) is Special


def test_run_inside_a_running_loop():
    async def main():
        coroutine = which_loop()
        try:
            ferroloop.run(coroutine)
        finally:
            coroutine.close()

    with pytest.raises(RuntimeError) as caught:
        ferroloop.run(main())
    assert str(caught.value) == "asyncio.run() cannot be called from a running event loop"


def test_run_requires_a_coroutine():
    with pytest.raises((ValueError, TypeError)) as ours:
        ferroloop.run(42)
    with pytest.raises((ValueError, TypeError)) as theirs:
        asyncio.run(42)
    assert type(ours.value) is type(theirs.value)
    assert str(ours.value) == str(theirs.value)


def test_run_cancels_remaining_tasks():
    cancelled = []

    async def background():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def main():
        main.task = asyncio.create_task(background())
        await asyncio.sleep(0)

    ferroloop.run(main())
    del main.task
    assert cancelled == [True]


def test_install_and_uninstall():
    ferroloop.install()
    try:
        assert asyncio.run(which_loop()) is ferroloop.EventLoop
        loop = asyncio.new_event_loop()
        assert type(loop) is ferroloop.EventLoop
        loop.close()
    finally:
        ferroloop.uninstall()
    assert asyncio.run(which_loop()) is not ferroloop.EventLoop


def test_install_twice_and_uninstall_alone():
    ferroloop.install()
    ferroloop.install()
    ferroloop.uninstall()
    ferroloop.uninstall()
    assert asyncio.run(which_loop()) is not ferroloop.EventLoop


def test_install_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ferroloop.install()
        ferroloop.uninstall()


def test_policy():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        policy = ferroloop.EventLoopPolicy()
        asyncio.set_event_loop_policy(policy)
        assert asyncio.get_event_loop_policy() is policy
        assert isinstance(policy, asyncio.DefaultEventLoopPolicy)
        loop = policy.new_event_loop()
        policy.set_event_loop(loop)
        assert policy.get_event_loop() is loop
        policy.set_event_loop(None)
        loop.close()
        asyncio.set_event_loop_policy(None)


def test_runner():
    with asyncio.Runner(loop_factory=ferroloop.new_event_loop) as runner:
        assert type(runner.get_loop()) is ferroloop.EventLoop
        first = runner.run(which_loop())
        assert runner.run(which_loop()) is first


@pytest.mark.skipif(sys.version_info < (3, 12), reason="new in 3.12")
def test_asyncio_run_with_our_factory():
    found = asyncio.run(which_loop(), loop_factory=ferroloop.new_event_loop)
    assert found is ferroloop.EventLoop


def test_isolated_asyncio_test_case():
    source = """
    import unittest
    import ferroloop
    ferroloop.install()
    class Test(unittest.IsolatedAsyncioTestCase):
        async def asyncSetUp(self):
            self.loop = asyncio.get_running_loop()
        async def test_loop(self):
            self.assertIs(asyncio.get_running_loop(), self.loop)
            self.assertIs(type(self.loop), ferroloop.EventLoop)
            await asyncio.sleep(0)
    unittest.main(argv=["test"])
    """
    status, _, errors = run_program(PLAIN, source)
    assert status == 0, errors
    assert errors.endswith("OK\n")


def test_legacy_get_event_loop():
    source = """
    import warnings
    import ferroloop
    warnings.simplefilter("ignore")
    ferroloop.install()
    try:
        loop = asyncio.get_event_loop()
    except RuntimeError:  # 3.14
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
    print(type(loop) is ferroloop.EventLoop)
    future = asyncio.ensure_future(asyncio.sleep(0, "value"), loop=loop)
    print(loop.run_until_complete(future), type(future) is ferroloop.Task)
    loop.close()
    """
    assert run_program(PLAIN, source) == (0, "True\nvalue True\n", "")


def test_import_leaves_asyncio_alone():
    source = """
    import ferroloop
    async def main():
        return type(asyncio.get_running_loop()).__module__
    print(asyncio.run(main()))
    print(asyncio.Task.__module__, asyncio.Future.__module__)
    """
    status, out, errors = run_program(PLAIN, source)
    assert (status, out, errors) == (0, "asyncio.unix_events\n_asyncio _asyncio\n", "")


# --- python -m ferroloop ----------------------------------------------------------


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(
        "import asyncio, sys\n"
        "from beside import NAME\n"
        "async def main():\n"
        "    print(type(asyncio.get_running_loop()).__module__.partition('.')[0])\n"
        "    print(sys.argv[1:], __name__, __file__ == sys.argv[0], NAME)\n"
        "asyncio.run(main())\n"
        "if sys.argv[1:] == ['fail']:\n"
        "    raise LookupError('script failed')\n"
        "if sys.argv[1:] == ['exit']:\n"
        "    sys.exit(3)\n"
    )
    (tmp_path / "beside.py").write_text("NAME = 'beside'\n")
    return str(path)


def test_script(script):
    status, out, errors = python("-m", "ferroloop", script, "one", "--two", "-m")
    assert (status, errors) == (0, "")
    assert out == "ferroloop\n['one', '--two', '-m'] __main__ True beside\n"


def test_script_that_exits(script):
    status, _, errors = python("-m", "ferroloop", script, "exit")
    assert (status, errors) == (3, "")


def test_script_that_fails(script):
    status, _, errors = python("-m", "ferroloop", script, "fail")
    assert status == 1
    lines = errors.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "LookupError: script failed"
    assert f'  File "{script}", line 8, in <module>' in lines


def test_missing_script(tmp_path):
    status, _, errors = python("-m", "ferroloop", str(tmp_path / "missing.py"))
    assert status != 0
    assert "missing.py" in errors
    assert "No such file or directory" in errors


def test_module(script):
    folder = os.path.dirname(script)
    status, out, errors = python(
        "-c",
        f"import os, sys; os.chdir({folder!r}); "
        "os.execv(sys.executable, [sys.executable, '-m', 'ferroloop', '-m', 'script', 'a', '-c'])",
    )
    assert (status, errors) == (0, "")
    assert out == "ferroloop\n['a', '-c'] __main__ True beside\n"


def test_code():
    code = (
        "import asyncio, sys\n"
        "async def main(): return type(asyncio.get_running_loop()).__name__\n"
        "print(asyncio.run(main()), sys.argv, __name__)"
    )
    status, out, errors = python("-m", "ferroloop", "-c", code, "a", "-b")
    assert (status, out, errors) == (0, "EventLoop ['-c', 'a', '-b'] __main__\n", "")


def test_help():
    status, out, _ = python("-m", "ferroloop", "--help")
    assert status == 0
    assert out.startswith("usage: ")
    assert "ferroloop" in out


def test_version():
    status, out, _ = python("-m", "ferroloop", "--version")
    assert status == 0
    assert ferroloop.__version__ in out


def test_repl():
    typed = (
        "import asyncio\n"
        "await asyncio.sleep(0, 'from the REPL')\n"
        "type(asyncio.get_running_loop()).__module__\n"
        "x = 20 + 1\n"
        "x * 2\n"
        "1 / 0\n"
    )
    status, out, errors = python("-m", "ferroloop", stdin=typed)
    assert status == 0, errors
    text = out + errors
    assert "'from the REPL'" in text
    assert "'ferroloop" in text
    assert "42" in text
    assert "ZeroDivisionError: division by zero" in text


def test_debug_of_the_interpreter():
    code = "import asyncio\nasync def m(): print(asyncio.get_running_loop().get_debug())\n"
    code += "asyncio.run(m())"
    assert python("-X", "dev", "-m", "ferroloop", "-c", code)[:2] == (0, "True\n")


WITHOUT_POLICIES = """
import asyncio, sys
asyncio.events._init_event_loop_policy()  # keeps a thread's current loop, which needs no name
for module in (asyncio, asyncio.events, asyncio.unix_events):
    for name in [name for name in vars(module) if name.lower().endswith("policy")]:
        if name not in ("_get_event_loop_policy", "_event_loop_policy"):
            delattr(module, name)
del asyncio.__getattr__
asyncio.events.new_event_loop = asyncio.new_event_loop = lambda: asyncio.EventLoop()
stock = asyncio.new_event_loop
assert not hasattr(asyncio, "set_event_loop_policy")
assert not hasattr(asyncio, "DefaultEventLoopPolicy")
"""

LOOP_CLASSES = """
import asyncio

async def loop_class():
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]

print(asyncio.run(loop_class()))
with asyncio.Runner() as runner:
    print(runner.run(loop_class()))
loop = asyncio.new_event_loop()
print(type(loop).__module__.partition(".")[0])
loop.close()
"""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="asyncio itself needs its policies there")
def test_install_without_policies():
    """As asyncio will be from Python 3.16 on: simulated by removing the functions."""
    source = f"""{WITHOUT_POLICIES}
import ferroloop
ferroloop.uninstall()
assert asyncio.new_event_loop is asyncio.events.new_event_loop is stock
ferroloop.install()
ferroloop.install()
{LOOP_CLASSES}
ferroloop.uninstall()
assert asyncio.new_event_loop is asyncio.events.new_event_loop is stock
{LOOP_CLASSES}
print(ferroloop.run(loop_class()))
"""
    expected = "ferroloop\n" * 3 + "asyncio\n" * 3 + "ferroloop\n"
    assert python("-c", source) == (0, expected, "")


@pytest.mark.skipif(sys.version_info < (3, 14), reason="asyncio itself needs its policies there")
def test_a_program_run_without_policies():
    source = f"""{WITHOUT_POLICIES}
from ferroloop.__main__ import main
main(["-c", {LOOP_CLASSES!r}])
"""
    assert python("-c", source) == (0, "ferroloop\n" * 3, "")
