"""Raw NAC products to map-projected cubes, with the ISIS of the user (optional)."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lunarray.engine.files import local_path
from lunarray.errors import InputError, LunarrayError, MissingDependencyError, needs

__all__ = ["IsisError", "isis_available", "process_edr"]

#: What is run, in order: Le Corre et al. (2025), section 2; USGS, Working with LROC NAC data.
STEPS = ("lronac2isis", "spiceinit", "lronaccal", "lronacecho", "cam2map")
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
    centre_longitude: float = 0.0,
    centre_latitude: float = 0.0,
    web_spice: bool = False,
    echo: bool = True,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    keep: bool = False,
) -> list[Path]:
    """Calibrate and map-project raw NAC images (EDR) with ISIS.

    Runs ``lronac2isis``, ``spiceinit``, ``lronaccal``, ``lronacecho`` and ``cam2map`` through kalasiris.

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
    centre_longitude, centre_latitude : float
        Of the projection, degrees; the latitude of an equirectangular map is where it is true to scale.
    web_spice : bool
        Let spiceinit ask the USGS for the kernels.
    echo : bool
        Correct the echo (images taken with summing do not have it).
    options : mapping, optional
        More parameters by program, such as ``{"lronaccal": {"radiometrictype": "iof"}}``.
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

    References
    ----------
    Le Corre et al. (2025), JGR Planets 130, e2025JE009145, section 2. Laura et al. (2023), ISIS,
    doi:10.5281/zenodo.7644616.
    """
    sources = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    # Whole paths: ISIS runs in a folder of its own, where it leaves its print.prt.
    files = [Path(os.path.expanduser(os.fspath(p))).resolve() for p in sources]
    for file in files:
        if not file.is_file():
            raise InputError("no such file", where=file, remedy="Check the path")
    more = {name: dict(value) for name, value in (options or {}).items()}
    unknown = sorted(set(more) - set(STEPS))
    if unknown:
        raise InputError(
            f"options for {', '.join(unknown)}", where="options", remedy=f"The programs are {', '.join(STEPS)}"
        )  # fmt: skip
    mapping = _map_file_text(projection, resolution, centre_longitude, centre_latitude)
    isis = _isis()
    target = Path(os.path.expanduser(os.fspath(folder))).resolve()
    local_path(target).mkdir(parents=True, exist_ok=True)
    written = []
    for file in files:
        final = target / f"{file.stem}.map.cub"
        written.append(final)
        if final.exists():
            continue
        # In a folder of its own: what lies under its final name is whole.
        work = Path(tempfile.mkdtemp(prefix=f".{file.stem}.", dir=target))
        try:
            _run_chain(isis, file, work, final, mapping, resolution, web_spice, echo, more)
        finally:
            if keep:
                kept = target / f"{file.stem}.steps"
                shutil.rmtree(kept, ignore_errors=True)
                work.rename(kept)
            else:
                shutil.rmtree(work, ignore_errors=True)
    return written


def _run_chain(
    isis: Any,
    file: Path,
    work: Path,
    final: Path,
    mapping: str | Path,
    resolution: float | None,
    web_spice: bool,
    echo: bool,
    more: Mapping[str, Mapping[str, Any]],
) -> None:
    raw, calibrated = work / f"{file.stem}.cub", work / f"{file.stem}.cal.cub"
    clean, projected = work / f"{file.stem}.cal.echo.cub", work / f"{file.stem}.map.cub"
    if isinstance(mapping, str):
        map_file = work / "projection.map"
        map_file.write_text(mapping, encoding="ascii")
    else:
        map_file = mapping

    def run(program: str, **parameters: Any) -> None:
        parameters |= more.get(program, {})
        try:
            getattr(isis, program)(**parameters, _cwd=str(work))
        except subprocess.CalledProcessError as error:
            said = (error.stderr or error.stdout or "").strip()
            raise IsisError(
                f"{program} failed ({error.returncode}): {said or 'it said nothing'}",
                where=file,
                remedy="Check the product and the ISIS data area (spiceinit needs the lro kernels, or web_spice=True)",
            ) from error
        except FileNotFoundError as error:
            raise MissingDependencyError(
                f"ISIS has no program {program}", where=os.environ.get("ISISROOT"), remedy=_REMEDY
            ) from error

    run("lronac2isis", from_=file, to=raw)
    run("spiceinit", from_=raw, **({"web": "true"} if web_spice else {}))
    run("lronaccal", from_=raw, to=calibrated)
    if echo:
        run("lronacecho", from_=calibrated, to=clean)
    else:
        clean = calibrated
    size = {"pixres": "mpp", "resolution": resolution} if resolution is not None else {"pixres": "camera"}  # fmt: skip
    run("cam2map", from_=clean, to=projected, map=map_file, defaultrange="minimize", **size)
    if not projected.exists():
        raise IsisError(
            "cam2map ended well and wrote nothing", where=file, remedy="Look into print.prt"
        )
    os.replace(projected, final)


def _map_file_text(
    projection: Any, resolution: float | None, centre_longitude: float, centre_latitude: float
) -> str | Path:
    if resolution is not None and not resolution > 0:
        raise InputError(f"resolution={resolution!r}", where="resolution", remedy="Give metres, or None")  # fmt: skip
    if isinstance(projection, str) and projection.lower() in _PROJECTIONS:
        name, latitude = _PROJECTIONS[projection.lower()]
        lines = [
            "Group = Mapping",
            f"  ProjectionName     = {name}",
            f"  CenterLongitude    = {centre_longitude}",
        ]
        if name != "Sinusoidal":
            lines.append(
                f"  CenterLatitude     = {centre_latitude if latitude is None else latitude}"
            )
        lines += [
            "  TargetName         = Moon",
            "  LatitudeType       = Planetocentric",
            "  LongitudeDirection = PositiveEast",
            "  LongitudeDomain    = 180",
            "End_Group",
            "End",
            "",
        ]
        return "\n".join(lines)
    path = Path(os.path.expanduser(os.fspath(projection)))
    if path.is_file():
        return path.resolve()
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
