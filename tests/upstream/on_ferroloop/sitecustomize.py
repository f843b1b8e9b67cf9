"""Makes ferroloop the loop of every interpreter with this directory on its path, including children
of the tests: as the loop of the default policy, and under the names that programs use for the
class."""

import asyncio

import ferroloop

ferroloop.install()
asyncio.SelectorEventLoop = ferroloop.EventLoop
asyncio.EventLoop = ferroloop.EventLoop
