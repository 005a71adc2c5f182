"""Build the documentation: ``python -m docs [folder]``, with warnings as errors.

Without a folder it goes to ``docs/_build/html``; open ``index.html`` there. ``pip install -e '.[docs]'`` brings what it
needs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sphinx.cmd.build import main

here = Path(__file__).parent
# Drawn without a screen; and nothing of a page's kernel goes to the network.
os.environ.setdefault("MPLBACKEND", "agg")
# No colours and moving bars in what commands print.
os.environ |= {"TERM": "dumb", "NO_COLOR": "1"}
# Cells that begin with ! find the command of this environment.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
out = sys.argv[1] if len(sys.argv) > 1 else str(here / "_build" / "html")
sys.exit(main(["-W", "--keep-going", "-q", "-j", "auto", "-b", "html", str(here), out]))
