"""`make lint` finds arrows between folders that point upwards, however a path is written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# The checker is a program that finds its parts beside itself.
sys.path.append(str(Path(__file__).parent))

from check_layers import Check, Rules, head_problems, size_problems
from rust_modules import tokens_of

RULES = Rules(
    layers=(("bottom", "other"), ("middle/core",), ("middle",), ("top",), ("lib",)),
    pure=frozenset({"middle/core"}),
    unsafe=frozenset({"bottom"}),
)
MODULES = "mod bottom;\nmod middle;\nmod other;\nmod top;\n"
FILES = {
    "lib.rs": MODULES,
    "bottom/mod.rs": "mod deep;\npub struct Ground;\n",
    "bottom/deep.rs": "pub fn dig() {}\n",
    "other.rs": "pub struct Other;\n",
    "middle/mod.rs": "mod core;\nmod side;\n",
    "middle/core/mod.rs": "",
    "middle/side.rs": "pub struct Side;\n",
    "top.rs": "pub mod inner { pub struct Inner; }\npub struct Top;\npub fn top() {}\n",
}


@pytest.fixture
def check(tmp_path):
    """A function that checks a crate of FILES, some of them with other contents."""

    def run(rules=RULES, **changed):
        (tmp_path / "Cargo.toml").write_text('[dependencies]\npyo3 = "1"\nfutures-io = "1"\n')
        source = tmp_path / "src"
        names = {name.replace("/", "_").removesuffix(".rs"): name for name in FILES}
        contents = {names.get(key, f"{key}.rs"): text for key, text in changed.items()}
        for name, text in (FILES | contents).items():
            file = source / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return [
            f"{os.path.relpath(file, source)}:{line}: {text}".removeprefix(".:0: ")
            for file, line, text in Check(source, rules).run()
        ]

    return run


def upward(line, path, user="middle", used="top", layers=(2, 3)):
    return (
        f"middle/side.rs:{line}: {user} (layer {layers[0]}) uses {used} (layer {layers[1]}): {path}"
    )


def test_the_repository_passes():
    program = Path(__file__).with_name("check_layers.py")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True)
    assert done.stdout == "layers: fine\n"


def test_arrows_that_point_down_are_fine(check):
    side = """
        use std::{fmt, io::{self, Write as _}};
        use futures_io::AsyncRead;
        use ::pyo3::prelude::*;
        use crate::{bottom::{self, Ground, deep::dig}, other::Other};
        pub(crate) use super::core as kernel;
        pub(in crate::middle) fn f() -> crate::bottom::Ground { bottom::Ground }
    """
    assert check(middle_side=side) == []


@pytest.mark.parametrize(
    ("code", "path"),
    [
        ("use crate::top::Top;", "crate::top::Top"),
        ("use crate::top;", "crate::top"),
        ("pub(super) use crate::top::*;", "crate::top"),
        ("use crate::{bottom::{Ground, deep::{self}}, top::{self as high}};", "crate::top"),
        ("use crate::{top::{inner::{Inner}},};", "crate::top::inner::Inner"),
        ("use {std::fmt, crate::top::Top as T};", "crate::top::Top"),
        ("use super::super::top::Top;", "super::super::top::Top"),
        ("use super::{super::{top::Top}};", "super::super::top::Top"),
        ("use self::super::super::top::{Top};", "self::super::super::top::Top"),
        ("fn f() { use crate::top::Top; }", "crate::top::Top"),
        ("fn f() { crate::top::top(); }", "crate::top::top"),
        ("fn f() { g(<crate::top::Top as Default>::default()); }", "crate::top::Top"),
        ("fn f(_: &super::super::top::Top) {}", "super::super::top::Top"),
        ("fn f() { let _ = Vec::<crate::top::Top>::new(); }", "crate::top::Top"),
        ("#[thing(base = crate::top::Top)] struct S;", "crate::top::Top"),
        ("mod deep { use super::super::super::top::Top; }", "super::super::super::top::Top"),
        ("mod deep { type T = crate::r#top::Top; }", "crate::top::Top"),
        ("macro_rules! m { () => { $crate::top::top() } }", "crate::top::top"),
        ('fn f() { g("\\"", \'"\', b\'\\\'\', r#"" /*"#); crate::top::top() }', "crate::top::top"),
        ("fn f<'a>(_: &'a u8) { /* a /* b */ c */ crate::top::top() } // '", "crate::top::top"),
        ("#[cfg(any(test, unix))] mod some { use crate::top::Top; }", "crate::top::Top"),
        ("#[cfg(not(test))] mod some { use crate::top::Top; }", "crate::top::Top"),
    ],
)
def test_an_arrow_that_points_up_is_found(check, code, path):
    assert check(middle_side=code) == [upward(1, path)]


def test_what_is_no_code_is_not_looked_at(check):
    side = """
        //! [`crate::top::Top`]
        // use crate::top::Top;
        /* use crate::top::Top; /* nested */ crate::top::top(); */
        f(["crate::top::Top", r##"crate::top "# "##, "\\" crate::top::top()"]);
        #[doc = "As `crate::top::Top`."]
        #[cfg(test)]
        #[allow(unused)]
        mod tests { use crate::top::Top; fn f() { $ } }
        #[cfg(all(unix, any(test, test)))]
        mod more;
    """
    found = check(middle_side=side, **{"middle/side/more": "use crate::top::Top;\n"})
    assert found == []


def test_a_name_of_the_root_stands_for_what_it_is(check):
    reexported = f"{MODULES}pub use top::{{Top, inner::*}};\npub use bottom::deep::dig as delve;\n"
    side = "use crate::{Top, delve};\nuse super::super::Inner;\nfn f() {}\n"
    assert check(lib=reexported, middle_side=side) == [
        upward(1, "crate::Top"),
        upward(2, "super::super::Inner"),
    ]


def test_an_item_of_the_root_is_above_everything(check):
    found = check(lib=f"{MODULES}fn root() {{}}\n", middle_side="\nfn f() { crate::root(); }\n")
    assert found == [upward(2, "crate::root", used="lib", layers=(2, 4))]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("use crate::absent::Name;", "crate::absent::Name: the name is not known"),
        ("fn f() { crate::absent() }", "crate::absent: the name is not known"),
        ("use absent::Name;", "absent::Name: the name is not known"),
        ("use super::super::super::Name;", "super::super::super::Name: the name is not known"),
        ("pub(in crate::top) fn f() {}", "pub(in crate::top): no module around this one"),
        ("macro_rules! m { ($n:ident) => { crate::$n() } }", "crate:: and what is no name"),
        (
            "macro_rules! m { ($n:ident) => { crate::top::$n() } }",
            "crate::top:: and what is no name",
        ),
        ("macro_rules! m { ($n:ident) => { use crate::$n; } }", "a use tree with $"),
        ("macro_rules! m { ($n:ident) => { mod $n; } }", "a module without a name"),
        ("macro_rules! m { () => { super::f() } }", "super:: in a macro is another module"),
        ("m! { crate::{top::Top} }", "crate:: and what is no name"),
        ("m!(crate);", "crate without a path"),
        ('#[thing(with = "crate::top::Top")] struct S;', "a path in a string"),
        ("#[macro_use] mod m {}", "#[macro_use]"),
        ('#[cfg_attr(unix, path = "unix.rs")] mod m;', "a module whose path depends on a cfg"),
        ("extern crate pyo3;", "extern crate"),
        ('include!("other.rs");', "include!() of what is not checked"),
        ("mod absent;", "no file, or two of them, for mod absent"),
        ("fn f() { (] }", "unbalanced ]"),
        ("fn f() {", "a bracket is not closed"),
        ("/* /* */", "a comment does not end"),
        ('const S: &str = "', "no token of Rust"),
    ],
)
def test_what_is_not_understood_is_a_complaint(check, code, text):
    assert any(text in complaint for complaint in check(middle_side=code))


def test_a_module_of_its_own_layer_inside_of_a_folder(check):
    assert check(middle_side="use super::core::Kernel;", middle_mod="mod core; mod side;") == []
    found = check(middle_core_mod="use super::side::Side;\nuse super::super::middle;\n")
    assert found == [
        f"middle/core/mod.rs:{line}: middle/core (layer 1) uses middle (layer 2): {path}"
        for line, path in ((1, "super::side::Side"), (2, "super::super::middle"))
    ]


def test_a_name_of_a_module_leads_on(check):
    """A path in code that begins with what a `use` or a `mod` has brought."""
    side = "use crate::top as high;\n\nfn f() { high::inner::g() }\n"
    assert upward(3, "high::inner::g") in check(middle_side=side)
    # A crate and a function of the same name are no module.
    assert check(middle_side="use std::top::top;\nfn f() { top::x() }\n") == []


def test_circles_are_found(check):
    rules = Rules(
        layers=(("bottom", "middle", "other", "top"), ("lib",)),
        siblings=frozenset({("bottom", "other"), ("other", "top"), ("top", "bottom")}),
    )
    found = check(
        rules,
        bottom_deep="use crate::other::Other;\n",
        other="use crate::top::Top;\n",
        top="\nuse crate::bottom::Ground;\npub struct Top;\n",
    )
    assert found == ["bottom/deep.rs:1: a circle of folders: bottom -> other -> top -> bottom"]


def test_exceptions_and_siblings_are_needed(check):
    rules = Rules(
        layers=(*RULES.layers, ("absent",)),
        siblings=frozenset({("bottom", "other")}),
        exceptions=frozenset({("middle", "crate::top::Top"), ("bottom", "crate::top::Top")}),
        pure=frozenset({"nowhere"}),
    )
    assert check(rules, middle_side="use crate::top::Top;\n") == [
        "the rules: absent is not there",
        "the rules: bottom -> crate::top::Top is not used",
        "the rules: bottom -> other is not used",
        "the rules: nowhere has a rule and no layer",
    ]


def test_files_without_a_layer_and_without_a_module(check):
    found = check(lib=f"{MODULES}mod fresh;\n", fresh="", **{"middle/forgotten": ""})
    assert found == [
        "fresh.rs:1: not in the table of layers",
        "middle/forgotten.rs:1: no module that is read declares this file",
    ]


def test_no_python_in_pure_folders(check):
    core = "use pyo3::prelude::*;\nfn f(_: ::pyo3::Python) {}\nuse crate::bottom::Ground;\n"
    assert check(middle_core_mod=core) == [
        "middle/core/mod.rs:1: middle/core must not know Python: pyo3::prelude",
        "middle/core/mod.rs:2: middle/core must not know Python: ::pyo3::Python",
        "middle/core/mod.rs:3: middle/core must not know Python, and bottom may: "
        "crate::bottom::Ground",
    ]


def test_unsafe_code_is_found(check):
    code = """
        #![forbid(unsafe_code)]
        fn f() { "unsafe"; /* unsafe */ unsafe
            { g() } }
        #[cfg(test)] mod tests { unsafe impl Send for S {} }
    """
    assert check(bottom_deep=code) == []
    assert check(middle_side=code, bottom_deep="") == [
        "middle/side.rs:3: unsafe code outside of bottom",
        "middle/side.rs:5: unsafe code outside of bottom",
    ]


def test_a_file_elsewhere_belongs_to_the_module_that_names_it(check, tmp_path):
    (tmp_path / "shared.rs").write_text("use crate::top::Top;\nfn f() { unsafe {} }\n")
    found = check(bottom_deep='#[path = "../../shared.rs"]\nmod shared;\n')
    assert len(found) == 1
    assert "bottom (layer 0) uses top (layer 3)" in found[0]


def test_tokens():
    text = "a::b 'x' 'a '\\u{1F600}' b'\\x7f' 0x1f..2.5 r#fn br##\"\"#\"## c\"\\\"\" 1.max(2)"
    assert [token.text for token in tokens_of(text)] == [
        *("a", "::", "b", "'x'", "'a", "'\\u{1F600}'", "b'\\x7f'", "0x1f", ".", ".", "2.5", "r#fn"),
        *('br##""#"##', 'c"\\""', "1", ".", "max", "(", "2", ")"),
    ]


def test_the_head_of_a_folder_names_its_files(check, tmp_path):
    check(middle_mod="//! `core/`: the core; `gone.rs`.\n//! [`other`]\nmod core;\n//! `side.rs`\n")
    found = head_problems(tmp_path / "src")
    assert [text for file, _, text in found if file.parent.name == "middle"] == [
        "the text at the head does not name `side.rs`",
        "the text at the head names `gone.rs`, which is not there",
    ]


def test_sizes(check, tmp_path):
    lines = "\n" * 59
    long_one = f"impl S {{\n    pub fn long<T>(f: fn(u8) -> T) {{\n{lines}}}\n}}\n"
    short = f"fn short() {{{lines}}}\nfn none(_: [u8; 2]);\n#[cfg(test)] mod t {{ {long_one} }}\n"
    check(middle_side=long_one + short, top="\n" * 501)
    assert [(file.name, line, text) for file, line, text in size_problems(tmp_path / "src")] == [
        ("side.rs", 2, "fn long: 61 lines, more than 60"),
        ("side.rs", 126, "fn long: 61 lines, more than 60"),
        ("top.rs", 1, "501 lines, more than 500"),
    ]
