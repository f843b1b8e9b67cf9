"""Worker of run_cpython.py: `python worker.py REQUEST-AS-JSON`.

Makes asyncio's default loop the one under test, builds the test classes, and
either lists them or runs some tests of one class, writing one event per line
to the given file descriptor.
"""

import contextlib
import ctypes
import faulthandler
import importlib
import json
import os
import pkgutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import unittest
from typing import ClassVar

import families as fam

# --------------------------------------------------------------------------
# environment
# --------------------------------------------------------------------------


def isolate_network(mode):
    """Move into a network namespace with only the loopback device, so that no
    test can reach another machine whatever the loop under test does.  The
    device also gets a documentation address of each family, because
    getaddrinfo(AI_ADDRCONFIG) does not count 127.0.0.1 and ::1, and
    localhost is added to /etc/hosts for IPv6 if it is missing."""
    if mode == "host":
        return "host"
    import fcntl
    import socket
    import struct

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x40000000) != 0:  # CLONE_NEWNET
        if mode == "own":
            raise SystemExit("no network namespace: " + os.strerror(ctypes.get_errno()))
        return "host"
    lo = 1  # always its index
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        req = struct.pack("16sh", b"lo", 0)
        flags = struct.unpack("16sh", fcntl.ioctl(s, 0x8913, req)[:18])[1]
        fcntl.ioctl(s, 0x8914, struct.pack("16sh", b"lo", flags | 1 | 0x40))
        fcntl.ioctl(
            s,
            0x8916,
            struct.pack(  # SIOCSIFADDR
                "16sHH4s8x", b"lo:1", socket.AF_INET, 0, socket.inet_aton("192.0.2.1")
            ),
        )
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
            fcntl.ioctl(
                s,
                0x8916,
                struct.pack("16sIi", socket.inet_pton(socket.AF_INET6, "2001:db8::1"), 128, lo),
            )
        with open("/etc/hosts") as f:
            hosts = f.read()
        if "::1" not in hosts and libc.unshare(0x20000) == 0:  # CLONE_NEWNS
            libc.mount(None, b"/", None, 0x44000, None)  # REC | PRIVATE
            fd, name = tempfile.mkstemp()
            with open(fd, "w") as f:
                f.write(hosts + "\n::1 localhost ip6-localhost\n")
            os.chmod(name, 0o644)
            libc.mount(name.encode(), b"/etc/hosts", None, 0x1000, None)
            os.unlink(name)
    except OSError:
        pass  # no IPv6: the tests skip it
    return "own (loopback only)"


def restore_sigint():
    """A parent that runs as a shell's background job passes on an ignored SIGINT,
    with which _thread.interrupt_main() and Ctrl-C tests cannot work."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for sig in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD, signal.SIGALRM):
        signal.signal(sig, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def resolve(spec):
    """Return the module under test and a callable that makes its loop."""
    name, _, attr = spec.partition(":")
    module = importlib.import_module(name)
    if attr:
        obj = module
        for part in attr.split("."):
            obj = getattr(obj, part)
        return module, obj
    if name == "asyncio":
        # asyncio.new_event_loop() would ask the policy that we patch
        return module, module.SelectorEventLoop
    for attr in ("new_event_loop", "Loop", "EventLoop"):
        if callable(getattr(module, attr, None)):
            return module, getattr(module, attr)
    if hasattr(module, "EventLoopPolicy"):
        return module, lambda: module.EventLoopPolicy().new_event_loop()
    raise SystemExit(f"{name} has no new_event_loop, Loop, EventLoop or EventLoopPolicy")


class Factory:
    """Makes and counts loops under test.  An instance, not a function, so that
    it stays unbound as a class attribute."""

    def __init__(self, make):
        self.make, self.made = make, 0

    def __call__(self, *args, **kwargs):
        self.made += 1
        return self.make()


FACTORY = None


def install(factory):
    """Make asyncio.new_event_loop(), asyncio.run(), Runner and EventLoop yield
    the loop under test, even after a test resets the policy."""
    import asyncio
    import asyncio.unix_events as ue

    for name in ("_UnixDefaultEventLoopPolicy", "_DefaultEventLoopPolicy"):
        policy = getattr(ue, name, None)
        if policy is not None:
            policy._loop_factory = factory
    if hasattr(asyncio, "EventLoop"):  # 3.12.1+
        asyncio.EventLoop = factory


def relay_logger():
    """Some tests replace asyncio.base_events.logger by a mock and examine what
    the loop logged.  The contract is that the loop logs to the 'asyncio'
    logger: forward its records to the mock."""
    from asyncio import base_events
    from asyncio.log import logger

    def relay(method):
        real = getattr(logger, method)

        def call(*args, **kwargs):
            now = base_events.logger
            if now is not logger:
                return getattr(now, method)(*args, **kwargs)
            return real(*args, **kwargs)

        setattr(logger, method, call)

    for method in ("debug", "info", "warning", "error", "exception", "critical"):
        relay(method)


def adapt_utils(utils):
    """TestCase.close_loop reads the private loop._default_executor; use the
    public call instead on loops without that attribute."""
    stock = utils.TestCase.close_loop

    def close_loop(loop):
        if hasattr(loop, "_default_executor"):
            return stock(loop)
        if not loop.is_closed():
            with contextlib.suppress(NotImplementedError, AttributeError):
                loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    utils.TestCase.close_loop = staticmethod(close_loop)


def scaffold(loop, utils):
    """Some tests use private names only as scaffolding.  If the loop does not
    have them (and accepts attributes), add a stand-in; if it has the wake-up
    hooks that test_base_events replaces by mocks, because its BaseEventLoop
    has a mock selector, ignore the replacement."""
    hooked = [n for n in ("_write_to_self", "_process_events") if hasattr(type(loop), n)]
    if hooked:

        def shield(n):
            return property(lambda self: getattr(super(cls, self), n), lambda self, value: None)

        old = type(loop)
        cls = type(
            old.__name__,
            (old,),
            {
                "__module__": old.__module__,
                "__qualname__": old.__qualname__,
                **{n: shield(n) for n in hooked},
            },
        )
        with contextlib.suppress(TypeError):
            loop.__class__ = cls
    for name, value in (
        ("_run_once", lambda: utils.run_once(loop)),
        ("_stop_serving", lambda sock: loop.remove_reader(sock)),
    ):
        if not hasattr(loop, name):
            with contextlib.suppress(AttributeError):
                setattr(loop, name, value)
    return loop


# --------------------------------------------------------------------------
# classes
# --------------------------------------------------------------------------


def hooks(how, utils, module, factory):
    """Methods that make one of CPython's test classes run on the loop under test."""

    def make():
        return scaffold(factory(), utils)

    if how == "create_event_loop":
        return {"create_event_loop": lambda self: make()}
    if how == "new_loop":
        return {"new_loop": lambda self: make()}
    if how == "setup":

        def setUp(self):
            utils.TestCase.setUp(self)
            self.loop = make()
            self.set_event_loop(self.loop)

        return {"setUp": setUp}
    if how == "sendfile_setup":

        def setUp(self):
            self.loop = make()
            self.set_event_loop(self.loop)
            self.file = open(module.os_helper.TESTFN, "rb")  # noqa: SIM115
            self.addCleanup(self.file.close)
            utils.TestCase.setUp(self)

        return {"setUp": setUp}
    if how == "runner_loop":

        def new_loop(self):
            loop = make()
            loop.shutdown_ag_run = False

            async def shutdown_asyncgens():
                loop.shutdown_ag_run = True

            loop.shutdown_asyncgens = shutdown_asyncgens
            return loop

        return {"new_loop": new_loop}
    raise ValueError(how)


def lookup(module, utils, name):
    if name == "test_utils.TestCase":
        return utils.TestCase
    if name == "unittest.TestCase":
        return unittest.TestCase
    return getattr(module, name, None)


def subclass(module, name, bases, attrs):
    # __module__ is the test module's, so that its setUpModule/tearDownModule
    # apply.
    return type(name, bases, {"__module__": module.__name__, **attrs})


def loop_classes(modname, module, utils, factory):
    """{class name: class or LeftOut}"""
    spec = fam.MODULES.get(modname, {})
    out = {}
    for name, what in spec.items():
        if isinstance(what, fam.Loop):
            bases = [lookup(module, utils, b) for b in what.bases]
            if None in bases:
                continue  # not in this version
            attrs = hooks(what.how, utils, module, factory)
            out[name] = subclass(module, name, tuple(bases), attrs)
    for name, obj in vars(module).items():
        if not (isinstance(obj, type) and issubclass(obj, unittest.TestCase)):
            continue
        if obj.__module__ != module.__name__ or name in out:
            continue
        what = spec.get(name, fam.ASIS)
        if isinstance(what, fam.LeftOut):
            out[name] = what
        elif not isinstance(what, fam.Loop):
            out[name] = obj
    return out


def task_future_attribute(key, cls):
    """The attribute that a test class expects under this name, made from `cls`."""
    if key == "new_task":
        return lambda self, coro: cls(coro, loop=self.loop)
    if key == "_new_future":
        return lambda self: cls(loop=self.loop)
    if key == "_get_future_cls":
        return lambda self: cls
    return cls


def task_future_classes(modname, module, utils, target):
    import asyncio.futures as futures
    import asyncio.tasks as tasks

    T, F = getattr(target, "Task", None), getattr(target, "Future", None)
    kinds = {
        "T": T,
        "F": F,
        "PyT": tasks._PyTask,
        "PyF": futures._PyFuture,
        "CT": getattr(tasks, "_CTask", None),
        "CF": getattr(futures, "_CFuture", None),
    }

    def kind(key):
        if key.endswith("sub"):
            base = kinds[key[0]]
            return type("Sub" + base.__name__, (base,), {})
        return kinds[key]

    out = {}
    for mod, name, bases, attrs, sub in fam.TASK_FUTURE:
        if mod != modname:
            continue
        bases = [lookup(module, utils, b) for b in bases]
        if None in bases:
            continue
        if bases[0].__name__ == "FutureTests" and mod == "test_futures2":
            bases.append(unittest.IsolatedAsyncioTestCase)
        else:
            bases.append(utils.TestCase)
        ns = {}
        for key, val in attrs.items():
            cls = kind(val)
            ns[key] = task_future_attribute(key, cls)
            if key == "new_task":
                ns["current_task"] = staticmethod(tasks.current_task)
        if sys.version_info >= (3, 14):
            # Each kind of Task is listed only by the functions of its own implementation.
            prefix = "_py_" if attrs.get("Task") == "PyT" else ""
            for extra in ("all_tasks", "current_task"):
                ns.setdefault(extra, staticmethod(getattr(tasks, prefix + extra)))
        for gmod, source, test, onto in fam.GRAFT:
            if gmod == mod and onto == name:
                fn = getattr(getattr(module, source, None), test, None)
                if fn is not None:
                    ns[test] = fn
        cls = subclass(module, name, tuple(bases), ns)
        if sub:
            cls = module.add_subclass_tests(cls)
        out[name] = cls
    return out


def build(modname, request, target, factory):
    """[(family, class name, class or LeftOut)]"""
    module = importlib.import_module(f"test.test_asyncio.{modname}")
    utils = importlib.import_module("test.test_asyncio.utils")
    out = [("loop", n, c) for n, c in loop_classes(modname, module, utils, factory).items()]
    if request["task_future"]:
        out += [
            ("task-future", n, c)
            for n, c in task_future_classes(modname, module, utils, target).items()
        ]
    return out


def test_names(cls):
    return unittest.defaultTestLoader.getTestCaseNames(cls)


# --------------------------------------------------------------------------
# running
# --------------------------------------------------------------------------


class Emitter:
    def __init__(self, fd):
        self.fd, self.pid = fd, os.getpid()
        os.set_inheritable(fd, False)

    def __call__(self, **ev):
        if os.getpid() == self.pid:  # not from a forked child
            data = (json.dumps(ev) + "\n").encode()
            while data:
                data = data[os.write(self.fd, data) :]


class Result(unittest.TestResult):
    """Announces each test before it runs, then reports the outcome."""

    RANK: ClassVar = {"passed": 0, "skipped": 1, "failed": 2}

    def __init__(self, emit, cls_id):
        super().__init__()
        self.emit, self.cls_id = emit, cls_id
        self.id = None

    def startTest(self, test):
        super().startTest(test)
        self.id = f"{self.cls_id}.{test._testMethodName}"
        self.outcome, self.detail = "passed", ""
        self.made, self.t0 = FACTORY.made, time.monotonic()
        self.emit(ev="start", id=self.id)

    def note(self, outcome, detail):
        if self.id is None:  # setUpClass or setUpModule
            self.emit(ev="class", outcome=outcome, detail=detail)
        elif self.RANK[outcome] > self.RANK[self.outcome]:
            self.outcome, self.detail = outcome, detail

    @staticmethod
    def text(err):
        return "".join(traceback.format_exception(*err))[-4000:]

    def addError(self, test, err):
        self.note("failed", self.text(err))

    def addFailure(self, test, err):
        self.note("failed", self.text(err))

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.note("failed", self.text(err))

    def addSkip(self, test, reason):
        self.note("skipped", reason)

    def addExpectedFailure(self, test, err):
        pass

    def addUnexpectedSuccess(self, test):
        self.note("failed", "unexpected success")

    def stopTest(self, test):
        super().stopTest(test)
        self.emit(
            ev="end",
            id=self.id,
            outcome=self.outcome,
            detail=self.detail,
            loops=FACTORY.made - self.made,
            seconds=round(time.monotonic() - self.t0, 3),
        )
        self.id = None


def unknown_modules():
    """Test modules of the running version that are not listed in families.py."""
    package = importlib.import_module("test.test_asyncio")
    names = {module.name for module in pkgutil.iter_modules(package.__path__)}
    known = fam.MODULES.keys() | fam.LEFT_OUT_MODULES.keys()
    return sorted(name for name in names - known if name.startswith("test_"))


def collect(request, target, factory, emit, net):
    classes, left_out, skipped = [], [], []
    for modname in fam.MODULES:
        try:
            built = build(modname, request, target, factory)
        except unittest.SkipTest as exc:
            skipped.append((modname, str(exc)))
            continue
        except ModuleNotFoundError as exc:
            if exc.name == f"test.test_asyncio.{modname}":
                continue  # exists in other versions
            raise
        drop = fam.LEFT_OUT.get(modname, {})
        for family, name, cls in built:
            if isinstance(cls, fam.LeftOut):
                left_out.append((f"{modname}.{name}", cls.reason))
                continue
            why = drop.get(name, {}) if family == "loop" else {}
            tests = []
            for t in test_names(cls):
                tid = f"{modname}.{name}.{t}"
                if t in why and not request["run_left_out"]:
                    left_out.append((tid, why[t]))
                elif tid in fam.NEEDS_OWN_NET and net == "host":
                    left_out.append(
                        (tid, "names a public host, and the network is not isolated here")
                    )
                else:
                    tests.append(tid)
            if tests:
                # The family is part of the key: a name may occur in both halves.
                classes.append((family, f"{family}:{modname}.{name}", tests))
    emit(
        ev="plan",
        classes=classes,
        left_out=left_out,
        modules_skipped=skipped,
        modules_unknown=unknown_modules(),
        net=net,
        python="CPython " + sys.version.split()[0],
        loop=f"{request['loop']} ({getattr(target, '__version__', 'no version')})",
    )


def run(request, target, factory, emit):
    family, _, cls_id = request["cls"].partition(":")
    modname, _, name = cls_id.partition(".")
    built = {(f, n): c for f, n, c in build(modname, request, target, factory)}
    cls = built.get((family, name))
    if cls is None:
        raise SystemExit(f"no class {cls_id}")
    suite = unittest.TestSuite(cls(t.rpartition(".")[2]) for t in request["tests"])
    suite.run(Result(emit, cls_id))


def main():
    global FACTORY
    request = json.loads(sys.argv[1])
    sys.path[:0] = [p for p in request["path"] if p not in sys.path]
    faulthandler.enable()
    restore_sigint()
    emit = Emitter(request["fd"])
    net = isolate_network(request["net"])

    from test import support

    support.verbose = 0
    target, make = resolve(request["loop"])
    if request["task_future"]:
        for attr in ("Task", "Future"):
            if not isinstance(getattr(target, attr, None), type):
                raise SystemExit(f"--task-future: {request['loop']} has no class {attr}")
    FACTORY = Factory(make)
    import test.test_asyncio.utils as utils

    install(FACTORY)
    relay_logger()
    adapt_utils(utils)

    if request.get("collect"):
        collect(request, target, FACTORY, emit, net)
        return
    run(request, target, FACTORY, emit)
    # A failed test may leave threads behind that would block the exit.
    end = time.monotonic() + 5
    for t in threading.enumerate():
        if t is not threading.main_thread() and not t.daemon:
            t.join(max(0, end - time.monotonic()))
            if t.is_alive():
                sys.stderr.flush()
                os._exit(0)


if __name__ == "__main__":
    main()
