"""The loop's methods as objects: signatures, coroutine functions, bound methods, mocks."""

import asyncio
import functools
import gc
import inspect
import socket
import types
import weakref
from unittest import mock

import pytest

MODEL = asyncio.SelectorEventLoop
NAMES = sorted(
    name
    for name in dir(MODEL)
    if not name.startswith("_") and isinstance(getattr(MODEL, name), types.FunctionType)
)


@pytest.fixture
def loop(flavour):
    loop = flavour.new_loop()
    yield loop
    loop.close()


@pytest.mark.parametrize("name", NAMES)
def test_methods_look_like_asyncios(loop, name):
    method, model = getattr(loop, name), getattr(MODEL, name)
    expected = inspect.signature(model)
    assert str(inspect.signature(getattr(type(loop), name))) == str(expected)
    parameters = list(expected.parameters.values())[1:]
    assert str(inspect.signature(method)) == str(expected.replace(parameters=parameters))
    assert inspect.iscoroutinefunction(method) is inspect.iscoroutinefunction(model)
    assert inspect.ismethod(method)
    assert inspect.isroutine(method)
    assert method.__name__ == name
    assert method.__self__ is loop
    assert method.__doc__ is None or isinstance(method.__doc__, str)
    assert method == getattr(loop, name)
    assert hash(method) == hash(getattr(loop, name))
    assert weakref.WeakMethod(method)() == method
    assert functools.wraps(method)(lambda: None).__name__ == name


@pytest.mark.parametrize("name", ["call_soon", "call_later", "create_task", "time", "sock_recv"])
def test_names_are_those_of_asyncio(loop, name):
    method, model = getattr(loop, name), getattr(MODEL, name)
    assert method.__qualname__ == model.__qualname__
    assert method.__module__ == model.__module__
    assert repr(method).startswith(f"<bound method {model.__qualname__} of <")


def test_arguments_by_keyword(loop):
    called = []
    loop.call_soon(callback=functools.partial(called.append, 1))
    loop.call_later(delay=0.001, callback=functools.partial(called.append, 2))
    loop.call_at(when=loop.time(), callback=functools.partial(called.append, 3))
    loop.call_soon_threadsafe(callback=functools.partial(called.append, 4))
    bound = inspect.signature(loop.call_later).bind(delay=0.002, callback=loop.stop)
    loop.call_later(*bound.args, **bound.kwargs)
    loop.run_forever()
    assert sorted(called) == [1, 2, 3, 4]

    async def nothing():
        return 1

    bound = inspect.signature(loop.create_task).bind(coro=nothing())
    assert loop.run_until_complete(loop.create_task(*bound.args, **bound.kwargs)) == 1
    coroutine = nothing()
    assert loop.run_until_complete(future=loop.create_task(coro=coroutine)) == 1
    assert loop.run_until_complete(loop.run_in_executor(executor=None, func=int)) == 0
    loop.set_debug(enabled=loop.get_debug())
    loop.run_until_complete(loop.shutdown_default_executor())


def test_socket_methods_by_keyword(loop):
    async def main():
        one, other = socket.socketpair()
        with one, other:
            one.setblocking(False)
            other.setblocking(False)
            await loop.sock_sendall(sock=one, data=b"data")
            assert await loop.sock_recv(sock=other, n=2) == b"da"
            buffer = bytearray(2)
            assert await loop.sock_recv_into(sock=other, buf=buffer) == 2
            assert buffer == b"ta"

    loop.run_until_complete(main())


@pytest.mark.parametrize("name", ["call_soon", "create_task", "create_future", "get_debug"])
def test_a_method_of_the_class_needs_a_loop(loop, name):
    method = getattr(type(loop), name)
    for arguments in ((), (1,), (object(),), (asyncio.Future,)):
        with pytest.raises((TypeError, AttributeError)):
            method(*arguments)


@pytest.mark.parametrize("name", ["create_future", "get_debug", "time", "is_running", "stop"])
def test_methods_without_arguments_refuse_any(loop, name):
    for arguments, keywords in (((1,), {}), ((), {"wrong": 1})):
        with pytest.raises(TypeError):
            getattr(loop, name)(*arguments, **keywords)
    assert getattr(type(loop), name)(loop) is not NotImplemented
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_super_finds_the_methods(flavour):
    class Mine(asyncio.SelectorEventLoop if flavour.is_asyncio else flavour.module.EventLoop):
        def call_soon(self, callback, *args, context=None):
            self.calls = getattr(self, "calls", 0) + 1
            return super().call_soon(callback, *args, context=context)

        def create_task(self, coro, **keywords):
            return super().create_task(coro, **keywords)

    async def nothing():
        return 1

    loop = Mine()
    assert loop.run_until_complete(nothing()) == 1
    assert loop.calls
    loop.close()
    gc.collect()


def test_a_weak_method_dies_with_the_loop(flavour):
    loop = flavour.new_loop()
    method = weakref.WeakMethod(loop.call_soon)
    loop.close()
    alive = weakref.ref(loop)
    del loop
    gc.collect()
    assert alive() is None
    assert method() is None


def test_an_autospec_mock_of_the_loop_checks_calls(loop):
    double = mock.create_autospec(loop, instance=True)
    double.call_later(1, print, 2)
    double.call_later(delay=1, callback=print)
    with pytest.raises(TypeError):
        double.call_later()
    with pytest.raises(TypeError):
        double.create_future(1)
    assert isinstance(double.sock_recv, mock.AsyncMock)
    assert not isinstance(double.call_soon, mock.AsyncMock)
