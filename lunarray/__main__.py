"""``python -m lunarray`` is the ``lunarray`` command."""

from lunarray.cli import app

app()
