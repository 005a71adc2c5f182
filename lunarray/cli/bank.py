"""What a Global Information Bank holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lunarray.cli.console import console, say, tell

if TYPE_CHECKING:
    import xarray as xr


def bank_table(ds: xr.Dataset) -> None:
    """Print how many regions hold what."""
    from rich.table import Table

    from lunarray.superres.gib_layout import STATE_FLAGS

    state = ds["state"].values
    table, parts = Table("part", "regions"), {}
    for part, flag in STATE_FLAGS.items():
        count = int((state & flag > 0).sum())
        parts[part] = count
        table.add_row(part, f"{count} of {state.size}")
    tell(bank={"regions": state.size, **parts})
    console().print(table)
    card = json.loads(ds.attrs.get("feature_model", "{}"))
    if "maps" in card:
        scales = ", ".join(f"{s:g}" for s in card["scales_km"])
        say(f"Features   {ds.sizes['feature']} of {', '.join(card['maps'])}, at {scales} km")
    elif card:
        own = (str(card[n]) for n in ("network", "weights") if n in card)
        say(
            f"Features   {ds.sizes['feature']} of {', '.join(own) or 'weights ' + card['sha256'][:12]}"
        )
