"""One program per file: `main(loop)` runs it, and raises if any check fails."""
