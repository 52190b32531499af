"""Settings of Sphinx. The source folder is the root of the repository, so links hold there too."""

import re

import zsharp_jax

project = "zsharp_jax"
author = "The zsharp_jax authors"
release = version = zsharp_jax.__version__
copyright = f"{author}, Apache-2.0"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx-mathjax-offline",  # formulas without a network
]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "docs/api/*.rst",
    "notebooks/*.ipynb",
    "results/**/*.md",
    "results/*.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
]

nb_execution_mode = "off"  # the tests run the notebooks; the site shows the outputs they keep
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]

autosummary_generate = True
templates_path = ["docs/_templates"]  # autosummary looks from the source folder
napoleon_use_ivar = True
napoleon_attr_annotations = False
autodoc_typehints = "none"  # the text says shape, range and unit, which annotations do not
autodoc_preserve_defaults = True
maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"zsharp_jax {release}"
html_extra_path = ["_root"]
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}
html_show_sourcelink = False

PUBLIC = {name for name in dir(zsharp_jax) if not name.startswith("_")}


def setup(app):
    app.connect("autodoc-process-docstring", marked_as_code)


def marked_as_code(*event):
    """Docstrings have `code` in single backquotes and |z| for a size: RST reads both otherwise."""
    lines = event[-1]
    for i, line in enumerate(lines):
        if line.lstrip().startswith((">>>", "...")):
            continue
        words = re.split(r"(?<!`)(`[^`]+`)(?!`)", line)
        lines[i] = "".join(
            as_code(word[1:-1]) if k % 2 else re.sub(r"\|(?=\S)|(?<=\S)\|", r"\\|", word)
            for k, word in enumerate(words)
        )


def as_code(words):
    return f":obj:`~zsharp_jax.{words}`" if words in PUBLIC else f"``{words}``"
