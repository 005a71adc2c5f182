"""How the documentation is built: ``python -m docs`` does it, with warnings as errors.

Every code cell of a page runs while it is built, in a kernel of its own, with the samples that come with lunarray. The
reference is made from the docstrings (``docs/reference.py``), the gallery by running what lies in ``examples/``
(``docs/gallery.py``), the page of the models from their cards.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import docs.gallery
import docs.judged
import docs.reference
import lunarray

project = "lunarray"
author = "The lunarray developers"
copyright = author
version = release = lunarray.__version__

extensions = [
    "myst_nb",  # pages in Markdown whose cells run
    "sphinx.ext.autodoc",
    "numpydoc",  # docstrings as the house writes them
    "sphinx_design",  # cards and grids
    "sphinx_copybutton",
]
html_theme = "pydata_sphinx_theme"
html_title = f"lunarray {release}"
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": True,
    "header_links_before_dropdown": 7,
}
html_static_path: list[str] = []
exclude_patterns = ["_build", "judged_intro.md", "**.ipynb_checkpoints"]
nitpicky = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # cards link to files of the repository

# A cell that fails fails the build. Pages are executed again only if they or lunarray changed.
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # of a cell, s; two cores that others use too take long
nb_execution_in_temp = True
nb_merge_streams = True
nb_execution_show_tb = True
# Libraries that tell of their own future, and bars that a page cannot show moving.
nb_output_stderr = "remove"

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc's Parameters say them
numpydoc_show_class_members = False
numpydoc_xref_param_type = False


def setup(app):
    """Write the pages that are made, before Sphinx looks for pages."""
    app.connect("builder-inited", docs.reference.write)
    app.connect("builder-inited", docs.gallery.write)
    app.connect("builder-inited", docs.judged.write)
    return {"parallel_read_safe": True}
