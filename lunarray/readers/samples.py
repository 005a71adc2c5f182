"""Samples: small files of each instrument, of a simulated Moon, that come with lunarray."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import xarray as xr

from lunarray.errors import ProductFormatError, require_choice
from lunarray.readers.opening import open
from lunarray.typing import typed_either

_FOLDER = Path(__file__).with_name("data")
SampleName = Literal["sp_orbit", "class_flare", "nac_crop", "tracks", "albedo"]
#: All of them: simulated by a script of ours, no archive's data.
LICENCE = "CC0-1.0"


@dataclass(frozen=True)
class Sample:
    """One sample: what it is, and which of the files in the folder it is made of.

    Parameters
    ----------
    name : str
        By which :func:`sample` knows it.
    description : str
        What it shows, and what is known to be true of it.
    pattern : str
        Of the names of its files.
    reader : str
        Which opens them.
    licence : str
        SPDX name.

    Examples
    --------
    >>> import lunarray as la
    >>> la.readers.SAMPLES["tracks"].files[0].name
    'class_l2_tracks.csv'
    """

    name: str
    description: str
    pattern: str
    reader: str
    licence: str = LICENCE

    @property
    def files(self) -> tuple[Path, ...]:
        """Its files, each with the bytes that it came with.

        Raises
        ------
        ProductFormatError
            If a file is missing or not what came with lunarray.
        """
        known = _digests()
        names = [name for name in known if Path(name).match(self.pattern)]
        paths = [_FOLDER / name for name in names]
        for path in paths:
            if not path.is_file() or _digest(path) != known[path.name]:
                raise ProductFormatError(
                    "missing, or not the file that came with lunarray",
                    where=str(path),
                    remedy="Install lunarray again",
                )
        return tuple(paths)


#: Every sample, by its name. ``examples/make_samples.py`` makes their files.
SAMPLES: Mapping[str, Sample] = MappingProxyType({
    sample.name: sample
    for sample in (
        Sample("sp_orbit", "240 footprints of KAGUYA SP, from highlands (5 wt% FeO) over a mare (16-17) and back, "
               "by good light", "SP_2C_*", "kaguya-sp"),
        Sample("class_flare", "12 frames of Chandrayaan-2 CLASS over highlands during an M3 flare, lines 140 eV wide",
               "ch2_cla_l1_*.fits.gz", "ch2-class"),
        Sample("nac_crop", "640 x 640 pixels of 1.5 m with fractures, 8 bits, the Sun at 65 degrees",
               "nac_crop.tif", "lroc-nac"),
        Sample("tracks", "133 footprints with abundances of eight elements and their errors, as CLASS' level 2 has "
               "them", "class_l2_tracks.csv", "ch2-class-tracks"),
        Sample("albedo", "the albedo of the ground below the tracks, 0.17 degrees a pixel", "albedo.tif",
               "lunar-map"),
    )
})  # fmt: skip


@typed_either
def sample(name: SampleName) -> xr.Dataset | xr.DataArray:
    """Open a sample that comes with lunarray, lazily: small files as the archives have them, of a simulated Moon.

    Parameters
    ----------
    name : {"sp_orbit", "class_flare", "nac_crop", "tracks", "albedo"}
        Which. ``lunarray.readers.SAMPLES`` describes them, and says where their files are (``SAMPLES[name].files``).

    Returns
    -------
    Dataset or DataArray
        What :func:`lunarray.open` makes of the files.

    Raises
    ------
    InputError
        If there is no sample of that name.
    ProductFormatError
        If a file is not what came with lunarray.

    Examples
    --------
    >>> import lunarray as la
    >>> la.sample("sp_orbit").sizes["observation"]
    240
    """
    require_choice("name", name, tuple(SAMPLES))
    chosen = SAMPLES[name]
    return open([str(path) for path in chosen.files], reader=chosen.reader)


@cache
def _digests() -> dict[str, str]:
    """SHA-256 of each file, as the script that made them printed it."""
    lines = (_FOLDER / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split("  ") for line in lines)}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
