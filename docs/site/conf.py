"""Sphinx's settings; `build.py` runs it."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "docs" / "site"))

from ferroloop import __version__  # noqa: E402

project = "ferroloop"
author = "the ferroloop maintainers"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "native_signatures"]

# The pages link to headings by GitHub's names.
myst_heading_anchors = 4

# Docstrings mark code with single backticks.
default_role = "code"
napoleon_numpy_docstring = False
autodoc_mock_imports = ["gunicorn", "opentelemetry", "pytest"]
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 72
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"ferroloop {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
