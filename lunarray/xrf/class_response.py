"""A response of CLASS from what is known of its parts, where no RMF is at hand."""

from __future__ import annotations

import numpy as np

from lunarray.errors import InputError, require_number
from lunarray.xrf.line_shape import LineShape
from lunarray.xrf.response import Response

__all__ = ["class_response"]

#: Energy of the last channel's end (keV): 2048 channels of 13.5 eV, as GAIN says, or 1024 of 27 eV.
_FULL_SCALE = 27.648
#: cm² that is seen of the 64 of 16 swept charge devices; µm of aluminium and polyimide of filters, of silicon that does
#: not count, and of silicon that does. Fitted to the makers' effective area at 0.8-11 keV, which they follow to 0.4 %
#: (rms; at most 2 %, below 1.2 keV).
_AREA, _ALUMINIUM, _POLYIMIDE, _DEAD, _DEPTH = 53.61, 0.434, 1.73, 0.784, 39.06
#: Mass fractions of polyimide, C22H10N2O5, by atomic number.
_POLYIMIDE_PARTS = {1: 0.0264, 6: 0.6911, 7: 0.0733, 8: 0.2092}
#: Of what is counted at energies (keV): the share in the photopeak, how far (keV) this lies below the energy, and the
#: share that has lost more than 0.6 keV. The rest has lost about 0.24 keV. Measured in the makers' matrix.
_SHARES = np.array([
    (0.51, 0.990, 0.0120, 0.0000), (0.70, 0.985, 0.0123, 0.0000), (0.90, 0.940, 0.0111, 0.0000),
    (1.10, 0.905, 0.0098, 0.0020), (1.25, 0.905, 0.0095, 0.0067), (1.49, 0.920, 0.0090, 0.0197),
    (1.60, 0.914, 0.0095, 0.0281), (1.735, 0.895, 0.0098, 0.0435), (1.835, 0.872, 0.0105, 0.0612),
    (1.842, 0.901, 0.0092, 0.0106), (2.00, 0.909, 0.0091, 0.0120), (2.30, 0.906, 0.0088, 0.0267),
    (2.63, 0.912, 0.0085, 0.0320), (3.30, 0.916, 0.0086, 0.0477), (3.71, 0.907, 0.0088, 0.0594),
    (4.50, 0.847, 0.0101, 0.1146), (5.39, 0.704, 0.0120, 0.2469), (5.91, 0.608, 0.0136, 0.3432),
    (6.41, 0.539, 0.0140, 0.4139), (7.09, 0.447, 0.0149, 0.5106), (8.00, 0.306, 0.0169, 0.6619),
    (10.0, 0.181, 0.0189, 0.8007), (12.0, 0.136, 0.0192, 0.8498),
])  # fmt: skip
#: Where those that lost little are counted, below the line, and how broadly beside the resolution (keV).
_LOSS, _LOSS_SPREAD, _LARGE_LOSS = 0.24, 0.05, 0.6
#: Between 0.1 and 15.1 keV.
_EDGES = np.round(0.1 + 0.01 * np.arange(1501), 6)


def class_response(channels: int = 2048, *, fwhm: float = 0.142) -> Response:
    """Make a response of CLASS, all of its detectors, without its RMF and ARF.

    The effective area is that of filters of aluminium and polyimide, and of a layer of silicon; a line is a photopeak,
    a tail and a shelf. What these amount to was measured in the RMF and the ARF that the makers hand out, so this is a
    description of them, not another calibration. Escape peaks are part of the shelf. Width and gain are those that the
    fit finds, whatever `fwhm` (``calibration="auto"`` of :func:`lunarray.xrf.fit_elements`).

    Parameters
    ----------
    channels : int
        2048 or 1024, on 0-27.648 keV.
    fwhm : float
        Full width of a line at half maximum, at 1.5 keV (keV); its square grows with energy (Fano).

    Returns
    -------
    Response
        Of 1500 energies of 10 eV, from 0.1 keV.

    Raises
    ------
    InputError
        If CLASS has no such channels, or the width is not between 0.05 and 0.4 keV.

    References
    ----------
    Pillai, N. S., et al., 2021. Icarus 363, 114436.

    Examples
    --------
    >>> from lunarray.xrf.class_response import class_response
    >>> response = class_response(1024)
    >>> response.channels, round(response.line_width(1.5), 3), round(float(response.area.max()))
    (1024, 0.142, 46)
    """
    from scipy.special import ndtr

    if channels not in (1024, 2048):
        raise InputError(
            f"{channels} channels, where CLASS has 2048 or, joined in pairs, 1024",
            where="channels",
            remedy="Give the RMF that was made for these spectra",
        )
    require_number("fwhm", fwhm, 0.05, 0.4)
    low, high = _EDGES[:-1], _EDGES[1:]
    energy = (low + high) / 2
    edges = _FULL_SCALE / channels * np.arange(channels + 1)
    sigma = LineShape(fwhm).sigma(energy)
    peak, shift, far = (np.interp(energy, _SHARES[:, 0], _SHARES[:, k]) for k in (1, 2, 3))
    row, channel, value = [0], [], []
    for e, s, p, moved, lost in zip(energy, sigma, peak, shift, far, strict=True):
        stop = min(int(np.searchsorted(edges, e + 6 * s)) + 1, edges.size)
        own = edges[:stop]
        share = p * np.diff(ndtr((own - (e - moved)) / s))
        # Nothing is counted below 0: there the little loss of a faint photon is part of its peak.
        reach = max(e - _LARGE_LOSS, 0.0)
        near = np.diff(ndtr((own - max(e - _LOSS, 0.0)) / np.hypot(s, _LOSS_SPREAD)))
        share += (1.0 - p - lost) * near / max(near.sum(), 1e-9)
        if reach > 0.0:
            share += lost * np.diff(np.clip(own, 0.0, reach)) / reach
        kept = share > 1e-9
        channel.append(np.flatnonzero(kept))
        value.append(share[kept] / share[kept].sum())
        row.append(row[-1] + int(kept.sum()))
    area = _effective_area(energy)
    return Response(
        energy_lo=low, energy_hi=high, area=area, row=np.array(row), channel=np.concatenate(channel),
        value=np.concatenate(value), channel_lo=edges[:-1], channel_hi=edges[1:], area_energy=energy,
        area_curve=area,
    )  # fmt: skip


def _effective_area(energy: np.ndarray) -> np.ndarray:
    """cm², by the photoabsorption of what the photons pass and stop in."""
    import xraylib

    def depth(parts: dict[int, float], density: float, microns: float) -> np.ndarray:
        total = sum(
            share * np.array([xraylib.CS_Total(z, float(e)) for e in energy])
            for z, share in parts.items()
        )
        return np.asarray(total) * density * microns * 1e-4

    passed = depth({13: 1.0}, 2.70, _ALUMINIUM) + depth({14: 1.0}, 2.33, _DEAD)
    passed += depth(_POLYIMIDE_PARTS, 1.42, _POLYIMIDE)
    stopped = np.array([xraylib.CS_Photo(14, float(e)) for e in energy]) * 2.33 * _DEPTH * 1e-4
    return _AREA * np.exp(-passed) * -np.expm1(-stopped)
