"""Makes ferroloop the loop of every interpreter that finds this directory on its path, children of
the tests included: of the default policy, and under the names that programs use for the class."""

import asyncio

import ferroloop

ferroloop.install()
asyncio.SelectorEventLoop = ferroloop.EventLoop
asyncio.EventLoop = ferroloop.EventLoop
