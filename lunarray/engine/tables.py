"""Tables for notebooks and pages, of text that is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any


def html_table(
    head: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    caption: str = "",
    most: int | None = None,
) -> str:
    """An HTML table.

    `head`: titles of the columns, or none; `rows`: cells, of which those that are no text stand on the right;
    `caption`: above it; `most`: rows that are shown, the number of others being told. Returns HTML in which whatever
    the cells hold is text.
    """
    rows = list(rows)
    shown = rows if most is None else rows[:most]
    lines = ["<table>"]
    if caption:
        lines.append(f"<caption style='text-align:left'><b>{html.escape(caption)}</b></caption>")
    if head:
        lines.append("<tr>" + "".join(f"<th>{html.escape(str(h))}</th>" for h in head) + "</tr>")
    for row in shown:
        cells = "".join(
            f"<td{' style=text-align:left' if isinstance(c, str) else ' class=n'}>{html.escape(str(c))}</td>"
            for c in row
        )
        lines.append(f"<tr>{cells}</tr>")
    if len(rows) > len(shown):
        width = max(len(head), *(len(row) for row in shown), 1)
        lines.append(f"<tr><td colspan={width}>and {len(rows) - len(shown)} more</td></tr>")
    return "\n".join([*lines, "</table>"])
