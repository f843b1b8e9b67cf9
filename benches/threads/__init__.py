"""Loops in several threads of a free-threaded Python."""
