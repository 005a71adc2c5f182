"""The page of the models: how each default was judged and where it fails, from the cards beside the weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lunarray

HERE = Path(__file__).parent / "models"
_PACKAGE = Path(lunarray.__file__).parent


def cards() -> list[Path]:
    """Every card that is shipped."""
    return sorted(p for p in _PACKAGE.glob("*/data/*.md"))


def write(app: Any = None) -> None:
    """One page a card, and one that leads to them."""
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    names = []
    for card in cards():
        name = f"{card.parent.parent.name}-{card.stem}"
        (HERE / f"{name}.md").write_text(card.read_text("utf-8"), encoding="utf-8")
        names.append(name)
    intro = (HERE.parent / "judged_intro.md").read_text("utf-8")
    tree = "\n".join(names)
    (HERE / "index.md").write_text(
        f"{intro}\n```{{toctree}}\n:maxdepth: 1\n\n{tree}\n```\n", encoding="utf-8"
    )
