"""One file per public area; every test runs on asyncio and on ferroloop."""
