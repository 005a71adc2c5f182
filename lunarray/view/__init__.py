"""The interactive map: in the browser, and in notebooks."""

from __future__ import annotations

from lunarray.view.viewer import Viewer, explore, serve

__all__ = ["Viewer", "explore", "serve"]
