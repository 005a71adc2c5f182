"""CLASS and XSM together: that a fit with XSM's Sun as its prior is the joint fit, and where that ends."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from test_xrf_sun import counted

import lunarray.xrf as xrf
from lunarray import simulate
from lunarray.errors import InputError
from lunarray.xrf.joint import joint_sun, sun_misfit
from lunarray.xrf.plasma import plasma_table
from lunarray.xrf.suns import sun_modes
from lunarray.xrf.xsm import read_xsm_spectrum, solar_dataset
from lunarray.xrf.xsm_response import xsm_response


@pytest.fixture(scope="module")
def truth() -> xr.Dataset:
    """A flare of 1.2 keV on a corona of 0.4 keV."""
    plasma = plasma_table(engine="chianti")
    own = np.full(len(plasma.elements), 0.45)
    own[0] = 1.0
    photons = 6e6 * (own @ plasma.at(1.2)) + 2e7 * (own @ plasma.at(0.4))
    return solar_dataset(plasma.edges, photons / np.diff(plasma.edges))


@pytest.fixture(scope="module")
def seen(truth) -> tuple[xr.Dataset, xr.Dataset]:
    """XSM's spectrum of the window, and the Sun that it amounts to."""
    spectrum = counted(xsm_response(), truth["photon_flux"].values * 0.01, 1000.0, 5)
    return spectrum, xrf.fit_solar(spectrum, xsm_response(), engine="chianti")


def test_the_statistic_of_xsm_is_quadratic_in_its_modes(seen) -> None:
    spectrum, own = seen
    best = float(sun_misfit(own, spectrum, xsm_response()))
    excess = max(float(own["chi2"] / own["dof"]), 1.0)
    for name in own["mode"].values:
        if name == "calibration":  # of XSM's area: its counts stay as they are
            continue
        for z in (-1.0, 1.0):
            moved = own.assign(photon_flux=own["photon_flux"] + z * own["flux_mode"].sel(mode=name))
            rise = float(sun_misfit(moved, spectrum, xsm_response())) - best
            # A little less than 1: what is usual of abundances says the rest.
            assert 0.75 < rise / excess < 1.1, (name, z)


def test_the_fit_with_the_prior_is_the_joint_fit(truth, seen) -> None:
    spectrum, own = seen
    response = simulate.class_response(1024)
    frames = simulate.class_counts(
        xrf.HIGHLAND, simulate.class_orbit(frames=2), truth, response, samples=1, seed=2
    )
    fit = xrf.fit_elements(frames, own, response)
    both = joint_sun(own, fit)
    assert both["photon_flux"].dims == ("time", "energy")
    names = list(fit["nuisance_name"].values)
    modes = [f"sun:{m}" for m in own["mode"].values if m != "calibration"]
    z = fit["nuisance"].values[:, [names.index(m) for m in modes]]
    # What CLASS asks of the Sun costs XSM what the prior says that it costs; the tilt of the area costs it nothing.
    flat = names.index("sun:calibration")
    free = fit.assign(nuisance=fit["nuisance"].where(np.arange(len(names)) != flat, 0.0))
    rise = sun_misfit(joint_sun(own, free), spectrum, xsm_response()) - float(
        sun_misfit(own, spectrum, xsm_response())
    )
    excess = max(float(own["chi2"] / own["dof"]), 1.0)
    np.testing.assert_allclose(rise / excess, np.sum(z**2, axis=1), atol=0.25)
    # And it is no further from the truth than XSM alone was, within what is known.
    energy = truth["energy"].values
    band = (energy > 2.0) & (energy < 6.0)
    share = both["photon_flux"].values[:, band].sum(1) / truth["photon_flux"].values[band].sum()
    np.testing.assert_allclose(share, 1.0, atol=0.1)


def test_a_sun_that_was_wrong_comes_nearer(truth) -> None:
    response = simulate.class_response(1024)
    frames = simulate.class_counts(
        xrf.HIGHLAND, simulate.class_orbit(frames=2), truth, response, flare=4.0, samples=1, seed=2
    )
    wrong = simulate.mistaken_sun(truth.assign(photon_flux=4.0 * truth["photon_flux"]), 0.2)
    wrong = sun_modes(wrong, temperature_error=0.2, emission_error=0.2)
    both = joint_sun(wrong, xrf.fit_elements(frames, wrong, response))
    slopes = [
        float(sun_modes(ds)["slope_temperature"])
        for ds in (truth, wrong, both.isel(time=0, drop=True))
    ]
    assert abs(slopes[2] / slopes[0] - 1) < 0.6 * abs(slopes[1] / slopes[0] - 1)


def test_what_does_not_belong_together_is_refused(truth, seen) -> None:
    spectrum, own = seen
    response = simulate.class_response(1024)
    frames = simulate.class_counts(
        xrf.HIGHLAND, simulate.class_orbit(frames=1), truth, response, samples=1
    )
    fit = xrf.fit_elements(frames, truth, response)
    with pytest.raises(InputError, match="modes"):
        joint_sun(truth, fit)
    with pytest.raises(InputError, match="that it was made with"):
        joint_sun(own, fit)
    with pytest.raises(InputError, match="response of its channels"):
        sun_misfit(own, spectrum, response)


@pytest.mark.realdata
def test_the_recorded_flare(real_data) -> None:
    folder, own_folder = real_data / "class/issdc_fit", real_data / "xsm/spectrum"
    spectrum = read_xsm_spectrum(own_folder / "ch2_xsm_20210827_l1.pha")
    area = xsm_response(own_folder / "ch2_xsm_20210827_l1.arf")
    own = xrf.fit_solar(spectrum, area, engine="chianti")
    fit = xrf.fit_elements(
        xrf.open_class(next(folder.glob("*20210827*_1024.fits"))),
        own,
        xrf.read_response(folder / "class_rmf_v1.rmf", folder / "class_arf_v1.arf"),
        xrf.read_background(next(folder.glob("*20210826*_1024.fits"))),
    )
    both = joint_sun(own, fit)
    before, after = (float(sun_misfit(ds, spectrum, area).squeeze()) for ds in (own, both))
    print(
        f"XSM alone {before:.1f}, with CLASS {after:.1f}, of {int(own['dof'])} degrees of freedom"
    )
    # Both see the same Sun: CLASS asks for nothing that XSM rules out.
    assert after - before < 4.0 * max(before / float(own["dof"]), 1.0)
