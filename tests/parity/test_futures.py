"""Future: states, results, callbacks, awaiting, repr, finalizing, subclassing."""

import asyncio
import concurrent.futures
import contextvars
import gc
import pickle
import sys
import traceback
import types
import weakref

import pytest

VAR = contextvars.ContextVar("VAR", default="default")


def drain(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


def callback(future):
    """A done callback defined in this file."""


PLACE = f"{__file__}:{callback.__code__.co_firstlineno}"


@pytest.fixture
def future(loop):
    return loop.create_future()


def text(future):
    """repr() without debug mode's `created at ...`."""
    return repr(future).partition(" created at ")[0].removesuffix(">") + ">"


# --- making ------------------------------------------------------------------


def test_class(loop, flavour, future):
    assert isinstance(future, asyncio.Future)
    assert asyncio.isfuture(future)
    assert type(future) is flavour.Future
    assert type(future).__name__ == "Future"
    assert not isinstance(future, asyncio.Task)
    assert not asyncio.iscoroutine(future)


def test_made_by_its_class(loop, flavour):
    future = flavour.Future(loop=loop)
    assert future.get_loop() is loop
    assert future._loop is loop


def test_the_loop_is_keyword_only(loop, flavour):
    with pytest.raises(TypeError):
        flavour.Future(loop)


def test_made_without_a_loop_while_running(run, flavour):
    async def main():
        return flavour.Future().get_loop() is asyncio.get_running_loop()

    assert run(main())


@pytest.mark.skipif(sys.version_info < (3, 14), reason="a loop is made before 3.14")
def test_made_without_any_loop(flavour):
    with pytest.raises(RuntimeError):
        flavour.Future()


def test_new_futures_are_pending(future):
    assert not future.done()
    assert not future.cancelled()
    assert future._state == "PENDING"
    assert future._callbacks is None or future._callbacks == []
    assert future._result is None
    assert future._exception is None
    assert future._asyncio_future_blocking is False
    assert future._cancel_message is None
    assert future._log_traceback is False


# --- states ------------------------------------------------------------------


def test_result(future):
    assert future.set_result(42) is None
    assert future.done()
    assert not future.cancelled()
    assert future.result() == 42
    assert future.exception() is None
    assert future._state == "FINISHED"
    assert future._result == 42
    assert future.result() == 42


@pytest.mark.parametrize("value", [None, False, 0, (), StopIteration(1), ValueError()])
def test_any_value_is_a_result(future, value):
    future.set_result(value)
    assert future.result() is value


def test_exception(future):
    error = ValueError("x")
    future.set_exception(error)
    assert future.done()
    assert future.exception() is error
    with pytest.raises(ValueError, match="x") as caught:
        future.result()
    assert caught.value is error
    assert future._exception is error


def test_exception_class(future):
    future.set_exception(LookupError)
    assert type(future.exception()) is LookupError
    assert future.exception().args == ()


def test_exception_with_arguments_given_as_a_class(future):
    class Error(Exception):
        def __init__(self):
            super().__init__("made here")

    future.set_exception(Error)
    assert str(future.exception()) == "made here"


@pytest.mark.parametrize("thing", [42, "text", None, object(), int])
def test_no_exception(future, thing):
    with pytest.raises(TypeError) as caught:
        future.set_exception(thing)
    reference = asyncio.futures._CFuture(loop=future.get_loop())
    with pytest.raises(TypeError) as expected:
        reference.set_exception(thing)
    assert str(caught.value) == str(expected.value)
    assert not future.done()


def test_base_exceptions_are_accepted(future):
    future.set_exception(KeyboardInterrupt())
    assert isinstance(future.exception(), KeyboardInterrupt)


@pytest.mark.parametrize("error", [StopIteration, StopIteration(12)])
def test_stop_iteration_is_refused(future, error):
    reference = asyncio.futures._CFuture(loop=future.get_loop())
    try:
        reference.set_exception(error)
    except TypeError as error_of_asyncio:  # until 3.11
        expected = str(error_of_asyncio)
    else:
        expected = None
    if expected:
        with pytest.raises(TypeError) as caught:
            future.set_exception(error)
        assert str(caught.value) == expected
        assert str(caught.value) == (
            "StopIteration interacts badly with generators and cannot be raised into a Future"
        )
        return
    future.set_exception(error)
    ours, theirs = future.exception(), reference.exception()
    assert type(ours) is type(theirs) is RuntimeError
    assert str(ours) == str(theirs)
    assert isinstance(ours.__cause__, StopIteration)
    assert ours.__cause__ is ours.__context__
    assert ours.__cause__.args == theirs.__cause__.args
    del ours, theirs


@pytest.mark.parametrize("call", ["set_result", "set_exception"])
def test_settling_twice(future, call):
    value = ValueError() if call == "set_exception" else 1
    future.set_result(None)
    with pytest.raises(asyncio.InvalidStateError) as caught:
        getattr(future, call)(value)
    assert str(caught.value) == "invalid state"


@pytest.mark.parametrize("arguments", [(), (1, 2)])
def test_set_result_takes_one_argument(future, arguments):
    with pytest.raises(TypeError):
        future.set_result(*arguments)
    assert not future.done()


@pytest.mark.parametrize("call", ["set_result", "set_exception"])
def test_settling_a_cancelled_future(future, call):
    value = ValueError() if call == "set_exception" else 1
    future.cancel()
    with pytest.raises(asyncio.InvalidStateError) as caught:
        getattr(future, call)(value)
    assert str(caught.value) == "invalid state"


def test_result_of_a_pending_future(future):
    with pytest.raises(asyncio.InvalidStateError) as caught:
        future.result()
    assert str(caught.value) == "Result is not set."
    with pytest.raises(asyncio.InvalidStateError) as caught:
        future.exception()
    assert str(caught.value) == "Exception is not set."


def test_cancel(future):
    assert future.cancel() is True
    assert future.cancel() is False
    assert future.done()
    assert future.cancelled()
    assert future._state == "CANCELLED"
    for read in (future.result, future.exception):
        with pytest.raises(asyncio.CancelledError) as caught:
            read()
        assert caught.value.args == ()


def test_cancel_with_a_message(future):
    assert future.cancel("because") is True
    assert future._cancel_message == "because"
    with pytest.raises(asyncio.CancelledError) as caught:
        future.result()
    assert caught.value.args == ("because",)
    with pytest.raises(asyncio.CancelledError) as caught:
        future.exception()
    assert caught.value.args == ("because",)


def test_cancel_message_may_be_anything(loop):
    for message in (42, ["list"], None):
        future = loop.create_future()
        future.cancel(msg=message)
        with pytest.raises(asyncio.CancelledError) as caught:
            future.result()
        assert caught.value.args == (() if message is None else (message,))


def test_cancelling_a_done_future(future):
    future.set_result(1)
    assert future.cancel() is False
    assert not future.cancelled()
    assert future.result() == 1


def test_make_cancelled_error(future):
    future.cancel("m")
    error = future._make_cancelled_error()
    assert isinstance(error, asyncio.CancelledError)
    assert error.args == ("m",)


def test_the_state_cannot_be_assigned(future):
    with pytest.raises(AttributeError):
        future._state = "FINISHED"
    with pytest.raises(AttributeError):
        future._result = 1


def test_log_traceback_may_only_be_cleared(future):
    with pytest.raises(ValueError) as caught:
        future._log_traceback = True
    assert str(caught.value) == "_log_traceback can only be set to False"
    future._log_traceback = False
    future.set_exception(ValueError())
    assert future._log_traceback is True
    future.exception()
    assert future._log_traceback is False


def test_blocking_flag_may_be_set(future):
    future._asyncio_future_blocking = True
    assert future._asyncio_future_blocking is True
    future._asyncio_future_blocking = False
    assert future._asyncio_future_blocking is False


# --- callbacks -----------------------------------------------------------------


def test_callbacks_run_later_and_in_order(loop, future):
    seen = []
    for i in range(4):
        assert future.add_done_callback(lambda f, i=i: seen.append((i, f))) is None
    future.set_result(None)
    assert seen == []
    drain(loop)
    assert seen == [(i, future) for i in range(4)]


def test_callback_added_when_done(loop, future):
    seen = []
    future.set_result(None)
    future.add_done_callback(seen.append)
    assert seen == []
    drain(loop)
    assert seen == [future]


@pytest.mark.parametrize("settle", ["set_result", "set_exception", "cancel"])
def test_callbacks_of_every_outcome(loop, future, settle):
    seen = []
    future.add_done_callback(lambda f: seen.append(f.done()))
    getattr(future, settle)(ValueError())
    drain(loop)
    assert seen == [True]
    if settle == "set_exception":
        future.exception()


def test_removing_callbacks(loop, future):
    seen = []

    def one(f):
        seen.append(1)

    def two(f):
        seen.append(2)

    for function in (one, two, one, two, one):
        future.add_done_callback(function)
    assert future.remove_done_callback(one) == 3
    assert future.remove_done_callback(one) == 0
    assert future.remove_done_callback(print) == 0
    future.set_result(None)
    drain(loop)
    assert seen == [2, 2]


def test_removing_compares_by_equality(loop, future):
    class Equal:
        def __init__(self, number):
            self.number = number

        def __eq__(self, other):
            return isinstance(other, Equal) and self.number == other.number

        __hash__ = None

        def __call__(self, future):
            seen.append(self.number)

    seen = []
    for number in (1, 2, 3, 2):
        future.add_done_callback(Equal(number))
    assert future.remove_done_callback(Equal(2)) == 2
    future.set_result(None)
    drain(loop)
    assert seen == [1, 3]


def test_rare_arguments_of_callback_methods(loop, future):
    for refused in (
        lambda: future.add_done_callback(),
        lambda: future.add_done_callback(print, None),
        lambda: future.add_done_callback(print, more=None),
        lambda: future.add_done_callback(print, context=None, more=None),
        lambda: future.add_done_callback(fn=print),
        lambda: future.remove_done_callback(),
        lambda: future.remove_done_callback(print, print),
        lambda: future.remove_done_callback(print, more=None),
        lambda: future.cancel(None, None),
        lambda: future.cancel(more=None),
    ):
        with pytest.raises(TypeError):
            refused()
    context = contextvars.copy_context()
    keyword = "".join(["con", "text"])  # not interned
    seen = []
    for arguments in ({keyword: context}, {"context": context}, {keyword: context}):
        future.add_done_callback(lambda f: seen.append(VAR.get()), **arguments)
    assert [known is context for _, known in future._callbacks] == [True] * 3
    context.run(VAR.set, "set")
    assert future.cancel(msg="text")
    assert not future.cancel()
    drain(loop)
    assert seen == ["set"] * 3
    with pytest.raises(asyncio.CancelledError, match="text"):
        future.result()


@pytest.mark.parametrize("others", [0, 1, 3])
def test_removing_considers_a_callback_equal_to_itself(loop, future, others):
    """Whatever its `__eq__` returns, as containers do."""

    class Unequal:
        def __eq__(self, other):
            return False

        __hash__ = None

        def __call__(self, future):
            seen.append(self)

    seen = []
    callbacks = [Unequal() for _ in range(1 + others)]
    for each in callbacks:
        future.add_done_callback(each)
    assert future.remove_done_callback(Unequal()) == 0
    assert future.remove_done_callback(callbacks[others]) == 1
    future.set_result(None)
    drain(loop)
    assert [id(each) for each in seen] == [id(each) for each in callbacks[:others]]


def test_removing_callbacks_when_done(loop, future):
    seen = []
    future.add_done_callback(seen.append)
    future.set_result(None)
    assert future.remove_done_callback(seen.append) == 0
    drain(loop)
    assert seen == [future]


def test_callback_list_read_by_libraries(loop, future):
    context = contextvars.copy_context()
    future.add_done_callback(callback, context=context)
    assert future._callbacks == [(callback, context)]
    future.add_done_callback(len, context=context)
    assert future._callbacks == [(callback, context), (len, context)]
    assert future.remove_done_callback(len) == 1
    future.cancel()
    drain(loop)


def test_callbacks_have_their_context(loop, future):
    seen = []
    context = contextvars.copy_context()
    context.run(VAR.set, "given")
    future.add_done_callback(lambda f: seen.append(VAR.get()), context=context)
    token = VAR.set("current")
    future.add_done_callback(lambda f: seen.append(VAR.get()))
    VAR.reset(token)
    future.set_result(None)
    future.add_done_callback(lambda f: seen.append(VAR.get()), context=context)
    drain(loop)
    assert seen == ["given", "current", "given"]


def test_context_is_keyword_only(future):
    with pytest.raises(TypeError):
        future.add_done_callback(callback, contextvars.copy_context())
    with pytest.raises(TypeError):
        future.add_done_callback()


def test_callback_that_adds_and_removes(loop, future):
    seen = []

    def first(f):
        seen.append("first")
        f.add_done_callback(lambda f: seen.append("late"))
        f.remove_done_callback(second)

    def second(f):
        seen.append("second")

    future.add_done_callback(first)
    future.add_done_callback(second)
    future.set_result(None)
    drain(loop)
    drain(loop)
    assert seen == ["first", "second", "late"]


# --- awaiting ------------------------------------------------------------------


def test_await(loop, future):
    async def main():
        return await future

    loop.call_soon(future.set_result, 5)
    assert loop.run_until_complete(main()) == 5


def test_await_of_a_done_future_does_not_suspend(loop, future):
    future.set_result(3)

    async def main():
        loop.call_soon(order.append, "loop")
        order.append(await future)

    order = []
    loop.run_until_complete(main())
    assert order[0] == 3


def test_await_driven_manually(future):
    iterator = future.__await__()
    assert iter(iterator) is iterator
    assert next(iterator) is future
    assert future._asyncio_future_blocking is True
    with pytest.raises(RuntimeError) as caught:
        next(iterator)
    assert str(caught.value) == "await wasn't used with future"
    future._asyncio_future_blocking = False


def test_await_driven_manually_to_the_end(future):
    iterator = future.__await__()
    assert iterator.send(None) is future
    future.set_result("end")
    with pytest.raises(StopIteration) as caught:
        iterator.send(None)
    assert caught.value.value == "end"


@pytest.mark.parametrize("value", [(1, 2), None, StopIteration(3), [1]])
def test_results_that_look_like_stop_iteration_arguments(loop, future, value):
    future.set_result(value)

    async def main():
        return await future

    assert loop.run_until_complete(main()) is value
    with pytest.raises(StopIteration) as caught:
        next(iter(future))
    assert caught.value.value is value


def test_throwing_into_the_iterator(flavour, future):
    iterator = future.__await__()
    next(iterator)
    with pytest.raises(ZeroDivisionError, match="thrown"):
        iterator.throw(ZeroDivisionError("thrown"))
    expect_exhausted(iterator, flavour)


def test_closing_the_iterator(flavour, future):
    iterator = future.__await__()
    next(iterator)
    iterator.close()
    expect_exhausted(iterator, flavour)


def expect_exhausted(iterator, flavour):
    if flavour.is_asyncio and sys.version_info >= (3, 14):
        return  # 3.14.8 crashes there: its iterator uses the future after releasing it.
    with pytest.raises(StopIteration):
        next(iterator)


def test_iterating(loop, future):
    @types.coroutine
    def main():
        return (yield from future)

    loop.call_soon(future.set_result, 9)
    assert loop.run_until_complete(main()) == 9


def test_await_raises_with_the_traceback_of_each_await(loop, future):
    async def main():
        await future

    future.set_exception(ValueError("x"))
    lengths = []
    for _ in range(3):
        with pytest.raises(ValueError, match="x") as caught:
            loop.run_until_complete(main())
        lengths.append(len(traceback.extract_tb(caught.value.__traceback__)))
    assert lengths[0] == lengths[1] == lengths[2]
    del caught


def test_await_of_a_cancelled_future(loop, future):
    async def main():
        await future

    future.cancel("why")
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(main())


# --- repr ----------------------------------------------------------------------


def test_repr_by_state(loop):
    future = loop.create_future()
    assert text(future) == "<Future pending>"
    future.set_result([1, "two"])
    assert text(future) == "<Future finished result=[1, 'two']>"
    future = loop.create_future()
    future.set_exception(ValueError("x"))
    assert text(future) == "<Future finished exception=ValueError('x')>"
    future.exception()
    future = loop.create_future()
    future.cancel("not shown")
    assert text(future) == "<Future cancelled>"


def test_repr_of_long_results_is_shortened(loop, future):
    reference = asyncio.futures._CFuture(loop=loop)
    for thing in (future, reference):
        thing.set_result("x" * 1000)
    assert text(future) == text(reference)
    assert len(text(future)) < 200


@pytest.mark.parametrize("count", [1, 2, 3, 4, 10])
def test_repr_of_callbacks(loop, future, count):
    for _ in range(count):
        future.add_done_callback(callback)
    one = f"callback() at {PLACE}"
    expected = ", ".join([one] * count) if count <= 2 else f"{one}, <{count - 2} more>, {one}"
    assert text(future) == f"<Future pending cb=[{expected}]>"


def test_repr_of_odd_callbacks(loop, future):
    reference = asyncio.futures._CFuture(loop=loop)
    for thing in (future, reference):
        thing.add_done_callback(print)
        thing.add_done_callback(dict)
    assert text(future) == text(reference)


def test_repr_that_contains_itself(loop, future):
    future.set_result([future])
    assert text(future) == "<Future finished result=[...]>"


def test_repr_of_a_broken_result(loop, future):
    class Bad:
        def __repr__(self):
            raise LookupError("no repr")

    future.set_result(Bad())
    reference = asyncio.futures._CFuture(loop=loop)
    reference.set_result(future.result())

    def shown(thing):
        try:
            return text(thing).partition(" at 0x")[0]
        except LookupError as error:
            return str(error)

    assert shown(future) == shown(reference)


def test_repr_of_a_waited_future(run):
    async def main():
        future = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(wait(future))
        await asyncio.sleep(0)
        shown = text(future)
        future.set_result(None)
        await task
        return shown

    async def wait(future):
        await future

    assert run(main()) == "<Future pending cb=[Task.task_wakeup()]>"


# --- end of life -----------------------------------------------------------------


def test_weak_references(loop, future):
    gone = []
    reference = weakref.ref(future, gone.append)
    assert reference() is future
    assert gone == []


def test_weak_reference_is_cleared(loop):
    future = loop.create_future()
    gone = []
    reference = weakref.ref(future, gone.append)
    del future
    assert reference() is None
    assert gone == [reference]


def test_unretrieved_exception_is_reported_with_context(loop):
    reported = []
    loop.set_exception_handler(lambda loop, context: reported.append(context))
    future = loop.create_future()
    error = ZeroDivisionError()
    future.set_exception(error)
    shown = repr(future)
    del future
    loop.set_exception_handler(None)
    (context,) = reported
    assert context["message"] == "Future exception was never retrieved"
    assert context["exception"] is error
    assert repr(context["future"]) == shown
    assert ("source_traceback" in context) is loop.get_debug()
    reported.clear()


def test_unretrieved_exception_is_reported_once(loop, log):
    kept = []
    loop.set_exception_handler(lambda loop, context: kept.append(context["future"]))
    future = loop.create_future()
    future.set_exception(ZeroDivisionError())
    del future
    assert len(kept) == 1
    kept.clear()
    loop.set_exception_handler(None)
    gc.collect()
    assert kept == []
    assert log.messages() == []


def test_unretrieved_exception_in_a_cycle(loop, log):
    future = loop.create_future()
    error = ZeroDivisionError()
    error.future = future
    future.set_exception(error)
    del future, error
    gc.collect()
    (message,) = log.messages()
    assert message.startswith("Future exception was never retrieved\nfuture: <Future finished ")


def test_await_counts_as_retrieving(loop, future, log):
    async def main():
        with pytest.raises(ZeroDivisionError):
            await future

    future.set_exception(ZeroDivisionError())
    loop.run_until_complete(main())
    gc.collect()
    assert log.messages() == []


@pytest.mark.parametrize("where", ["result", "callback", "attribute", "exception"])
def test_cycles_are_collected(loop, flavour, where):
    class Sub(flavour.Future):
        pass

    future = Sub(loop=loop)
    gone = weakref.ref(future)
    if where == "result":
        future.set_result(future)
    elif where == "callback":
        future.add_done_callback(lambda f, me=future: me)
    elif where == "attribute":
        future.me = future
    else:
        error = ValueError()
        error.me = future
        future.set_exception(error)
        future.exception()
        del error
    del future
    gc.collect()
    assert gone() is None


def test_results_are_released(loop):
    class Thing:
        pass

    thing = Thing()
    gone = weakref.ref(thing)
    future = loop.create_future()
    future.set_result(thing)
    del thing
    assert gone() is not None
    del future
    assert gone() is None


def test_gc_sees_the_contents(loop, future):
    marker = ["marker"]
    future.set_result(marker)
    assert any(thing is marker for thing in gc.get_referents(future))


# --- subclasses and generics -----------------------------------------------------


def test_subclass(loop, flavour):
    class Sub(flavour.Future):
        def __init__(self, *, loop):
            super().__init__(loop=loop)
            self.extra = 1

        def result(self):
            return super().result() * 2

    future = Sub(loop=loop)
    assert isinstance(future, asyncio.Future)
    assert repr(future).startswith("<Sub pending")
    future.set_result(4)
    assert future.result() == 8
    assert future.extra == 1


def test_subclass_is_awaited(loop, flavour):
    class Sub(flavour.Future):
        def add_done_callback(self, function, *, context=None):
            super().add_done_callback(function, context=context)

    future = Sub(loop=loop)

    async def main():
        return await future

    loop.call_soon(future.set_result, 6)
    assert loop.run_until_complete(main()) == 6


def outcome_of(call):
    """The outcome of a call: its value, or its exception's class and text."""
    try:
        return call()
    except BaseException as error:
        return type(error), str(error)


def test_subclass_without_super_init(flavour):
    def outcomes(base):
        class Lazy(base):
            def __init__(self):
                pass

        calls = (
            lambda f: f.result(),
            lambda f: f.exception(),
            lambda f: f.get_loop(),
            lambda f: f.cancel(),
            lambda f: f.set_result(1),
            lambda f: f.set_exception(ValueError()),
            lambda f: f.add_done_callback(print),
            lambda f: f.remove_done_callback(print),
            lambda f: next(iter(f)),
            lambda f: f.done(),
            lambda f: f.cancelled(),
            lambda f: f._log_traceback,
            lambda f: f._make_cancelled_error().args,
        )
        return [outcome_of(lambda call=call: call(Lazy())) for call in calls]

    ours, theirs = outcomes(flavour.Future), outcomes(asyncio.futures._CFuture)
    assert ours == theirs
    assert (RuntimeError, "Future object is not initialized.") in theirs


def test_initializing_again(loop, flavour):
    future = flavour.Future(loop=loop)
    future.set_exception(RuntimeError("first life"))
    future.exception()
    if flavour.initializes_once:
        text = rf"^{flavour.Future.__module__}.Future object is already initialized$"
        with pytest.raises(RuntimeError, match=text):
            future.__init__(loop=loop)
        assert str(future.exception()) == "first life"
        return
    future.__init__(loop=loop)
    assert not future.done()
    future.set_result(2)
    assert future.result() == 2


def test_class_getitem(flavour):
    alias = flavour.Future[int]
    assert isinstance(alias, types.GenericAlias)
    assert alias.__origin__ is flavour.Future
    assert alias.__args__ == (int,)


def test_attributes_may_be_added_as_asyncio_allows(loop, flavour, future):
    reference = asyncio.futures._CFuture(loop=loop)
    outcome = []
    for thing in (future, reference):
        try:
            thing.anything = 1
            outcome.append(True)
        except AttributeError:
            outcome.append(False)
    assert outcome[0] == outcome[1]


def test_no_copy_no_pickle(future):
    with pytest.raises((TypeError, AttributeError)):
        pickle.dumps(future)


def test_futures_compare_by_identity(loop):
    one, two = loop.create_future(), loop.create_future()
    assert one != two
    assert len({one, two, one}) == 2


# --- with the rest of asyncio and concurrent.futures -----------------------------


def test_wrap_future(loop, flavour):
    outer = concurrent.futures.Future()
    inner = asyncio.wrap_future(outer, loop=loop)
    assert isinstance(inner, asyncio.Future)
    outer.set_result("wrapped")
    assert loop.run_until_complete(inner) == "wrapped"
    assert asyncio.wrap_future(inner) is inner


def test_wrap_future_propagates_cancel_inwards(loop):
    outer = concurrent.futures.Future()
    inner = asyncio.wrap_future(outer, loop=loop)
    inner.cancel()
    drain(loop)
    assert outer.cancelled()


def test_wrap_future_propagates_exceptions(loop):
    outer = concurrent.futures.Future()
    inner = asyncio.wrap_future(outer, loop=loop)
    outer.set_exception(concurrent.futures.TimeoutError("t"))
    with pytest.raises(TimeoutError):
        loop.run_until_complete(inner)


def test_ensure_future_is_the_future_itself(loop, future):
    assert asyncio.ensure_future(future, loop=loop) is future
    assert asyncio.ensure_future(future) is future


def test_public_names(flavour):
    reference = {n for n in dir(asyncio.futures._CFuture) if not n.startswith("_")}
    assert {n for n in dir(flavour.Future) if not n.startswith("_")} == reference
