"""Wavelengths of the Spectral Profiler's channels, and its radiometric scale: darker and redder than laboratories'."""

from __future__ import annotations

import numpy as np

# fmt: off
#: The 160 channels of the joined VIS + NIR1 spectrum (nm): VIS up to 944.6 nm, then NIR1 from 955.4 nm. The channels
#: on which the SP photometric parameters are published (Yokota et al. 2011; Kouyama et al. 2016).
WAVELENGTHS_160 = np.array([
    512.6, 518.4, 524.7, 530.4, 536.5, 542.8, 548.7, 554.5, 560.5, 566.7, 572.6, 578.5, 584.5, 590.6, 596.7, 602.5,
    608.6, 614.6, 620.5, 626.7, 632.7, 638.6, 644.6, 650.6, 656.6, 662.6, 668.8, 674.7, 680.6, 686.7, 692.6, 698.6,
    704.7, 710.8, 716.7, 722.7, 728.7, 734.7, 740.7, 746.8, 752.8, 758.7, 764.8, 770.7, 776.7, 782.7, 788.8, 794.7,
    800.7, 806.8, 812.7, 818.7, 824.8, 830.8, 836.8, 842.8, 848.8, 854.6, 860.7, 866.7, 872.7, 878.7, 884.6, 890.7,
    896.6, 902.7, 908.7, 914.6, 920.6, 926.6, 932.6, 938.6, 944.6, 955.4, 963.5, 971.4, 979.7, 987.6, 993.7, 1003.6,
    1013.1, 1019.5, 1027.7, 1035.5, 1043.6, 1051.7, 1059.7, 1067.8, 1075.8, 1083.6, 1091.8, 1099.7, 1107.7, 1115.9,
    1123.8, 1131.8, 1139.7, 1147.8, 1155.7, 1163.8, 1171.8, 1179.8, 1187.8, 1195.8, 1203.9, 1211.9, 1219.8, 1227.9,
    1235.9, 1244.0, 1252.0, 1259.8, 1267.8, 1275.9, 1284.2, 1292.0, 1299.8, 1307.8, 1315.9, 1323.8, 1331.8, 1339.8,
    1347.8, 1355.8, 1363.8, 1371.8, 1379.8, 1387.8, 1395.9, 1403.8, 1411.8, 1419.8, 1427.9, 1435.7, 1443.8, 1451.9,
    1459.8, 1467.8, 1475.8, 1483.9, 1491.8, 1499.8, 1507.8, 1515.7, 1523.8, 1531.7, 1539.7, 1547.7, 1555.5, 1563.7,
    1571.7, 1579.6, 1587.7, 1595.7, 1603.7, 1611.7, 1620.1, 1628.1, 1636.1, 1644.2,
], dtype=np.float32)
# fmt: on
WAVELENGTHS_160.setflags(write=False)

#: The default grid of the oxide models: channels 2 to 151 of the joined spectrum (nm). The first channel, 512.6 nm,
#: reads about 17 % low in every spectrum; the last nine add noise and no absorption band.
WAVELENGTHS_150 = WAVELENGTHS_160[1:151]

#: Attributes of the coordinate ``wavelength``.
WAVELENGTH_ATTRS = {
    "units": "nm",
    "standard_name": "radiation_wavelength",
    "long_name": "wavelength",
}

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
    """Give the ratio of SP's reflectance to laboratory reflectance.

    Parameters
    ----------
    wavelengths : array-like, shape (wavelength,)
        nm.

    Returns
    -------
    ndarray, shape (wavelength,), float32
        Divide SP reflectance by it to compare with laboratory spectra and with methods calibrated on these. Constant
        outside 518-1575 nm.

    Examples
    --------
    >>> import lunarray as la
    >>> import numpy as np
    >>> la.sp.sp_scale(np.array([750.0, 1550.0])).round(2)
    array([0.61, 0.77], dtype=float32)
    """
    from scipy.interpolate import CubicSpline

    inside = np.clip(wavelengths, _WAVELENGTHS[0], _WAVELENGTHS[-1])
    return CubicSpline(_WAVELENGTHS, _SCALE)(inside).astype(np.float32)
