"""The modules that the extension module imports by name, which PyInstaller cannot detect."""

# Modules of this package only; a test compares them with the sources.
hiddenimports = [
    "ferroloop._patches",
    "ferroloop.blocking",
    "ferroloop.call_graph",
    "ferroloop.thread_pool",
]
