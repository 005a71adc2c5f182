"""Raw NAC products to map-projected cubes, with the ISIS of the user (optional)."""

from __future__ import annotations

import importlib
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lunarray.engine.files import local_path
from lunarray.errors import (
    InputError,
    LunarrayError,
    LunarrayWarning,
    MissingDependencyError,
    needs,
    require_choice,
)

__all__ = ["IsisError", "isis_available", "process_edr"]

#: What is run, in order: Le Corre et al. (2025), section 2; USGS, Working with LROC NAC data.
STEPS = ("lronac2isis", "spiceinit", "lronaccal", "lronacecho", "cam2map")
#: What is run besides where it is asked for, or a map is to be laid about the images.
MORE_STEPS = ("lronacpho", "mosrange")
#: What cam2map calls its ways to interpolate.
INTERPOLATIONS = {
    "cubic": "cubicconvolution",
    "bilinear": "bilinear",
    "nearest": "nearestneighbor",
}
#: By how much a pixel may be longer than wide on the ground before there is a warning.
_LONGER = 1.1
_PROJECTIONS = {
    "equirectangular": ("Equirectangular", None),
    "north": ("PolarStereographic", 90.0),
    "south": ("PolarStereographic", -90.0),
    "sinusoidal": ("Sinusoidal", None),
}
_REMEDY = (
    "Install USGS ISIS (https://github.com/DOI-USGS/ISIS3: conda install -c usgs-astrogeology isis) with its lro "
    "data area, set ISISROOT and ISISDATA, and pip install 'lunarray[isis]'; or process the images elsewhere and "
    "open the map-projected cubes or GeoTIFFs with open_nac"
)


class IsisError(LunarrayError, RuntimeError):
    """A program of ISIS that failed; the message holds what it said."""


def isis_available() -> bool:
    """Whether ISIS and kalasiris are there.

    Returns
    -------
    bool
        True where :func:`process_edr` can run.
    """
    try:
        _isis()
    except MissingDependencyError:
        return False
    return True


def process_edr(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    *,
    projection: str | os.PathLike[str] = "equirectangular",
    resolution: float | None = 1.5,
    centre_longitude: float | None = None,
    centre_latitude: float | None = None,
    interpolation: Literal["cubic", "bilinear", "nearest"] = "cubic",
    web_spice: bool = False,
    echo: bool = True,
    photometry: bool = False,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    keep: bool = False,
) -> list[Path]:
    """Calibrate and map-project raw NAC images (EDR) with ISIS.

    Runs ``lronac2isis``, ``spiceinit``, ``lronaccal``, ``lronacecho``, where asked ``lronacpho``, then ``mosrange``
    over all images for one map, and ``cam2map`` through kalasiris.

    Parameters
    ----------
    paths : path or sequence of path
        EDR products (``.IMG``).
    folder : path
        Where the map-projected cubes go, each as ``<product>.map.cub``. Those that exist are not made again.
    projection : str or path
        "equirectangular", "north", "south" (polar stereographic), "sinusoidal", or a map file of ISIS.
    resolution : float, optional
        m a pixel; None keeps each image's own.
    centre_longitude, centre_latitude : float, optional
        Of the projection, degrees; by default the middle of all images, by ``mosrange``, and of polar maps the
        longitude 0. At its centre latitude an equirectangular map is true to scale, and its pixels are square. A later
        call with the same folder keeps the centre of the first, that all cubes are on one grid.
    interpolation : {"cubic", "bilinear", "nearest"}
        Of the brightness; patches of the image are carried forward to the map, as suits a line camera.
    web_spice : bool
        Let spiceinit ask the USGS for the kernels.
    echo : bool
        Correct the echo (images taken with summing do not have it).
    photometry : bool
        Bring brightness to one geometry of light by ``lronacpho``.
    options : mapping, optional
        More parameters by program: ``{"lronaccal": {"radiometrictype": "iof"}}``, or kernels that a control network
        has smoothed, ``{"spiceinit": {"cksmithed": True, "spksmithed": True}}``.
    keep : bool
        Keep what is made between.

    Returns
    -------
    list of Path
        The cubes, for :func:`lunarray.fractures.open_nac`.

    Raises
    ------
    MissingDependencyError
        If ISIS or kalasiris is absent; the message says how to get them.
    InputError
        If a file is absent or the projection unknown.
    IsisError
        If a program fails.

    Warns
    -----
    LunarrayWarning
        If pixels are a tenth longer than wide on the ground somewhere in the images.

    References
    ----------
    Le Corre et al. (2025), JGR Planets 130, e2025JE009145, section 2. Laura et al. (2023), ISIS,
    doi:10.5281/zenodo.7644616.

    Examples
    --------
    >>> import lunarray as la
    >>> la.fractures.process_edr("M1234567890LE.IMG", "mosaics")  # doctest: +SKIP
    """
    files = _sources(paths)
    more = _options(options)
    require_choice("interpolation", interpolation, INTERPOLATIONS)
    _check_map(projection, resolution)
    isis = _isis()
    target = Path(os.path.expanduser(os.fspath(folder))).resolve()
    local_path(target).mkdir(parents=True, exist_ok=True)
    finals = {file: target / f"{file.stem}.map.cub" for file in files}
    todo = [file for file in files if not finals[file].exists()]
    if not todo:
        return list(finals.values())
    centre = _Centre(centre_longitude, centre_latitude)
    # In folders of their own: what lies under its final name is whole.
    work = {file: Path(tempfile.mkdtemp(prefix=f".{file.stem}.", dir=target)) for file in todo}
    try:
        calls = {file: _Calls(isis, file, own, more) for file, own in work.items()}
        clean = {
            file: _calibrated(run, web_spice, echo=echo, photometry=photometry)
            for file, run in calls.items()
        }
        map_file = _map_file(calls[todo[0]], projection, centre, clean, target)
        for file, run in calls.items():
            _projected(run, clean[file], map_file, resolution, interpolation, finals[file])
    finally:
        for file, own in work.items():
            _put_away(own, target / f"{file.stem}.steps" if keep else None)
    return list(finals.values())


def _sources(paths: Any) -> list[Path]:
    """Products that are there, by whole paths: ISIS runs in a folder of its own, where it leaves its print.prt."""
    sources = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    files = [Path(os.path.expanduser(os.fspath(p))).resolve() for p in sources]
    for file in files:
        if not file.is_file():
            raise InputError("no such file", where=file, remedy="Check the path")
    return files


def _put_away(work: Path, kept: Path | None) -> None:
    """Keep what was made between under a name of its own, or not."""
    if kept is None:
        shutil.rmtree(work, ignore_errors=True)
        return
    shutil.rmtree(kept, ignore_errors=True)
    work.rename(kept)


def _options(options: Mapping[str, Mapping[str, Any]] | None) -> dict[str, dict[str, Any]]:
    """Parameters by program, true and false as ISIS writes them."""
    known = STEPS + MORE_STEPS
    unknown = sorted(set(options or {}) - set(known))
    if unknown:
        raise InputError(
            f"options for {', '.join(unknown)}", where="options", remedy=f"The programs are {', '.join(known)}"
        )  # fmt: skip
    return {
        name: {k: str(v).lower() if isinstance(v, bool) else v for k, v in value.items()}
        for name, value in (options or {}).items()
    }


@dataclass(frozen=True)
class _Centre:
    """Of a map, degrees; None where the images tell it."""

    longitude: float | None
    latitude: float | None


@dataclass(frozen=True)
class _Calls:
    """Programs of ISIS as they are run for one image."""

    isis: Any
    file: Path
    work: Path
    more: Mapping[str, Mapping[str, Any]]

    def __call__(self, program: str, **parameters: Any) -> None:
        parameters |= self.more.get(program, {})
        try:
            getattr(self.isis, program)(**parameters, _cwd=str(self.work))
        except subprocess.CalledProcessError as error:
            said = (error.stderr or error.stdout or "").strip()
            raise IsisError(
                f"{program} failed ({error.returncode}): {said or 'it said nothing'}",
                where=self.file,
                remedy="Check the product and the ISIS data area (spiceinit needs the lro kernels, or web_spice=True)",
            ) from error
        except (FileNotFoundError, AttributeError) as error:
            raise MissingDependencyError(
                f"ISIS has no program {program}", where=os.environ.get("ISISROOT"), remedy=_REMEDY
            ) from error


def _calibrated(run: _Calls, web_spice: bool, *, echo: bool, photometry: bool) -> Path:
    """From a raw product to a calibrated cube, not yet on a map."""
    stem = run.file.stem
    raw, made = run.work / f"{stem}.cub", run.work / f"{stem}.cal.cub"
    run("lronac2isis", from_=run.file, to=raw)
    run("spiceinit", from_=raw, **({"web": "true"} if web_spice else {}))
    run("lronaccal", from_=raw, to=made)
    for program, ending, wanted in (("lronacecho", "echo", echo), ("lronacpho", "pho", photometry)):
        if wanted:
            before, made = made, made.with_suffix(f".{ending}.cub")
            run(program, from_=before, to=made)
    return made


def _projected(
    run: _Calls, clean: Path, map_file: Path, resolution: float | None, way: str, final: Path
) -> None:
    """Lay a calibrated cube on the map."""
    size = {"pixres": "mpp", "resolution": resolution} if resolution is not None else {"pixres": "camera"}  # fmt: skip
    made = run.work / final.name
    run(
        "cam2map", from_=clean, to=made, map=map_file, defaultrange="minimize", interp=INTERPOLATIONS[way],
        warpalgorithm="forwardpatch", **size,
    )  # fmt: skip
    if not made.exists():
        raise IsisError(
            "cam2map ended well and wrote nothing", where=run.file, remedy="Look into print.prt"
        )
    os.replace(made, final)


def _map_file(
    run: _Calls, projection: Any, centre: _Centre, clean: Mapping[Path, Path], target: Path
) -> Path:
    """One map for all images: the user's, the one that the folder has, or a new one about the images."""
    name, pole = _PROJECTIONS.get(str(projection).lower(), (None, None))
    if name is None:
        return Path(os.path.expanduser(os.fspath(projection))).resolve()
    kept = target / f"{name.lower()}.map"
    if kept.exists() and centre == _Centre(None, None):
        return kept
    longitude, latitude = centre.longitude, centre.latitude if pole is None else pole
    found_out = pole is None and None in (longitude, latitude)
    if pole is not None:
        longitude = 0.0 if longitude is None else longitude
    elif found_out or name == "Equirectangular":
        said = _range_of(run, clean)
        longitude = said["CenterLongitude"] if longitude is None else longitude
        latitude = said["CenterLatitude"] if latitude is None else latitude
        if name == "Equirectangular":
            _tell_oblong(latitude, said["MinimumLatitude"], said["MaximumLatitude"])
    file = kept if found_out else run.work / "projection.map"
    file.write_text(_map_file_text(name, longitude, latitude), encoding="ascii")
    return file


def _range_of(run: _Calls, clean: Mapping[Path, Path]) -> dict[str, float]:
    """Where images lie, by mosrange: what it says of centre and limits, degrees."""
    listed, found = run.work / "images.lis", run.work / "mosrange.map"
    listed.write_text("".join(f"{cube}\n" for cube in clean.values()), encoding="utf-8")
    run("mosrange", fromlist=listed, to=found, projection="equirectangular", londom="180")
    text = found.read_text(encoding="utf-8", errors="replace") if found.exists() else ""
    names = ("CenterLongitude", "CenterLatitude", "MinimumLatitude", "MaximumLatitude")
    values = {n: re.search(rf"^\s*{n}\s*=\s*(\S+)", text, re.MULTILINE) for n in names}
    try:
        return {n: float(value[1]) for n, value in values.items() if value is not None} | {
            n: float("nan") for n, value in values.items() if value is None and n.startswith("M")
        }
    except ValueError as error:
        raise IsisError(
            f"mosrange wrote a map that cannot be read ({error})",
            where=found,
            remedy="Give centre_longitude and centre_latitude",
        ) from error


def _tell_oblong(true: float, *limits: float) -> None:
    """Warn where pixels of an equirectangular map are not square on the ground."""
    widths = [math.cos(math.radians(v)) / max(math.cos(math.radians(true)), 1e-9) for v in limits]
    worst = max(widths, key=lambda w: abs(math.log(max(w, 1e-9))), default=1.0)
    if max(worst, 1 / max(worst, 1e-9)) > _LONGER:
        warnings.warn(
            f"pixels are {worst:.2f} times as wide as long on the ground at the images' end: the map is true at "
            f"latitude {true:g}. Give the images' own centre_latitude, or process images of other latitudes apart",
            LunarrayWarning,
            stacklevel=4,
        )


def _map_file_text(name: str, longitude: float | None, latitude: float | None) -> str:
    lines = [
        "Group = Mapping",
        f"  ProjectionName     = {name}",
        f"  CenterLongitude    = {longitude}",
        *([] if name == "Sinusoidal" else [f"  CenterLatitude     = {latitude}"]),
        "  TargetName         = Moon",
        "  LatitudeType       = Planetocentric",
        "  LongitudeDirection = PositiveEast",
        "  LongitudeDomain    = 180",
        "End_Group",
        "End",
        "",
    ]
    return "\n".join(lines)


def _check_map(projection: Any, resolution: float | None) -> None:
    """Complain before the work rather than after it."""
    if resolution is not None and not resolution > 0:
        raise InputError(f"resolution={resolution!r}", where="resolution", remedy="Give metres, or None")  # fmt: skip
    known = isinstance(projection, str) and projection.lower() in _PROJECTIONS
    if not known and not Path(os.path.expanduser(os.fspath(projection))).is_file():
        raise InputError(
            f"projection={os.fspath(projection)!r}",
            where="projection",
            remedy=f"Give one of {', '.join(_PROJECTIONS)}, or a map file of ISIS",
        )


def _isis() -> Any:
    """kalasiris, once ISIS is known to be there: it reads the environment when it is imported."""
    root = os.environ.get("ISISROOT")
    if not root:
        raise MissingDependencyError(
            "ISIS is not installed, or not set up here: ISISROOT is not set", where="ISIS", remedy=_REMEDY
        )  # fmt: skip
    if not (Path(root) / "bin" / STEPS[0]).exists():
        raise MissingDependencyError(
            f"ISISROOT is {root}, where there is no bin/{STEPS[0]}", where="ISIS", remedy=_REMEDY
        )
    if not (os.environ.get("ISISDATA") or os.environ.get("ISIS3DATA")):
        raise MissingDependencyError(
            "ISISDATA, the folder of ISIS' data, is not set", where="ISIS", remedy=_REMEDY
        )
    try:
        with needs("kalasiris", "calibrating raw images with ISIS"):
            module = importlib.import_module("kalasiris")
    except (KeyError, OSError) as error:
        # Its import lists the programs of ISIS by their documentation, bin/xml.
        raise MissingDependencyError(
            f"ISISROOT is {root}, which kalasiris cannot read ({error})",
            where="ISIS",
            remedy=_REMEDY,
        ) from error
    # Functions for programs are made when it is imported; the environment may be another by now.
    if getattr(module, "environ", {}).get("ISISROOT") != root or not hasattr(module, STEPS[0]):
        for name in [n for n in sys.modules if n.split(".")[0] == "kalasiris"]:
            del sys.modules[name]
        module = importlib.import_module("kalasiris")
    return module
