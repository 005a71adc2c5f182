"""Lines from a bed of grains: what the tracing of rays must give, the table made of it, and fits that use it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from lunarray import simulate, xrf
from lunarray.errors import InputError
from lunarray.simulate.regolith import escaping_share, packed_grains
from lunarray.xrf.model import PhotonModel
from lunarray.xrf.regolith import Regolith, _share
from lunarray.xrf.settings import Conventions, Geometry

ATTENUATION = np.array([0.05, 0.5, 5.0, 50.0])


def test_grains_do_not_overlap_and_fill_what_they_should():
    centres = packed_grains(0.3, seed=5)
    distance = np.abs(centres[:, None] - centres[None])
    distance = np.minimum(distance, 24 - distance)
    square = (distance**2).sum(-1)
    np.fill_diagonal(square, 9.0)
    assert square.min() >= 4.0
    assert len(centres) * 4 / 3 * np.pi / 24**3 == pytest.approx(0.3, abs=0.001)
    with pytest.raises(InputError, match="packing"):
        packed_grains(0.6)


def test_with_the_sun_behind_the_detector_nothing_is_shaded():
    """The way out is the way in: whatever the grains, the bed is as bright as a smooth surface."""
    found = escaping_share(ATTENUATION, ATTENUATION, 0.0, 0.2, emission=0.0, rays=600, beds=1)
    np.testing.assert_allclose(found, 1.0, atol=0.02)


def test_fine_grains_are_a_smooth_surface():
    found = escaping_share([0.05], [0.05], 45.0, 0.3, rays=1000, beds=3)
    assert found[0, 0] == pytest.approx(1.0, abs=0.05)


def test_way_in_and_way_out_may_be_exchanged():
    one = escaping_share(ATTENUATION, ATTENUATION, 60.0, 0.3, emission=20.0, rays=1000, beds=3)
    other = escaping_share(ATTENUATION, ATTENUATION, 20.0, 0.3, emission=60.0, rays=1000, beds=3)
    np.testing.assert_allclose(one, other.T, rtol=0.1)


@pytest.mark.parametrize(("packing", "incidence"), [(0.2, 37.0), (0.28, 60.0)])
def test_the_table_is_what_other_rays_give(packing, incidence):
    inward, outward = np.array([0.3, 3.0, 30.0]), np.array([0.15, 1.5, 15.0])
    traced = escaping_share(inward, outward, incidence, packing, rays=800, beds=3, seed=77)
    np.testing.assert_allclose(_share(inward, outward, incidence, packing).T, traced, rtol=0.08)


def test_shares_fall_with_phase_and_grain_size_and_never_brighten():
    inward = outward = np.array([1.0, 10.0])
    by_phase = [_share(inward, outward, i, 0.2) for i in (0.0, 20.0, 40.0, 60.0)]
    assert all(np.all(b < a) for a, b in pairwise(by_phase))
    by_size = [_share(inward * s, outward * s, 60.0, 0.2)[1, 1] for s in (0.01, 0.1, 1.0)]
    assert by_size[0] > by_size[1] > by_size[2] > 0.2
    everything = _share(np.geomspace(1e-5, 1e4, 40), np.geomspace(1e-5, 1e4, 40), 89.0, 0.35)
    assert np.isfinite(everything).all()
    assert everything.max() <= 1.02
    assert _share(np.array([1e-6]), np.array([1e-6]), 80.0, 0.1)[0, 0] == pytest.approx(1.0)


@pytest.fixture(scope="module")
def scene():
    response = simulate.class_response(1024, fwhm=0.14)
    sun = simulate.thermal_spectrum(1.2, 1e-4)
    orbit = simulate.class_orbit(frames=4)
    orbit = orbit.assign_coords(
        dict.fromkeys(("incidence", "phase"), orbit["incidence"] * 0 + 55.0)
    )
    return simulate.class_counts(xrf.HIGHLAND, orbit, sun, response, seed=3), sun, response


def test_lines_weaken_by_the_share_of_their_energy(scene):
    _, sun, _ = scene
    solar = tuple(sun[n].values for n in ("energy_lo", "energy_hi", "photon_flux"))
    weights = [xrf.HIGHLAND[e] for e in xrf.ELEMENTS]

    def lines(incidence, grains):
        model = PhotonModel(solar, Geometry(incidence), conventions=Conventions(regolith=grains))
        return model.line_intensities(np.array(weights))

    strong = lines(60.0, None) > 1e-3 * lines(60.0, None).max()
    share = (lines(60.0, Regolith()) / lines(60.0, None))[strong]
    assert np.all((share > 0.25) & (share < 0.95))
    assert np.ptp(share) > 0.02  # other ratios of lines, too
    assert np.all(share < (lines(30.0, Regolith()) / lines(30.0, None))[strong])
    fine = (lines(60.0, Regolith(grain_radius=0.01)) / lines(60.0, None))[strong]
    np.testing.assert_allclose(fine, 1.0, atol=0.05)


def test_fits_with_grains_are_the_same_in_blocks_and_off_by_choice(scene):
    frames, sun, response = scene
    grains = Conventions(regolith=Regolith(grain_radius=40.0))
    whole = xrf.fit_elements(frames, sun, response, conventions=grains)
    blocks = xrf.fit_elements(frames.chunk(time=2), sun, response, conventions=grains).compute()
    np.testing.assert_allclose(blocks["abundance"], whole["abundance"], rtol=1e-6)
    smooth = xrf.fit_elements(frames, sun, response)
    assert np.abs(whole["abundance"] - smooth["abundance"]).max() > 0.05


def test_what_is_no_ground_is_refused(scene):
    frames, sun, response = scene
    for bad in ({"grain_radius": 0.0}, {"packing": 0.6}, {"density": np.nan}):
        with pytest.raises(InputError):
            Regolith(**bad)
    with pytest.raises(InputError, match="grains"):
        Conventions(regolith=35.0)
    oblique = frames.assign_coords(emission=frames["emission"] * 0 + 30.0)
    with pytest.raises(InputError, match="overhead"):
        xrf.fit_elements(oblique, sun, response, conventions=Conventions(regolith=Regolith()))
