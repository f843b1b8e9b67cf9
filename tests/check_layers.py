#!/usr/bin/env python3
"""Checks that the modules of the crate use only lower layers, and where unsafe code may be.

    python3 tests/check_layers.py [--arrows] [--heads] [--sizes]

The layers are those of docs/ARCHITECTURE.md. What the reader of the source (rust_modules.py) does
not understand is a complaint. Unit tests may use what they like. Standard library only.
"""

import argparse
import itertools
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rust_modules import (
    ROOTED,
    Crate,
    Mention,
    Module,
    NotUnderstoodError,
    Problem,
    functions_of,
    tokens_of,
)

# The root of the crate among the folders.
ROOT = "lib"


@dataclass(frozen=True)
class Rules:
    """What a folder may use and do.

    A folder is named by its path below `src`, as in ``executor/queue``; so is a module that is one
    file. What the table of layers does not name belongs to the longest path that it does name.
    """

    # From the lowest to the highest.
    layers: Sequence[Sequence[str]]
    # Folders of one layer of which the first may use the second.
    siblings: frozenset[tuple[str, str]] = frozenset()
    # Paths that a folder may use although they lead upwards.
    exceptions: frozenset[tuple[str, str]] = frozenset()
    # No Python in these: they are tested without an interpreter.
    pure: frozenset[str] = frozenset()
    unsafe: frozenset[str] = frozenset()
    # These may include!() code.
    generated: frozenset[str] = frozenset()

    @cached_property
    def height(self) -> Mapping[str, int]:
        """The layer of each folder."""
        return {name: height for height, names in enumerate(self.layers) for name in names}

    def folder(self, module: Module) -> str | None:
        """The folder of the table that a module belongs to."""
        path = module.file_path
        names = ["/".join(path[:length]) for length in range(len(path), 0, -1)] or [ROOT]
        return next((name for name in names if name in self.height), None)


RULES = Rules(
    layers=(
        ("ffi", "sys"),
        ("executor/queue", "interop", "logging", "metrics", "reactor", "write_side"),
        ("scheduler",),
        ("handle", "signals", "watchdog"),
        ("future", "subprocess"),
        ("streams",),
        ("executor", "task", "transport"),
        ("socket_calls", "tls", "api/futures"),
        ("event_loop", "api/net"),
        ("api",),
        (ROOT,),
    ),
    siblings=frozenset({("executor/queue", "reactor")}),
    pure=frozenset({"executor/queue", "metrics", "reactor", "sys", "write_side"}),
    unsafe=frozenset({"ffi", "sys"}),
    # build.rs makes the list of the Python package's sources.
    generated=frozenset({"api"}),
)

FILE_LINES = 500
FUNCTION_LINES = 60


class Check:
    """Compares a crate with the rules.

    Args:
        source: the folder with lib.rs; Cargo.toml is beside it.
    """

    def __init__(self, source: Path, rules: Rules = RULES) -> None:
        self.source = source
        self.rules = rules
        self.crate = Crate(source)
        self.problems = self.crate.problems
        # A folder and one that it uses; by which paths.
        self.arrows: dict[tuple[str, str], list[Mention]] = defaultdict(list)

    def run(self) -> list[Problem]:
        """All that is wrong."""
        for module in self.crate.root.all():
            self._check_module(module)
        self._check_table()
        for file, module in self.crate.files.items():
            self._check_file(file, module)
        for arrow in self.arrows:
            self._check_arrow(*arrow)
        self._check_circles()
        return sorted(set(self.problems))

    def _complain(self, mention: Mention, text: str) -> None:
        self.problems.append(Problem(mention.file, mention.line, text))

    def _check_table(self) -> None:
        """The rules name what is there and needed."""
        rules = self.rules
        folders = {rules.folder(module) for module in self.crate.files.values()}
        texts = [f"{name} is not there" for name in rules.height.keys() - folders]
        named = set(itertools.chain(rules.pure, rules.unsafe, rules.generated))
        texts += [f"{name} has a rule and no layer" for name in named - rules.height.keys()]
        texts += [f"{' -> '.join(pair)} is not used" for pair in rules.siblings - set(self.arrows)]
        used = {(user, str(path)) for (user, _), paths in self.arrows.items() for path in paths}
        texts += [f"{' -> '.join(pair)} is not used" for pair in rules.exceptions - used]
        self.problems += [Problem(self.source, 0, f"the rules: {text}") for text in texts]

    def _check_file(self, file: Path, module: Module) -> None:
        """A file has its layer, and unsafe code only where it may be, in tests too."""
        folder = self.rules.folder(module)
        if folder is None:
            self.problems.append(Problem(file, 1, "not in the table of layers"))
        if folder in self.rules.unsafe:
            return
        try:
            tokens = tokens_of(file.read_text())
        except NotUnderstoodError:
            return  # The crate has the problem already.
        where = " and ".join(sorted(self.rules.unsafe))
        self.problems += [
            Problem(file, token.line, f"unsafe code outside of {where}")
            for token in tokens
            if token.kind == "name" and token.text == "unsafe"
        ]

    def _check_module(self, module: Module) -> None:
        """Find the arrows of a module."""
        folder = self.rules.folder(module)
        everywhere = [(mention, True) for mention in module.uses]
        everywhere += [(mention, False) for mention in module.paths]
        for mention, is_use in everywhere:
            found = self.crate.find(module, mention.segments)
            # In code an unknown name is a type, a parameter or a crate: modules come by `use`.
            if not found and (is_use or mention.segments[0] in ROOTED):
                self._complain(mention, f"{mention}: the name is not known")
            if mention.cut and any(found):
                self._complain(mention, f"not understood: {mention}:: and what is no name")
            if "pyo3" in mention.segments and folder in self.rules.pure:
                self._complain(mention, f"{folder} must not know Python: {mention}")
            for used in filter(None, found):
                target = self.rules.folder(used)
                if folder and target and folder != target:
                    self.arrows[folder, target].append(mention)
        for mention in module.scopes:
            for around in self.crate.find(module, mention.segments) or [None]:
                if around is None or module.path[: len(around.path)] != around.path:
                    self._complain(mention, f"pub(in {mention}): no module around this one")
        if folder not in self.rules.generated:
            self.problems += module.includes

    def _check_arrow(self, user: str, used: str) -> None:
        """Whether a folder may use another one."""
        below, above = self.rules.height[used], self.rules.height[user]
        if below >= above and (user, used) not in self.rules.siblings:
            text = f"{user} (layer {above}) uses {used} (layer {below})"
        elif user in self.rules.pure and used not in self.rules.pure:
            text = f"{user} must not know Python, and {used} may"
        else:
            return
        for mention in self.arrows[user, used]:
            if (user, str(mention)) not in self.rules.exceptions:
                self._complain(mention, f"{text}: {mention}")

    def _check_circles(self) -> None:
        """No folder uses what leads back to it."""
        uses: dict[str, set[str]] = defaultdict(set)
        for (user, used), mentions in self.arrows.items():
            if {(user, str(mention)) for mention in mentions} - self.rules.exceptions:
                uses[user].add(used)
        known: set[frozenset[str]] = set()
        for start in sorted(uses):
            circle = shortest_circle(uses, start)
            if circle and frozenset(circle) not in known:
                known.add(frozenset(circle))
                first = self.arrows[circle[0], circle[1]][0]
                self._complain(first, f"a circle of folders: {' -> '.join(circle)}")


def shortest_circle(uses: Mapping[str, set[str]], start: str) -> list[str]:
    """The shortest way from a node of a graph back to it; empty if there is none."""
    ways, seen = [[start]], {start}
    for way in ways:
        for used in sorted(uses.get(way[-1], ())):
            if used == start:
                return [*way, start]
            if used not in seen:
                seen.add(used)
                ways.append([*way, used])
    return []


def head_problems(source: Path) -> Iterator[Problem]:
    """What the text at the head of a folder's mod.rs does not name, or names wrongly.

    A file is named as `` `name.rs` `` or by a link to its module, a folder as `` `name/` `` or so.
    """
    for file in sorted(source.rglob("mod.rs")):
        lines = file.read_text().split("\n")
        head = "\n".join(itertools.takewhile(lambda line: line.startswith("//!"), lines))
        for path in sorted(file.parent.iterdir()):
            name = f"{path.name}/" if path.is_dir() else path.name
            if path != file and f"`{name}`" not in head and f"[`{path.stem}`]" not in head:
                yield Problem(file, 1, f"the text at the head does not name `{name}`")
        for name in re.findall(r"`([\w/]+\.rs)`", head):
            if not (file.parent / name).is_file():
                yield Problem(file, 1, f"the text at the head names `{name}`, which is not there")


def size_problems(source: Path) -> Iterator[Problem]:
    """Files and functions that are too long, those of tests included."""
    for file in sorted(source.rglob("*.rs")):
        if (lines := len(file.read_text().splitlines())) > FILE_LINES:
            yield Problem(file, 1, f"{lines} lines, more than {FILE_LINES}")
        for name, line, lines in functions_of(file):
            if lines > FUNCTION_LINES:
                yield Problem(file, line, f"fn {name}: {lines} lines, more than {FUNCTION_LINES}")


def main() -> int:
    """Print all problems; 1 if there are any."""
    parser = argparse.ArgumentParser(description="Check the layers of the crate.")
    parser.add_argument("--arrows", action="store_true", help="list which folder uses which")
    parser.add_argument("--heads", action="store_true", help="does each mod.rs name its files?")
    parser.add_argument("--sizes", action="store_true", help="is a file or a function too long?")
    args = parser.parse_args()
    source = Path(__file__).resolve().parent.parent / "src"
    check = Check(source)
    problems = check.run()
    if args.arrows:
        for user, arrows in itertools.groupby(sorted(check.arrows), key=lambda arrow: arrow[0]):
            print(user, "->", ", ".join(used for _, used in arrows))
    if args.heads:
        problems += head_problems(source)
    if args.sizes:
        problems += size_problems(source)
    for file, line, text in problems:
        print(f"{file.resolve().relative_to(source.parent)}:{line}: {text}")
    if not problems:
        print("layers: fine")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
