"""Random sequences of steps on the links of reactions.py, on asyncio and on ferroloop."""

import asyncio
from asyncio import unix_events

import ferroloop

from .reactions import Scene
from .registrations import Registrations

# Early releases of 3.11 start reading regardless of what connection_made() did, even after close().
CAN_ACT_WHEN_MADE = hasattr(unix_events._UnixReadPipeTransport, "_add_reader")

PARTS = ("flow control", "callbacks", "answers", "reports", "log")


async def play(opener, first, plans, steps, patiently, pause=0):
    """Open a link, take the steps, and run everything to completion."""
    scene = Scene(opener, await Registrations.of_running_loop(), pause)
    plans = list(plans)
    await scene.open(*first)
    for which, what in steps:
        if what != "open":
            await scene.step(which, *what)
        elif plans:
            await scene.open(*plans.pop())
            await scene.turn()
            scene.check("open")
    await scene.finish(patiently)
    links = scene.links
    shown = [link.flow for link in links], [link.log for link in links]
    return *shown, [link.answers for link in links], scene.faults


def on(factory, log, *arguments):
    """The observable events of a run, and its faults."""
    with asyncio.Runner(loop_factory=factory) as runner:
        reported = []
        runner.get_loop().set_exception_handler(
            lambda loop, context: reported.append(
                f"{context['message']}: {context.get('exception')}"
            )
        )
        *seen, faults = runner.run(play(*arguments))
    # How often a failed write is reported depends on how many fit into the buffer before it.
    return (*seen, reported, set(log.messages())), faults


def known_defect(seen, faults):
    """Whether asyncio's faults are one of these known defects; its behaviour is then no reference.

    From 3.12 on close() with data buffered forgets `_write_ready`, which a write from
    resume_writing() registers again. abort() in resume_writing() can end a transport twice. Where
    connection_lost() is called by the event that wrote the last of the data, a transport takes what
    is written then or later.
    """
    _, _, answers, reports, _ = seen
    errors = [answer[-1] for link in answers for answer in link if isinstance(answer, tuple)]
    return any("'NoneType' object" in str(text) for text in errors + reports) or any(
        "after connection_lost()" in fault or "in connection_lost()" in fault for fault in faults
    )


def asyncio_is_reference(first, plans):
    """Whether this version of asyncio is a valid reference for links opened with these plans."""
    return CAN_ACT_WHEN_MADE or not any("made" in reactions for reactions, _ in (first, *plans))


def compare(counts, log, opener, first, plans, *arguments):
    arguments = (opener, first, plans, *arguments)
    found, faults = on(ferroloop.new_event_loop, log, *arguments)
    assert not faults
    if not asyncio_is_reference(first, plans):
        return
    expected, faults_of_asyncio = on(asyncio.SelectorEventLoop, log, *arguments)
    counts["runs"] += 1
    if known_defect(expected, faults_of_asyncio):
        return
    assert not faults_of_asyncio
    if found[0] == expected[0]:
        # Otherwise the kernel took the same bytes in fewer, larger calls, and had room for more.
        counts["compared"] += 1
        for what, theirs, ours in zip(PARTS, expected, found, strict=True):
            assert ours == theirs, what
