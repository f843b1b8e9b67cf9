"""System calls that fail: see README.md."""
