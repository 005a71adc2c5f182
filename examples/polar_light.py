"""What the light costs at a pole: errors and intervals of FeO by incidence, with heights, with LOLA, with neither.

    python examples/polar_light.py [--model MODEL] [--seed N]

The ground is simulated: slopes of 5° rms on pixels of 4 km, each place at its noon, shadows included. Its soils are
drawn from the whole of what the simulator knows (one for each patch of 5 × 5 pixels), seen with the errors of the
Spectral Profiler. Their reflectance is inverted as it is, after `correct_topography` with the heights, and after
`scale_to_albedo` with an albedo map of 3 % noise. Soils, errors and noise are others than any training saw.
"""

from __future__ import annotations

import argparse

import numpy as np
import xarray as xr

import lunarray as la
from lunarray.simulate.spectra import SP_ERRORS
from lunarray.sp.albedo import NORMAL_TO_STANDARD

#: Pixels along a side of a patch of one soil, and what a spectrum without errors is seen with.
PATCH = 5
NO_ERRORS = dict.fromkeys(SP_ERRORS, 0.0)


def scene(seed: int) -> tuple[xr.Dataset, xr.DataArray]:
    """Spectra of a rough pole with known FeO, and a map of normal albedo with noise."""
    ground = la.simulate.polar_scene(
        "north", resolution=4000.0, latitude=80, seed=seed, slope_rms=5.0, chunks=None
    )
    rows, columns = ground.incidence.shape
    wide = -(-columns // PATCH)
    soil = np.arange(rows)[:, None] // PATCH * wide + np.arange(columns) // PATCH
    soils = la.simulate.soils(int(soil.max()) + 1, seed + 1000)
    bands = ground.wavelength.values
    # Every pixel of a patch has errors of its own.
    each = soils.isel(sample=soil.ravel())
    seen = la.simulate.add_sp_errors(each.reflectance, seed + 2000)
    spectra = seen.transpose("wavelength", ...).values.reshape(bands.size, rows, columns)
    gain = ground.light_gain_true.values
    out = ground.assign(
        reflectance=(ground.reflectance.dims, (spectra * gain).astype(np.float32)),
        FeO_true=(ground.FeO_true.dims, each.FeO.values.reshape(rows, columns)),
    )
    out.reflectance.attrs = ground.reflectance.attrs
    clean = la.simulate.add_sp_errors(each.reflectance, seed + 2000, **NO_ERRORS)
    level = clean.sel(wavelength=1064, method="nearest").values.reshape(rows, columns)
    normal, standard = np.array(NORMAL_TO_STANDARD).T
    known = np.interp(level, standard, normal)
    known = np.where(level > standard[-1], level * normal[-1] / standard[-1], known)
    noise = np.exp(0.03 * np.random.default_rng(seed).standard_normal(level.shape))
    return out, ground.height.copy(data=known * noise)


def row(name: str, edges: tuple[float, float], maps: xr.Dataset, given: xr.Dataset) -> str:
    """Errors of FeO in a class of incidence, as text; all but the shares are of pixels without a flag."""
    incidence, truth = given.incidence.values, given.FeO_true.values
    here = (incidence >= edges[0]) & (incidence < edges[1])
    found = maps.FeO.values
    there = here & np.isfinite(found)
    sound = there & (maps.quality.values == 0)
    shares = f"{there.sum() / here.sum():5.0%}  {sound.sum() / here.sum():5.0%}"
    text = f"{name:<8} {edges[0]:.0f}-{edges[1]:.0f}°  {here.sum():6d}  {shares}"
    if not sound.any():
        return text
    off = (found - truth)[sound]
    inside = (maps.FeO_lower.values <= truth) & (truth <= maps.FeO_upper.values)
    half = 0.5 * np.median((maps.FeO_upper - maps.FeO_lower).values[sound])
    told = np.median(given.light_uncertainty.values[sound])
    text += f"  {told:5.2f}  {np.sqrt(np.mean(off**2)):5.2f}  {off.mean():6.2f}"
    return text + f"  {inside[sound].mean():6.1%}  {half:5.1f}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", help="model, as invert_oxides takes it")
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args(argv)
    flat, albedo = scene(options.seed)
    ways = {
        "neither": flat,
        "DEM": la.sp.correct_topography(flat, flat.height, undo=True),
        "LOLA": la.sp.scale_to_albedo(flat, albedo),
    }
    print(
        "light by  incidence pixels  inv.  sound  ln-sd   RMSE    bias  in 90 %  half width, wt% FeO"
    )
    for name, given in ways.items():
        maps = la.oxides.invert_oxides(given, options.model, uncertainty=True)
        for edges in ((74, 78), (78, 80), (80, 82), (82, 84), (84, 86), (86, 90)):
            print(row(name, edges, maps, given), flush=True)


if __name__ == "__main__":
    main()
