"""One program a file: `main(loop)` runs it, and raises if anything is not as it must be."""
