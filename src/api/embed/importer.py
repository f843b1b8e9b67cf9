"""Finds the Python modules of ferroloop inside the program that embeds it."""

import importlib.abc
import importlib.util
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any


class NativeLoader(importlib.abc.Loader):
    """Loads the native module, which is part of the program."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the program has initialised it."""


class EmbeddedImporter(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports modules whose sources are part of the program."""

    def __init__(self, sources: Mapping[str, str], native: ModuleType) -> None:
        self._sources = sources
        self._native = native

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name == self._native.__name__:
            # Imported like any other module, so that it becomes an attribute of the package.
            return ModuleSpec(name, NativeLoader(self._native), origin="built-in")
        if name not in self._sources:
            return None
        spec = importlib.util.spec_from_loader(name, self, origin=self._file(name))
        if spec is not None:
            spec.has_location = True
        return spec

    def is_package(self, name: str) -> bool:
        return any(other.startswith(f"{name}.") for other in self._sources)

    def get_source(self, name: str) -> str:
        try:
            return self._sources[name]
        except KeyError:
            raise ImportError(f"{name} is not part of the program", name=name) from None

    def get_code(self, name: str) -> CodeType:
        # Not in angle brackets: tracebacks then show the source, by way of this loader.
        return compile(self.get_source(name), self._file(name), "exec", dont_inherit=True)

    def _file(self, name: str) -> str:
        return "embedded/" + name.replace(".", "/") + ("/__init__" * self.is_package(name)) + ".py"


def install(sources: Mapping[str, str], native: ModuleType) -> None:
    """Prefer these sources to what is installed: they belong to the native code."""
    sys.meta_path.insert(0, EmbeddedImporter(sources, native))
