"""The documentation site: `make docs` builds it in build/docs/html and checks it (docs/build.py)."""

import os
import sys
from pathlib import Path

import hnetfast

DOCS = Path(__file__).resolve().parent
ROOT, BUILD = DOCS.parent, DOCS.parent / "build" / "docs"
sys.path[:0] = [str(DOCS / "extensions"), str(DOCS), str(ROOT)]  # the last for bench

from run_notebook import EXECUTED, digest_of_sources  # noqa: E402

project = "hnetfast"
author = "the authors of hnetfast"
copyright = author
release = version = hnetfast.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "api_names",
    "api_members",
    "mathml",
    "speed_ups",
]
exclude_patterns = ["Thumbs.db", ".DS_Store"]
templates_path = ["templates"]
nitpicky = True
nitpick_ignore = [("py:obj", "hnetfast.probabilistic.CRITERIA")]  # a constant has no page to link to

# Pages. Formulas become MathML, which browsers draw by themselves: nothing is loaded from elsewhere.
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
html_math_renderer = "mathml"

# Tutorials: executed once for each state of the library, without the user's settings of IPython.
SOURCES = digest_of_sources()
nb_execution_mode = "cache"
nb_execution_cache_path = str(BUILD / "executed" / SOURCES)
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_in_temp = True
os.environ["IPYTHONDIR"] = str(BUILD / "ipython")
_startup = BUILD / "ipython" / "profile_default" / "startup"
_startup.mkdir(parents=True, exist_ok=True)
(_startup / "outputs.ipy").write_text(
    "%matplotlib inline\nimport sys\nsys.stdout.flush_interval = 600  # what a cell prints is one output\n"
)

# Reference.
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_default_options = {"members": True, "inherited-members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
python_display_short_literal_types = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # in the signature; it cuts ``dict[str, int]`` at the comma
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"hnetfast {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}


def _note_sources(app, error):
    if error is None and EXECUTED.is_dir() and nb_execution_mode == app.config.nb_execution_mode:
        (EXECUTED / "sources").write_text(SOURCES)


def setup(app):
    """Note for which state of the library the tutorials have been executed (docs/run_notebook.py)."""
    app.connect("build-finished", _note_sources)
