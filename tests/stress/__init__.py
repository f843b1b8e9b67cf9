"""Thousands of connections that write, stall, reset, abort and end, and are replaced: does every
byte arrive, does every connection end, are all resources released? See __main__.py."""
