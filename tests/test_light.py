"""How well the light is known, beside spectra and maps."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from verbs import native

import lunarray as la
from lunarray import sp
from lunarray.errors import InputError
from lunarray.sp.light import SLOPE_RMS
from lunarray.sp.photometry import lunar_lambert


def seen(incidence, **others):
    along = ("observation",)
    angles = {"incidence": incidence, **others}
    return xr.Dataset(coords={k: (along, np.asarray(v, float)) for k, v in angles.items()})


@pytest.mark.parametrize("incidence", [45.0, 60.0, 75.0, 80.0])
@pytest.mark.parametrize("slope", [2.0, 5.0])
def test_uncertainty_is_that_of_gains_drawn(incidence, slope):
    rng = np.random.default_rng(0)
    p, q = np.tan(np.deg2rad(slope)) * rng.standard_normal((2, 200_000))
    up = 1 / np.sqrt(1 + p * p + q * q)
    i = np.deg2rad(incidence)
    mu0 = (np.cos(i) + np.sin(i) * p) * up
    lit = mu0 > 0
    local = (np.rad2deg(np.arccos(v[lit])) for v in (mu0, up))
    gain = lunar_lambert(*local, incidence) / lunar_lambert(incidence, 0.0, incidence)
    drawn = np.sqrt(np.mean(np.log(np.maximum(gain, 0.02)) ** 2))
    told = sp.light_uncertainty(seen([incidence], emission=[0.0]), slope_rms=slope).item()
    rest = sp.light_uncertainty(seen([incidence], emission=[0.0]), slope_rms=0.0).item()
    assert np.sqrt(told**2 - rest**2) == pytest.approx(drawn, rel=0.03)


def test_uncertainty_grows_towards_the_terminator_and_ends_there():
    told = sp.light_uncertainty(seen([30, 45, 60, 70, 80, 85, 89, 90.5, np.nan])).values
    assert told.dtype == np.float32
    assert np.all(np.diff(told[:7]) > 0)
    assert 0.5 < told[4] < 1.0
    assert np.isnan(told[7:]).all()


def test_uncertainty_seen_from_aside():
    # Towards the Sun and away from it, 25° from nadir: the angle of phase tells which.
    told = sp.light_uncertainty(seen([60, 60, 60], emission=[0, 25, 25], phase=[60, 35, 85])).values
    assert np.all(np.abs(told / told[0] - 1) < 0.4)
    assert np.unique(told).size == 3


def test_uncertainty_needs_angles_and_is_taken_where_it_is():
    with pytest.raises(InputError, match="incidence"):
        sp.light_uncertainty(native().drop_vars(["incidence"]))
    with pytest.raises(InputError, match="slope_rms"):
        sp.light_uncertainty(native(), slope_rms=-1.0)
    own = native().assign(light_uncertainty=("observation", np.full(14, 0.3, "f4")))
    assert np.all(own.lunar.light_uncertainty() == np.float32(0.3))


def test_conditioning_puts_the_light_beside():
    ds = sp.condition(native())
    assert ds.light_uncertainty.dims == ("observation",)
    assert ds.light_quality.dtype == np.uint8
    grazing = ds.incidence > 90 - 1.2816 * SLOPE_RMS
    assert np.array_equal(ds.light_quality == sp.LIGHT_FLAGS["grazing_light"], grazing)
    array = sp.condition(native().reflectance)
    assert np.array_equal(array.light_uncertainty, ds.light_uncertainty)
    bare = native().drop_vars(["incidence", "emission", "phase"])
    assert "light_uncertainty" not in sp.condition(bare).variables


@pytest.mark.parametrize("chunks", [None, 3])
def test_maps_have_the_light_of_the_spectra_in_them(chunks):
    ds = native().assign_coords(
        lat=("observation", np.repeat([80.0, 85.0], 7)), lon=("observation", np.zeros(14))
    )
    quality = np.zeros(14, np.uint8)
    quality[:4] = sp.LIGHT_FLAGS["shadow"]
    quality[7:10] = sp.LIGHT_FLAGS["no_albedo"]
    ds = ds.assign_coords(light_quality=("observation", quality))
    told = sp.light_uncertainty(ds).values
    ds = ds if chunks is None else ds.chunk(observation=chunks)
    out = sp.grid(ds, "north", resolution=50_000.0, latitude=75.0)
    assert (out.light_uncertainty.chunks is None) == (chunks is None)
    out = out.compute()
    number = out["count"].values
    assert sorted(number[number > 0].tolist()) == [6, 7]  # the fourth has no spectrum
    first, second = (np.argwhere(number == n)[0] for n in (6, 7))
    used = np.array([0, 1, 2, 4, 5, 6])

    def at(name, place):
        return out[name].values[tuple(place)]

    assert at("incidence", first) == pytest.approx(ds.incidence.values[used].mean(), rel=1e-5)
    assert at("light_uncertainty", first) == pytest.approx(
        np.sqrt((told[used] ** 2).mean()), rel=1e-5
    )
    # Four of seven, three of seven.
    assert at("light_quality", first) == sp.LIGHT_FLAGS["shadow"]
    assert at("light_quality", second) == 0
    assert np.isnan(out.light_uncertainty.values[number == 0]).all()
    assert "incidence_std" not in out
    assert la.sp.grid(ds, resolution=50_000.0, stats="count").sizes
