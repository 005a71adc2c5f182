"""Every real file that there is: opened, by la.open and by xarray, or refused in words and soon.

``python tests/test_real_files.py [FOLDER]`` prints the table.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import xarray as xr

import lunarray as la
from lunarray.errors import LunarrayError
from lunarray.readers import backend

#: Seconds within which a file is opened or refused; what is measured is tenths.
SOON = 20.0

#: What must open, and by which reader: the first pattern that matches.
OPENED = {
    "class/abundance/*.csv": "ch2-class-tracks",
    "sp/*.spc": "kaguya-sp",
    "sp/*.lbl": "kaguya-sp",
    "spectra/sp_photometry/*_sel.txt": "kaguya-sp-photometry",
    "class/l1/*.fits": "ch2-class",
    "class/bright/*.fits": "ch2-class",
    "class/coadd_96s/*.fits": "ch2-class",
    "class/issdc_fit/ch2_*.fits": "ch2-class",
    "class/issdc_fit/tbmodel_*.fits": "xspec-table-model",
    "class/issdc_fit/modelop_*.txt": "solar-model",
    "class/background/*": "ch2-class-background",
    "xsm/model/*.txt": "solar-model",
    "xsm/spectrum/*.pha": "ch2-xsm",
    "xsm/lightcurve/*.lc": "ch2-xsm-lc",
    "goes/*.nc": "goes-xrs",
    "maps/*.csv.gz": "lunar-map",
    "maps/*.tab": "lunar-prospector",
    "context/LDEM_4.*": "lunar-map",
    "context/*.cub": "lunar-map",
    "m3/*.tif": "cube",
    "nac/M*.png": "lroc-nac",
    "nac/*.cub": "lroc-nac",
}
#: What is no instrument's and yet belongs to one: refused with the words.
REFUSED = {
    "nac/nacl.img": "raw EDR",
    "nac/*.tif": "2 readers may be meant: lroc-nac, lunar-map",
    "context/*.jpg": "a picture without a place",
    "class/response/*": "no reader knows it",
    "vectors/*": "no reader knows it",
    "**/LICENSE*": "no reader knows it",
    "**/*.md": "no reader knows it",
}


@dataclass(frozen=True)
class Outcome:
    path: Path
    reader: str
    found: str
    lazy: str
    xarray: str
    seconds: float


def outcomes(folder: Path) -> Iterator[Outcome]:
    """What becomes of each file below a folder; whatever is raised that is not ours goes through."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            begin = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reader, found, lazy, engine = _open(path)
            yield Outcome(path, reader, found, lazy, engine, time.perf_counter() - begin)


def _open(path: Path) -> tuple[str, str, str, str]:
    try:
        reader = la.readers.reader_of(path)
        opened = la.open(path)
    except LunarrayError as error:
        return "", f"{type(error).__name__}: {error.problem}", "", ""
    variables = [opened.name] if isinstance(opened, xr.DataArray) else list(opened.data_vars)
    sizes = ", ".join(f"{dim} {size}" for dim, size in opened.sizes.items())
    # By name where it is one of xarray's engines, and without a name where xarray finds it.
    engines = xr.backends.list_engines()
    own = next((n for n, b in engines.items() if getattr(b, "reader", None) is reader), None)
    ds = xr.open_dataset(path, engine=own or backend(reader))
    assert dict(ds.sizes) == dict(opened.sizes)
    guessed = next((name for name, b in engines.items() if b.guess_can_open(str(path))), None)
    told = own or "not named here"
    return (
        reader.name,
        f"{' '.join(map(str, variables))} ({sizes})",
        "lazy" if opened.chunks else "in memory",
        f"{told}, found without a name" if guessed == own else told,
    )


@pytest.mark.realdata
def test_every_file_is_opened_or_refused(real_data, engines):
    seen = set()
    for outcome in outcomes(real_data):
        inside = outcome.path.relative_to(real_data)
        assert outcome.seconds < SOON, outcome
        for pattern, reader in OPENED.items():
            if inside.match(pattern):
                assert outcome.reader == reader, outcome
                assert outcome.xarray.startswith(("lunarray-" if reader == "cube" else "") + reader)
                seen.add(pattern)
        for pattern, words in REFUSED.items():
            if inside.match(pattern):
                assert not outcome.reader, outcome
                with pytest.raises(LunarrayError) as caught:
                    la.open(outcome.path)
                assert words in str(caught.value)
                seen.add(pattern)
    # No pattern that nothing matches, if only lest the folder have moved.
    assert seen >= {*OPENED, *REFUSED} - {"**/*.md", "**/LICENSE*"}


def main(folder: Path) -> None:
    """Print a line for each kind of outcome in each folder."""
    kinds: dict[tuple[str, ...], list[Outcome]] = {}
    for outcome in outcomes(folder):
        inside = outcome.path.relative_to(folder)
        kind = (str(inside.parent), outcome.path.suffix, outcome.reader, outcome.found)
        kinds.setdefault(kind, []).append(outcome)
    for (place, suffix, reader, found), group in kinds.items():
        first = group[0]
        print(
            f"{place}/*{suffix} × {len(group)} | {reader or 'refused'} | {found} | "
            f"{' | '.join(filter(None, (first.lazy, first.xarray)))} | "
            f"{max(o.seconds for o in group):.2f} s"
        )


if __name__ == "__main__":
    here = Path(__file__).resolve().parents[2] / "shared" / "data"
    main(Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("LUNARRAY_TEST_DATA", here)))
