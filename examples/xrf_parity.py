"""A published CLASS spectrum fitted three ways: as PyXspec did, in its conventions, and with the right physics.

    python examples/xrf_parity.py ../shared/data

The folder holds ``class/issdc_fit`` (spectrum, background, RMF, ARF, solar model, scatter table model, PyXspec's log)
and ``atomic/ffast``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from lunarray.xrf import ELEMENTS, Conventions, FitSettings, read_response, read_solar_model
from lunarray.xrf.atomic import atomic_tables
from lunarray.xrf.constants import PYXSPEC_START
from lunarray.xrf.fit import fit_spectrum, spectrum_statistic
from lunarray.xrf.model import SpectralModel
from lunarray.xrf.settings import Geometry, Observation
from lunarray.xrf.table_models import read_table_model

NAME = "20210827T210316000_20210827T210332000"
BACKGROUND = "ch2_cla_l1_20210826T220355000_20210826T223335000_1024.fits"
CHANNELS = slice(34, 155)
#: PyXspec's best fit, from pyxspec_run.xcm: weights, XRF norm, scatter norm.
BEST = np.array([3.88864, 1.09157e-06, 16.5994, 15.1719, 17.0742, 2.26579, 6.77069e-06, 45.0])
BEST_NORMS, GAIN = (1.03754, 1.63901), (1.0043, 0.0316)


def main(folder: Path) -> None:
    from astropy.io import fits

    here = folder / "class" / "issdc_fit"
    with (
        fits.open(here / f"ch2_cla_l1_{NAME}_1024.fits") as own,
        fits.open(here / BACKGROUND) as back,
    ):
        header = own[1].header
        data = Observation(
            np.array(own[1].data["COUNTS"], float), header["EXPOSURE"],
            np.array(back[1].data["COUNTS"], float), back[1].header["EXPOSURE"],
        )  # fmt: skip
    geometry = Geometry(
        header["SOLARANG"], header["EMISNANG"], header["PHASEANG"], header["SAT_ALT"]
    )
    sun = read_solar_model(here / f"modelop_{NAME}.txt")
    solar = tuple(sun[name].values for name in ("energy_lo", "energy_hi", "photon_flux"))
    table = read_table_model(here / f"tbmodel_{NAME}.fits").isel(addnorm=0)
    scatter = tuple(table[name].values for name in ("energy_lo", "energy_hi", "flux"))
    files = here / "class_rmf_v1.rmf", here / "class_arf_v1.arf"

    coarse = atomic_tables(source=folder / "atomic" / "ffast", interpolation="linear")
    theirs = read_response(*files, first_channel=1, area_at="rows")

    def published(tables):
        return SpectralModel(
            theirs, solar, geometry, exposure=data.exposure, tables=tables,
            conventions=Conventions.published(), channels=CHANNELS, scatter=scatter,
        )  # fmt: skip

    model = published(coarse)
    for label, weights, norms, printed in (
        ("PyXspec's start", list(PYXSPEC_START.values()), (1.0, 1.0), 341.13),
        ("PyXspec's best fit", BEST, BEST_NORMS, 165.13),
    ):
        spectrum = sum(model.counts(weights, *norms, *GAIN))
        value = spectrum_statistic(data, spectrum, CHANNELS)
        print(f"chi2 at {label:20s} {value:9.3f}   PyXspec printed {printed}")

    right = SpectralModel(read_response(*files), solar, geometry, channels=CHANNELS)
    cases = {
        "published conventions": (model, FitSettings.published()),
        "+ log-log cross sections": (published(atomic_tables()), FitSettings.published()),
        "right physics": (right, FitSettings()),
        "right physics, free gain": (right, FitSettings(fit_gain=True)),
    }
    head = "".join(f"{e:>12s}" for e in ELEMENTS)
    print(f"\n{'':26s} {'chi2':>8s} {'dof':>4s} {'ms':>6s}  norms (XRF, scatter)   {head}")
    recorded = "".join(f"{w:7.2f}     " for w in BEST)
    norms = f"{BEST_NORMS[0]:6.3f} {BEST_NORMS[1]:6.3f}"
    print(f"{'PyXspec':26s} {165.13:8.2f} {113:4d} {'':6s}  {norms}        {recorded}")
    for label, (case, settings) in cases.items():
        result = fit_spectrum(data, case, settings)
        times = []
        for _ in range(10):
            begin = time.perf_counter()
            fit_spectrum(data, case, settings)
            times.append(time.perf_counter() - begin)
        shown = ""
        for value, error, name in zip(result.weights, result.weight_errors, ELEMENTS, strict=True):
            mark = "*" if "not_constrained" in result.flags(name) else " "
            shown += (
                f"{value:7.2f}"
                + (f"±{min(error, 999):<4.3g}" if np.isfinite(error) else "     ")
                + mark
            )
        norms = f"{result.xrf_norm:6.3f} {result.scatter_norm:6.3f}"
        took = 1e3 * np.median(times)
        print(
            f"{label:26s} {result.statistic:8.2f} {result.dof:4d} {took:6.1f}  {norms}        {shown}"
        )
        if settings.fit_gain:
            print(f"{'':26s} gain {result.slope:.4f}, {1e3 * result.offset:+.1f} eV")
    print(
        "\n* not constrained by the data: the error is as wide as the bounds or the prior.\n"
        "What changes: (1) channels counted from 0 and areas at their own energies leave almost no gain to fit, where\n"
        "the published fit needed +31.6 eV; (2) the norms of lines and continuum come from one Sun, one field of view\n"
        "and one surface, and agree within a third; (3) eq. 1 has the sine of the emergent angle in front, not of the\n"
        "incident one, a factor of 2.3 here that the norm had swallowed; (4) a weak prior on Fe, Ti and Na, which\n"
        "this flare hardly excites, keeps them from trading places with the norm: Al, Si, Ca and Mg get real errors."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of real data")
    main(parser.parse_args().folder)
