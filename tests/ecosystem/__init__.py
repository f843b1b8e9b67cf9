"""Real programs and other projects' test suites, on asyncio and on ferroloop."""
