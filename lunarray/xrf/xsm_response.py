"""A response of the Solar X-ray Monitor from what its makers tell, where no RMF is at hand."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from lunarray.errors import require_number
from lunarray.xrf.response import Response
from lunarray.xrf.response_files import read_arf

__all__ = ["XSM_CHANNELS", "xsm_response"]

#: Channels of a spectrum of XSM.
XSM_CHANNELS = 512
#: Lower edge of the first channel and width of each (keV), and resolution at 5.9 keV (keV): of the flare of 2021-08-27
#: and four of the brightest days of 2022-2023, fitted with plasmas of many temperatures. They differ by 6 eV in the
#: edge, 0.2 % in the width and 15 eV in the resolution; the makers told 175 eV before launch.
_FIRST, _WIDTH = 0.478, 0.03336
_FWHM, _AT = 0.178, 5.9
#: What Fano noise, and a gain that drifts a little, add to a variance by energy (keV).
_FANO = 4.5e-4
#: Aperture (cm²); µm of beryllium window, dead and sensitive silicon (Mithun et al., 2020; the dead layer from the
#: effective areas that come with spectra).
_AREA, _BERYLLIUM, _DEAD, _DEPTH = 3.84e-3, 8.0, 0.117, 450.0
#: Where the Sun usually stands, off the axis (degrees).
_SUN_ANGLE = 37.5
#: Between 0.1 and 20.1 keV.
_EDGES = np.round(0.1 + 0.01 * np.arange(2001), 6)


def xsm_response(
    arf: str | os.PathLike[str] | None = None,
    *,
    sun_angle: float = _SUN_ANGLE,
    fwhm: float = _FWHM,
    slope: float = 1.0,
    offset: float = 0.0,
) -> Response:
    """Make a response of XSM: its resolution, and its effective area.

    Parameters
    ----------
    arf : path, optional
        The ARF that comes with a spectrum. By default the area is computed: an aperture, a window of beryllium and a
        detector of silicon.
    sun_angle : float
        Degrees between the Sun and the axis, for that computation. The ARFs at hand, of 36 to 46 degrees, are followed
        to 7 % above 1.2 keV.
    fwhm : float
        Resolution at 5.9 keV (keV).
    slope, offset : float
        Of the energy scale: what is counted at nominal energy E is counted at slope × (E + offset), keV.

    Returns
    -------
    Response
        Of 512 channels.

    Raises
    ------
    InputError
        If the ARF is missing, or the resolution is no positive number.
    ProductFormatError
        If the ARF is none.

    References
    ----------
    Mithun, N. P. S., et al., 2020. Sol. Phys. 295, 139.

    Examples
    --------
    >>> from lunarray.xrf.xsm_response import xsm_response
    >>> response = xsm_response()
    >>> response.channels, round(float(response.area.max()), 4)
    (512, 0.003)
    """
    from scipy.special import ndtr

    require_number("fwhm", fwhm, 0.12)
    require_number("slope", slope, 0, strictly=True)
    require_number("sun_angle", sun_angle, 0, 60)
    low, high = _EDGES[:-1], _EDGES[1:]
    energy = (low + high) / 2
    if arf is None:
        area = _effective_area(energy, sun_angle)
        area_energy, area_curve = energy, area
    else:
        area_energy, area_curve = read_arf(arf)
        area = np.interp(energy, area_energy, area_curve)
    edges = slope * (_FIRST + offset + _WIDTH * np.arange(XSM_CHANNELS + 1))
    sigma = np.sqrt(np.maximum((fwhm / 2.3548) ** 2 + _FANO * (energy - _AT), 1e-4))
    row, channel, value = [0], [], []
    for e, s in zip(energy, sigma, strict=True):
        a, b = np.searchsorted(edges, [e - 6 * s, e + 6 * s]) - 1
        a, b = max(int(a), 0), max(min(int(b) + 1, XSM_CHANNELS), 0)
        share = np.diff(ndtr((edges[a : b + 1] - e) / s))
        channel.append(np.arange(a, a + share.size))
        value.append(share)
        row.append(row[-1] + share.size)
    return Response(
        energy_lo=low, energy_hi=high, area=area, row=np.array(row), channel=np.concatenate(channel),
        value=np.concatenate(value), channel_lo=edges[:-1], channel_hi=edges[1:], area_energy=area_energy,
        area_curve=area_curve,
    )  # fmt: skip


def _effective_area(energy: np.ndarray, sun_angle: float) -> np.ndarray:
    """cm², by the photoabsorption of what the photons pass and stop in."""
    import xraylib

    slant = np.cos(np.deg2rad(sun_angle))

    def depth(number: int, density: float, microns: float, kind: Any) -> np.ndarray:
        path = microns * 1e-4 / slant
        return np.array([kind(number, float(e)) for e in energy]) * density * path

    window = depth(4, 1.848, _BERYLLIUM, xraylib.CS_Total)
    dead = depth(14, 2.33, _DEAD, xraylib.CS_Total)
    stopped = depth(14, 2.33, _DEPTH, xraylib.CS_Photo)
    return _AREA * slant * np.exp(-window - dead) * -np.expm1(-stopped)
