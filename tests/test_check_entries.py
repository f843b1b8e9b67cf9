"""`make lint` finds a class whose methods would not enter the section of its loop."""

import sys
from pathlib import Path

import pytest

# The checker is a program, not part of a package.
sys.path.append(str(Path(__file__).parent))

from check_entries import problems

CLASS = '#[pyclass(frozen, module = "m")]\n#[derive(Default)]\npub(crate) struct Thing {\n}\n'
METHODS = "#[pymethods]\nimpl Thing {\n    fn method(&self) {}\n}\n"
COLLECTED = "#[pymethods]\nimpl Thing {\n    fn __clear__(&self) {\n    }\n}\n"
DECLARED = "entered!(Thing);\n"
INSTALLED = "fn install() {\n    entries::install::<module::Thing>(py);\n}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CLASS, []),
        (CLASS + COLLECTED, []),
        (CLASS + METHODS, ["Thing has methods, and neither entries nor `without_section!`"]),
        (CLASS + METHODS + "without_section!(Thing);\n", []),
        (CLASS + METHODS + DECLARED + INSTALLED, []),
        (CLASS + METHODS + "impl entries::Entered for Thing {\n}\n" + INSTALLED, []),
        (
            CLASS + METHODS + DECLARED,
            ["the entries of Thing are not both declared and installed"],
        ),
        (
            CLASS + METHODS + DECLARED + INSTALLED + "without_section!(Thing);\n",
            ["`without_section!(Thing)` contradicts what the class is"],
        ),
        (
            METHODS,
            [
                "Thing has methods, but its definition was not found",
                "Thing has methods, and neither entries nor `without_section!`",
            ],
        ),
    ],
)
def test_what_is_found(tmp_path, text, expected):
    (tmp_path / "thing.rs").write_text(text)
    assert list(problems(tmp_path)) == expected


def test_classes_of_unit_tests_need_no_entries(tmp_path):
    (tmp_path / "thing.rs").write_text(
        f"fn f() {{}}\n\n#[cfg(test)]\nmod tests {{\n{CLASS}{METHODS}}}\n"
    )
    assert list(problems(tmp_path)) == []
