"""The radiometric scale of the Spectral Profiler: darker and redder than laboratories see the same soils."""

from __future__ import annotations

import numpy as np

#: Ratio of SP reflectance (L2C, REF1) to the reflectance of the same soil in the laboratory at these wavelengths
#: (nm). SP reads the Moon darker and redder than the Apollo samples: part is calibration (Pieters et al. 2013,
#: Ohtake et al. 2013, Icarus 226, 951 and 364), part the fluffier undisturbed surface. Obtained as the mean
#: spectrum of the high albedo group (Kouyama et al. 2016) over the model's mature feldspathic highland soil of 4.8
#: wt% FeO and 28.8 wt% Al2O3 with the iron and glass of 62231 (rms of the smooth curve 0.6 %).
_WAVELENGTHS = np.array(
    [518, 545, 580, 620, 680, 750, 820, 890, 960, 1040, 1120, 1220, 1340, 1460, 1575.0]
)
_SCALE = np.array(
    [0.4607, 0.4907, 0.5285, 0.5610, 0.5868, 0.6088, 0.6237, 0.6410, 0.6809,
     0.7065, 0.7233, 0.7341, 0.7399, 0.7592, 0.7666]
)  # fmt: skip


def sp_scale(wavelengths: np.ndarray) -> np.ndarray:
    """Give the ratio of SP's reflectance to that of the laboratory.

    Parameters
    ----------
    wavelengths : array-like, shape (wavelength,)
        nm.

    Returns
    -------
    ndarray, shape (wavelength,), float32
        Divide SP reflectance by it to compare with laboratory spectra and with methods calibrated on these. Constant
        outside 518-1575 nm.
    """
    from scipy.interpolate import CubicSpline

    inside = np.clip(wavelengths, _WAVELENGTHS[0], _WAVELENGTHS[-1])
    return CubicSpline(_WAVELENGTHS, _SCALE)(inside).astype(np.float32)
