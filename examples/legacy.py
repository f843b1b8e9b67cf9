"""The style of older programs: the program makes and runs its loop; a callback stops it."""

import asyncio
import warnings

warnings.simplefilter("ignore", DeprecationWarning)

try:
    loop = asyncio.get_event_loop_policy().get_event_loop()
except RuntimeError:  # from 3.14 on the policy makes no loop
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)

print("debug:", loop.get_debug(), "running:", loop.is_running(), "closed:", loop.is_closed())


async def greet(name: str) -> str:
    await asyncio.sleep(0.001)
    return f"hello {name}"


print(loop.run_until_complete(greet("world")))
tasks = [loop.create_task(greet(name)) for name in ("one", "two")]
print(loop.run_until_complete(asyncio.gather(*tasks)))
future = asyncio.ensure_future(greet("future"), loop=loop)
print(loop.run_until_complete(future))


def tick(count: int) -> None:
    print("tick", count)
    if count:
        loop.call_later(0.001, tick, count - 1)
    else:
        loop.stop()


loop.call_soon(tick, 3)
loop.run_forever()
try:
    loop.run_until_complete(42)
except TypeError as error:
    print("TypeError:", error)
loop.run_until_complete(loop.shutdown_asyncgens())
loop.close()
print("closed:", loop.is_closed())
coroutine = greet("a closed loop")
try:
    loop.run_until_complete(coroutine)
except RuntimeError as error:
    print("RuntimeError:", error)
coroutine.close()
