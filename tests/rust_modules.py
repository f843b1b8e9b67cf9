"""Reads the modules of a Rust crate, and which paths are in them, from its source.

The source is read token by token: comments and strings are no code, and of modules with
`#[cfg(test)]` only the modules that they declare are read. What is not understood is kept as a
problem. Standard library only.
"""

import itertools
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class NotUnderstoodError(Exception):
    """A piece of Rust that this program cannot read."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


class Problem(NamedTuple):
    """What is wrong with a file, and where."""

    file: Path
    line: int
    text: str


class Token(NamedTuple):
    """A word, a literal or a punctuation mark."""

    kind: str
    text: str
    line: int


TOKEN = re.compile(
    r"""
    (?P<space> \s+ | //[^\n]* )
  | (?P<comment> /\* )
  | (?P<raw> [bc]?r(?P<hashes>\#*)"(?s:.*?)"(?P=hashes) )
  | (?P<string> [bc]?"(?:[^"\\]|\\(?s:.))*" )
  | (?P<char> b?'(?:[^'\\\n] | \\u\{[0-9a-fA-F_]+\} | \\x[0-9a-fA-F]{2} | \\.)' )
  | (?P<lifetime> '(?:r\#)?[^\W\d]\w* )
  | (?P<number> \d\w*(?:\.\d\w*)? )
  | (?P<name> (?:r\#)?[^\W\d]\w* )
  | (?P<mark> :: | [-+*/%^!&|=<>@.,;:\#$?~()\[\]{}] )
    """,
    re.VERBOSE,
)
COMMENT_EDGE = re.compile(r"/\*|\*/")


def _end_of_comment(text: str, start: int, line: int) -> int:
    """Where the block comment ends that begins at `start`; they nest."""
    depth = 0
    for edge in COMMENT_EDGE.finditer(text, start):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    raise NotUnderstoodError(line, "a comment does not end")


def tokens_of(text: str) -> list[Token]:
    """The tokens of Rust source without comments.

    Raises:
        NotUnderstoodError: something is no token.
    """
    tokens: list[Token] = []
    line, start = 1, 0
    while start < len(text):
        match = TOKEN.match(text, start)
        if match is None:
            raise NotUnderstoodError(line, f"no token of Rust: {text[start : start + 20]!r}")
        kind, end = match.lastgroup or "", match.end()
        if kind == "comment":
            end = _end_of_comment(text, start, line)
        elif kind != "space":
            tokens.append(Token(kind, match.group(), line))
        line += text.count("\n", start, end)
        start = end
    return tokens


def partners_of(tokens: Sequence[Token]) -> dict[int, int]:
    """The index of the closing bracket for that of each opening one, and the reverse.

    Raises:
        NotUnderstoodError: they are not balanced.
    """
    partners: dict[int, int] = {}
    opened: list[int] = []
    for index, token in enumerate(tokens):
        if token.text in ("(", "[", "{"):
            opened.append(index)
        elif token.text in (")", "]", "}"):
            pair = (tokens[opened[-1]].text if opened else "") + token.text
            if pair not in ("()", "[]", "{}"):
                raise NotUnderstoodError(token.line, f"unbalanced {token.text}")
            partners[index] = opened.pop()
            partners[partners[index]] = index
    if opened:
        raise NotUnderstoodError(tokens[opened[-1]].line, "a bracket is not closed")
    return partners


class Mention(NamedTuple):
    """A path somewhere in a file."""

    file: Path
    line: int
    segments: tuple[str, ...]
    # It goes on with what is no name, as a parameter of a macro.
    cut: bool = False

    def __str__(self) -> str:
        return "::".join(self.segments)


@dataclass(eq=False)
class Module:
    """A module of the crate."""

    path: tuple[str, ...]
    # The path of the module that is the whole file.
    file_path: tuple[str, ...]
    parent: "Module | None" = None
    children: dict[str, "Module"] = field(default_factory=dict)
    # Names that are declared here.
    items: set[str] = field(default_factory=set)
    # Names that come by a `use`, those in functions included, and all that come by `*`.
    imports: dict[str, list[Mention]] = field(default_factory=lambda: defaultdict(list))
    globs: list[Mention] = field(default_factory=list)
    # The paths of `use` items, those in code, and those of `pub(in path)`.
    uses: list[Mention] = field(default_factory=list)
    paths: list[Mention] = field(default_factory=list)
    scopes: list[Mention] = field(default_factory=list)
    # Where include!() is.
    includes: list[Problem] = field(default_factory=list)

    def all(self) -> Iterator["Module"]:
        """This module and all inside of it."""
        yield self
        for child in self.children.values():
            yield from child.all()


TYPES = frozenset({"struct", "enum", "union", "trait"})
ITEMS = TYPES | {"fn", "type", "const", "static"}
QUALIFIERS = frozenset({"fn", "unsafe", "async", "extern", "mut"})
RELATIVE = ("self", "super")
ROOTED = ("crate", *RELATIVE)


class _Reader:
    """Reads one file into its modules."""

    def __init__(self, crate: "Crate", file: Path) -> None:
        self.crate = crate
        self.file = file
        self.tokens = [*tokens_of(file.read_text()), Token("end", "", 0)]
        self.partners = partners_of(self.tokens)
        # Where the attribute and the macro end that are being read.
        self.end_of_attribute = self.end_of_macro = 0

    def _text(self, index: int) -> str:
        return self.tokens[index].text if index >= 0 else ""

    def _is_name(self, index: int) -> bool:
        return self.tokens[index].kind == "name"

    def _follows(self, index: int, *texts: str) -> bool:
        """Whether these tokens stand from `index` on."""
        return tuple(map(self._text, range(index, index + len(texts)))) == texts

    def _fail(self, index: int, text: str) -> NotUnderstoodError:
        return NotUnderstoodError(self.tokens[index].line, text)

    def _mention(self, index: int, path: tuple[str, ...], cut: bool = False) -> Mention:
        names = tuple(name.removeprefix("r#") for name in path)
        return Mention(self.file, self.tokens[index].line, names, cut)

    def read_file(self, module: Module, test: bool) -> None:
        """Read all of it, which is this module."""
        whole = self.file.name in ("lib.rs", "mod.rs")
        folder = self.file.parent if whole else self.file.with_suffix("")
        self._read(0, len(self.tokens) - 1, module, test, folder)

    def _read(self, index: int, end: int, module: Module, test: bool, folder: Path) -> None:
        """Read from `index` to `end`, all of one module; `folder` has the files of its modules."""
        depth = 0
        while index < end:
            kind, text, _ = self.tokens[index]
            depth += (text in ("(", "[", "{")) - (text in (")", "]", "}"))
            if kind == "name" and text == "mod":
                index = self._module(index, module, test, folder)
            elif kind == "name" and not test:
                self._declaration(index, depth, module)
                index = self._word(index, module)
            else:
                if text == "#" and not test:
                    self._attribute(index)
                if index < self.end_of_attribute and re.match('"(crate|super|self)::', text):
                    raise self._fail(index, f"a path in a string: {text}")
                index += 1

    def _attribute(self, index: int) -> None:
        """Note where an attribute ends, if one begins at `index`."""
        index += 2 if self._text(index + 1) == "!" else 1
        if self._text(index) == "[":
            self.end_of_attribute = self.partners[index]
            if self._text(index + 1) in ("macro_use", "macro_export"):
                raise self._fail(index, f"#[{self._text(index + 1)}]")

    def _attributes(self, index: int) -> Iterator[int]:
        """Where each attribute begins of the item whose keyword is at `index`; past `#[`."""
        index -= 1
        if self._text(index) == ")" and self._text(self.partners[index] - 1) == "pub":
            index = self.partners[index] - 1
        if self._text(index) == "pub":
            index -= 1
        while self._text(index) == "]" and self._text(self.partners[index] - 1) == "#":
            index = self.partners[index] - 1
            yield index + 2
            index -= 1

    def _module(self, index: int, parent: Module, test: bool, folder: Path) -> int:
        """Read the module whose `mod` is at `index`; the index behind it."""
        name, file = self._text(index + 1), None
        if not self._is_name(index + 1):
            if test:
                return index + 1
            raise self._fail(index, "a module without a name")
        for attribute in self._attributes(index):
            if self._follows(attribute, "path", "="):
                file = self.file.parent / self._text(attribute + 2).strip('"')
            elif self._follows(attribute, "cfg", "("):
                test = test or self._requires_test(attribute + 2)
            elif self._text(attribute) == "cfg_attr" and self._mentions_path(attribute):
                raise self._fail(index, "a module whose path depends on a cfg")
        name = name.removeprefix("r#")
        child = parent.children.get(name) or Module((*parent.path, name), parent.file_path, parent)
        # What only tests use is no module for the rest.
        if not test:
            parent.children[name] = child
        if self._text(index + 2) == "{":
            end = self.partners[index + 2]
            self._read(index + 3, end, child, test, folder / name)
            return end + 1
        child.file_path = child.path
        places = [file] if file else [folder / f"{name}.rs", folder / name / "mod.rs"]
        found = [place for place in places if place.is_file()]
        if len(found) != 1:
            raise self._fail(index, f"no file, or two of them, for mod {name}")
        self.crate.read(found[0], child, test)
        return index + 2

    def _mentions_path(self, attribute: int) -> bool:
        return "path" in map(self._text, range(attribute, self.partners[attribute - 1]))

    def _requires_test(self, start: int) -> bool:
        """Whether the condition of a cfg() that begins at `start` is false without `test`."""
        word = self._text(start)
        if word not in ("all", "any"):
            return word == "test" and self._text(start + 1) != "="
        parts, index, end = [start + 2], start + 2, self.partners[start + 1]
        while index < end:
            if self._text(index) == "(":
                index = self.partners[index]
            elif self._text(index) == "," and index + 1 < end:
                parts.append(index + 1)
            index += 1
        answers = map(self._requires_test, parts)
        return any(answers) if word == "all" else all(answers)

    def _declaration(self, index: int, depth: int, module: Module) -> None:
        """Note the name of what is declared by the word at `index`."""
        word, name = self._text(index), self._text(index + 1)
        if word == "macro_rules" and name == "!":
            self.end_of_macro = self.partners[index + 3]
            name = self._text(index + 2)
        elif not (word in ITEMS if depth == 0 else word in TYPES) or self._text(index - 1) == "*":
            return
        if name not in QUALIFIERS:
            module.items.add(name.removeprefix("r#"))

    def _word(self, index: int, module: Module) -> int:
        """Read what begins with the word at `index`; the index behind it."""
        word, before, after = (self._text(index + step) for step in (0, -1, 1))
        if word == "use" and after != "<":
            end = self._use_tree(index + 1, (), module)
            if self._text(end) != ";":
                raise self._fail(index, "a use that does not end with ;")
            return end + 1
        if word == "pub" and self._follows(index + 1, "(", "in"):
            path, end = self._path(index + 3)
            module.scopes.append(self._mention(index, path))
            return end
        if word == "extern" and after == "crate":
            raise self._fail(index, "extern crate")
        if word == "include" and after == "!":
            text = "include!() of what is not checked"
            module.includes.append(Problem(self.file, self.tokens[index].line, text))
        if before == "$" and word != "crate":
            return index + 1
        if after == "::":
            if word in RELATIVE and index < self.end_of_macro:
                raise self._fail(index, f"{word}:: in a macro is another module where it is used")
            path, end = self._path(index)
            cut = self._text(end) == "::" and self._text(end + 1) != "<"
            # `::name` is an external crate, which has the empty name in front.
            prefix = ("",) if before == "::" else ()
            module.paths.append(self._mention(index, (*prefix, *path), cut))
            return end
        if word in ("crate", "super") and not self._follows(index - 2, "pub", "(", word, ")"):
            raise self._fail(index, f"{word} without a path")
        return index + 1

    def _path(self, index: int) -> tuple[tuple[str, ...], int]:
        """The names of a path, and the index behind it."""
        segments = [self._text(index)]
        while self._text(index + 1) == "::" and self._is_name(index + 2):
            index += 2
            segments.append(self._text(index))
        return tuple(segments), index + 1

    def _use_tree(self, index: int, prefix: tuple[str, ...], module: Module) -> int:
        """Read a tree of a `use` item; the index behind it."""
        text = self._text(index)
        if self._follows(index, "$", "crate") or (text == "::" and not prefix):
            return self._use_tree(index + 1, () if text == "$" else ("",), module)
        if text == "{":
            end, index = self.partners[index], index + 1
            while index < end:
                index = self._use_tree(index, prefix, module)
                if self._text(index) == ",":
                    index += 1
                elif index != end:
                    raise self._fail(index, f"a use tree with {self._text(index)}")
            return end + 1
        if text == "*":
            module.globs.append(self._mention(index, prefix))
            module.uses.append(self._mention(index, prefix))
            return index + 1
        if not self._is_name(index):
            raise self._fail(index, f"a use tree with {text}")
        path = prefix if text == "self" and prefix else (*prefix, text)
        if self._text(index + 1) == "::":
            return self._use_tree(index + 2, path, module)
        mention = self._mention(index, path)
        module.uses.append(mention)
        renamed = self._text(index + 1) == "as"
        name = self._text(index + 2) if renamed else mention.segments[-1]
        module.imports[name.removeprefix("r#")].append(mention)
        return index + (3 if renamed else 1)


class Crate:
    """The modules of a crate.

    Args:
        source: the folder with lib.rs; Cargo.toml is beside it.
    """

    def __init__(self, source: Path) -> None:
        self.problems: list[Problem] = []
        # The module that each file is.
        self.files: dict[Path, Module] = {}
        manifest = tomllib.loads((source.parent / "Cargo.toml").read_text())
        names = [name.replace("-", "_") for name in manifest.get("dependencies", {})]
        self.external = {"", "std", "core", "alloc", *names}
        self.root = Module((), ())
        self.read(source / "lib.rs", self.root, test=False)
        for file in source.rglob("*.rs"):
            if file.resolve() not in self.files:
                self.problems.append(Problem(file, 1, "no module that is read declares this file"))

    def read(self, file: Path, module: Module, test: bool) -> None:
        """Read a file and those of the modules that it declares."""
        self.files[file.resolve()] = module
        try:
            _Reader(self, file).read_file(module, test)
        except NotUnderstoodError as error:
            self.problems.append(Problem(file, error.line, f"not understood: {error}"))

    def find(
        self,
        module: Module,
        path: Sequence[str],
        seen: frozenset[tuple[Module, str]] = frozenset(),
    ) -> list[Module | None]:
        """The innermost module that a path in `module` names, None for an external crate.

        There are several if a name comes by several `use` items, as for several systems, and
        none if the first name is not known. `seen` has the names that are being looked for.
        """
        here, rest = module, list(path)
        if rest[0] not in ROOTED:
            return self._find_name(module, rest, seen)
        if rest[0] == "crate":
            here = self.root
        while rest and rest[0] in ROOTED:
            if rest.pop(0) == "super":
                if here.parent is None:
                    return []
                here = here.parent
        return self._find_below(here, rest, seen)

    def _find_below(
        self, here: Module, rest: Sequence[str], seen: frozenset[tuple[Module, str]]
    ) -> list[Module | None]:
        """Follow a path down. What is no module belongs to the one above it, except in the root,
        whose names stand for what is elsewhere."""
        for index, name in enumerate(rest):
            if name not in here.children:
                return [here] if here.path else self._find_name(here, rest[index:], seen)
            here = here.children[name]
        return [here]

    def _find_name(
        self, module: Module, path: Sequence[str], seen: frozenset[tuple[Module, str]]
    ) -> list[Module | None]:
        """Find what begins with a name that is known in a module."""
        name, rest = path[0], path[1:]
        found: list[Module | None] = []
        if name in module.children:
            return self._find_below(module.children[name], rest, seen)
        if (module, name) not in seen:
            seen |= {(module, name)}
            if name in module.items:
                found.append(module)
            for mention in module.imports.get(name, ()):
                found += self.find(module, [*mention.segments, *rest], seen)
            for glob in [] if found else module.globs:
                for other in filter(None, self.find(module, glob.segments, seen)):
                    found += self._find_name(other, path, seen)
        return found or ([None] if name in self.external else [])


def functions_of(file: Path) -> Iterator[tuple[str, int, int]]:
    """Name, line and number of lines of each function of a file.

    Raises:
        NotUnderstoodError: the file is not understood.
    """
    tokens = tokens_of(file.read_text())
    partners = partners_of(tokens)
    for index, token in enumerate(tokens):
        # Else it is a type, as in `fn(u32)`.
        if token.kind == "name" and token.text == "fn" and tokens[index + 1].text != "(":
            parts = itertools.islice(tokens, index + 1, index + 3)
            name = "".join(part.text for part in parts if part.text not in ("(", "<"))
            end = index
            while tokens[end].text not in ("{", ";", ")", "]", "}"):
                end = partners[end] + 1 if tokens[end].text in ("(", "[") else end + 1
            if tokens[end].text == "{":
                yield name, token.line, tokens[partners[end]].line - token.line + 1
