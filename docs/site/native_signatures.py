"""Gives autodoc the signatures of the native classes, with types, from the package's stub.

At run time a native method has a docstring but no types; the stub has the types but no docstrings.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = "ferroloop."
STUB = "_ferroloop.pyi"

Signatures = dict[str, tuple[str, str]]


def _holds(test: ast.expr) -> bool:
    """Whether a condition of the stub holds: they compare `sys.version_info`."""
    return bool(eval(ast.unparse(test), {"sys": sys}))


def _functions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _functions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If):
            yield from _functions(node.body if _holds(node.test) else node.orelse, prefix)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name, node


def read_stub(source: str) -> Signatures:
    """Map each function and method, such as `Task.cancel`, to its parameters and its result."""
    signatures = {}
    for name, node in _functions(ast.parse(source).body):
        arguments = node.args
        if "." in name:
            (arguments.posonlyargs or arguments.args).pop(0)
        returns = ast.unparse(node.returns) if node.returns else ""
        signatures[name] = (f"({ast.unparse(arguments)})", returns)
    return signatures


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    import ferroloop

    signatures = read_stub((Path(ferroloop.__file__).parent / STUB).read_text())

    def process(
        app: Any, what: str, name: str, obj: Any, options: Any, parameters: str, returns: str
    ) -> tuple[str, str] | None:
        del app, what, options, parameters, returns
        # Python code has its types at run time.
        return None if hasattr(obj, "__code__") else signatures.get(name.removeprefix(PACKAGE))

    def unquote_addresses(
        app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
    ) -> None:
        del app, what, name, obj, options
        lines[:] = [re.sub(r"<(https?://[^>]+)>", r"\1", line) for line in lines]

    app.connect("autodoc-process-signature", process)
    app.connect("autodoc-process-docstring", unquote_addresses)
    return {"parallel_read_safe": True}
