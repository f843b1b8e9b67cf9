"""PyInstaller finds `hook-ferroloop.py` through the entry point `pyinstaller40` of this package."""

from pathlib import Path


def get_hook_dirs() -> list[str]:
    """Return the directories with hooks."""
    return [str(Path(__file__).parent)]
