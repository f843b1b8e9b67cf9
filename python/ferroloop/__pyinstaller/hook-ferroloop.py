"""What PyInstaller cannot see: the modules that the extension module imports by name."""

# Those of the package; a test compares them with the sources.
hiddenimports = ["ferroloop._patches", "ferroloop.call_graph", "ferroloop.thread_pool"]
