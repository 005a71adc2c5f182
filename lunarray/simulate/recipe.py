"""The recipe of an oxide model for any bands: simulate soils in light known more or less, train, calibrate, report."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lunarray.engine.models import Device
from lunarray.errors import InputError, needs
from lunarray.oxides.constants import OXIDES, choose_oxides
from lunarray.oxides.settings import MinibatchSettings
from lunarray.oxides.uncertainty import LightCalibration, by_light, calibrate_light, light_widths
from lunarray.simulate import instrument
from lunarray.simulate.spectra import SP_ERRORS, smoothed, soils
from lunarray.sp.bands import WAVELENGTHS_150

if TYPE_CHECKING:
    from lunarray.oxides.model import LightCNN
    from lunarray.oxides.novelty import NoveltyModel

#: Classes of light, ln-sd of its gain, that a model is calibrated and reported on.
LIGHT_CLASSES = (0.0, 0.1, 0.25, 0.5, 1.0)
#: Soils that a model is calibrated on, and as many that it is reported on.
HELD_OUT = 10_000
#: Seeds apart from the training seed by this much: no held-out soil is a training soil.
CALIBRATION_SEED, HELD_OUT_SEED = 2_000_003, 1_000_003
#: Share of training spectra close to SP's radiometric scale; the others lie anywhere between the laboratory's and SP's.
SP_SHARE = 0.75
#: Relative ripple of a calibration: standard deviation and correlation length, nm. What is left of the mean spectra of
#: two orbits and of three albedo groups, once the nearest simulated shapes are taken off, is of this size.
RIPPLE = (0.006, 25.0)
#: Shares of training spectra in light that is known, and of which nothing is known; of the others the ln-sd is drawn
#: evenly in its logarithm between these.
_KNOWN, _NOTHING, _LIGHT_RANGE = 0.15, 0.15, (0.03, 1.0)
#: Light off by a factor e is off in colour by this much at the ends of the range, and up to so many times noisier.
_COLOUR, _NOISE = 0.02, 4.0
#: Share of spectra whose light is off as that of slopes under a low Sun is, with a long tail to the dark.
_SKEWED = 0.3


def recipe_settings(**changes: Any) -> MinibatchSettings:
    """Settings of the training; `changes` are fields of :class:`lunarray.oxides.settings.MinibatchSettings`.

    Products are of bfloat16 where the processor has instructions for it: half the time.
    """
    with needs("torch", "the training of an oxide model"):
        import torch

    fast = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    own = {
        "precision": "bfloat16" if fast else "float32",
        "epochs": 12, "learning_rate": 2e-3, "batch_size": 128, "schedule": "one-cycle",
        "seed": 20251120,
    }  # fmt: skip
    return MinibatchSettings(**{**own, **changes})


def draw_light(samples: int, rng: np.random.Generator) -> np.ndarray:
    """How well the light of each training spectrum is known: ln-sd of its gain, 0 to 1, float32."""
    kind = rng.random(samples)
    low, high = np.log(_LIGHT_RANGE)
    light = np.exp(rng.uniform(low, high, samples))
    return np.where(kind < _KNOWN, 0, np.where(kind > 1 - _NOTHING, 1, light)).astype(np.float32)


def draw_gain(light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Logarithm of the gain that light known so well is off by, (sample,): zero mean, with `light` as its deviation.

    Normal for most; of the others skewed to the dark (a gamma distribution), as slopes under a low Sun have it.
    """
    samples = len(light)
    tail = -(rng.gamma(4.0, 1.0, samples) - 4) / 2
    drawn = np.where(rng.random(samples) < _SKEWED, tail, rng.standard_normal(samples))
    return (drawn * light).astype(np.float32)


@dataclass(frozen=True)
class Instrument:
    """What a model's spectra are seen with.

    `wavelengths` and `fwhm` (bands,), nm. SP's own spectra (`sp`) lie near SP's radiometric scale, have a step between
    its detectors and are smoothed as :func:`lunarray.sp.condition` does it; those of others lie anywhere between the
    laboratory's and SP's scale and are as they are.
    """

    wavelengths: np.ndarray
    fwhm: np.ndarray
    sp: bool = True

    def measure(
        self, reflectance: np.ndarray, light: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """One draw of scale, light, calibration errors and noise: (sample, bands + 1), the last the light's ln-sd."""
        samples, nm = len(reflectance), self.wavelengths
        near = rng.random(samples) < (SP_SHARE if self.sp else 0.0)
        scale = np.where(near, rng.normal(1.0, 0.08, samples), rng.uniform(-0.05, 1.05, samples))
        off = draw_gain(light, rng)[:, None]
        u = ((nm - nm.mean()) / max(float(np.ptp(nm)) / 2, 1.0)).astype(np.float32)
        off = off + _COLOUR * light[:, None] * rng.standard_normal((samples, 1)) * u
        off = off + RIPPLE[0] * instrument.correlated(rng, reflectance.shape, nm, RIPPLE[1])
        noise = SP_ERRORS["noise"] * (1 + _NOISE * light * rng.random(samples))
        errors: dict[str, Any] = {**SP_ERRORS, "noise": noise, **({} if self.sp else {"step": 0.0})}
        seen = instrument.measure(
            reflectance * np.exp(off).astype(np.float32),
            nm,
            rng,
            scale=scale,
            common_pattern=False,
            **errors,
        )
        if self.sp:
            seen = smoothed(seen, nm)
        return np.concatenate([seen, light[:, None]], axis=1, dtype=np.float32)


@dataclass(frozen=True)
class MadeModel:
    """A model of simulated soils: the trained network and what goes with it, ready to be written.

    `report` is a Markdown table of its errors, and of what its intervals hold, on soils that it has not seen, in
    classes of light.

    Examples
    --------
    >>> import torch
    >>> import lunarray as la
    >>> made = la.simulate.make_oxide_model(la.sp.WAVELENGTHS_150)  # doctest: +SKIP
    >>> print(made.report)  # doctest: +SKIP
    """

    network: LightCNN
    wavelengths: np.ndarray
    oxides: tuple[str, ...]
    novelty: NoveltyModel
    calibration: LightCalibration
    training: dict[str, Any]
    report: str

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the weights, which ``invert_oxides(model=path)`` takes."""
        from lunarray.oxides.weights import save_oxide_cnn

        save_oxide_cnn(
            path,
            self.network,
            wavelengths=self.wavelengths,
            oxides=self.oxides,
            novelty=self.novelty,
            training=self.training,
            calibration=self.calibration,
        )
        return Path(path)


def make_oxide_model(
    wavelengths: np.ndarray | None = None,
    fwhm: np.ndarray | None = None,
    *,
    oxides: tuple[str, ...] | None = None,
    samples: int = 36_000,
    settings: MinibatchSettings | None = None,
    held_out: int = HELD_OUT,
    device: Device = "cpu",
    progress: Callable[[int, float], None] | None = None,
) -> MadeModel:
    """Make an oxide model for the bands of any sensor: simulate soils, train, calibrate, report.

    The model takes spectra at 30°/0°/30° and how well their light is known, and uses their brightness as far as it is;
    see :class:`lunarray.oxides.model.LightCNN`.

    Parameters
    ----------
    wavelengths : array-like, shape (band,), optional
        Band centres within 410-1800 nm, nm, rising; those of the default model for SP's conditioned spectra by default.
    fwhm : array-like, shape (band,), optional
        Widths, nm; SP's by default.
    oxides : tuple of str, optional
        Those that the model gives; all six by default.
    samples : int
        Simulated soils to train on.
    settings : MinibatchSettings, optional
        By default :func:`recipe_settings`.
    held_out : int
        Soils that it is calibrated on, and as many that it is reported on.
    device : {"cpu", "cuda", "auto"}
        Where to train.
    progress : callable, optional
        Called after each epoch with its number and the mean loss.

    Returns
    -------
    MadeModel

    Raises
    ------
    InputError
        Wavelengths beyond what the simulator knows, or that do not rise, widths that do not fit, unknown oxides.

    Examples
    --------
    >>> import torch
    >>> import lunarray as la
    >>> made = la.simulate.make_oxide_model(la.sp.WAVELENGTHS_150)  # doctest: +SKIP
    >>> made.save("mine.safetensors")  # doctest: +SKIP
    """
    from lunarray.oxides.minibatch import train_light_network
    from lunarray.oxides.novelty import fit_novelty

    settings = settings or recipe_settings()
    names = choose_oxides(oxides, "make_oxide_model", model=OXIDES)
    nm = np.asarray(WAVELENGTHS_150 if wavelengths is None else wavelengths, np.float32).reshape(-1)
    if nm.size < 2 or not (np.diff(nm) > 0).all():
        raise InputError(
            f"{nm.size} wavelengths, or some that do not rise",
            where="wavelengths",
            remedy="Give the centres of at least two bands in nm, from short to long",
        )
    own = nm.size == WAVELENGTHS_150.size and np.allclose(nm, WAVELENGTHS_150, atol=1.0)
    widths = instrument.sp_fwhm(nm) if fwhm is None else np.asarray(fwhm, np.float64).reshape(-1)
    sensor = Instrument(nm, widths, sp=bool(own))

    def simulated(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = soils(count, seed, nm, widths)
        return drawn.reflectance.values, np.stack([drawn[o].values for o in names], axis=1)

    spectra, truth = simulated(samples, settings.seed)
    rng = np.random.default_rng(settings.seed + 1)
    known = sensor.measure(spectra, np.zeros(samples, np.float32), rng)[:, :-1]
    network = train_light_network(
        truth,
        settings,
        draw=lambda rng: sensor.measure(spectra, draw_light(samples, rng), rng),
        level=known,
        device=device,
        progress=progress,
    )
    calibration = _calibrated(
        network, sensor, *simulated(held_out, settings.seed + CALIBRATION_SEED)
    )
    fresh = simulated(held_out, settings.seed + HELD_OUT_SEED)
    training = {
        "data": "lunarray.simulate.soils, simulations only",
        "recipe": "lunarray.simulate.make_oxide_model",
        "soils": samples,
        **settings.to_dict(),
        "errors": SP_ERRORS,
        "ripple": RIPPLE,
        "light_classes": LIGHT_CLASSES,
        "sp": sensor.sp,
    }
    report = held_out_report(network, calibration, sensor, *fresh, names)
    return MadeModel(
        network,
        nm,
        names,
        fit_novelty(_seen(sensor, spectra, known, rng)),
        calibration,
        training,
        report,
    )


def run_network(network: LightCNN, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Oxides and the network's own standard deviations of their errors, wt%, of (pixel, bands + 1)."""
    import torch

    parts = []
    with torch.inference_mode():
        for start in range(0, len(pixels), 512):
            found, log_std = network.forward_standardised(
                torch.from_numpy(pixels[start : start + 512])
            )
            parts.append(
                (
                    (found * network.target_std + network.target_mean).numpy(),
                    (log_std.exp() * network.target_std).numpy(),
                )
            )
    found, std = zip(*parts, strict=True)
    return np.concatenate(found), np.concatenate(std)


def _seen(
    sensor: Instrument, spectra: np.ndarray, known: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Spectra of the shapes that all light gives and of the levels that known light gives, for the novelty."""
    seen = sensor.measure(spectra, draw_light(len(spectra), rng), rng)[:, :-1]
    return seen * (known.mean(axis=1) / seen.mean(axis=1))[:, None]


def _calibrated(
    network: LightCNN, sensor: Instrument, spectra: np.ndarray, truth: np.ndarray
) -> LightCalibration:
    """Errors on soils of their own, neither trained on nor reported on, in each class of light."""
    found, std = [], []
    for number, light in enumerate(LIGHT_CLASSES):
        rng = np.random.default_rng((CALIBRATION_SEED, number))
        pixels = sensor.measure(spectra, np.full(len(spectra), light, np.float32), rng)
        values, own = run_network(network, pixels)
        found.append(values)
        std.append(own)
    return calibrate_light(LIGHT_CLASSES, found, std, truth)


def held_out_report(
    network: LightCNN,
    calibration: LightCalibration,
    sensor: Instrument,
    spectra: np.ndarray,
    truth: np.ndarray,
    names: tuple[str, ...],
) -> str:
    """Errors in classes of light on soils that neither training nor calibration has seen, as a Markdown table."""
    widths = light_widths(calibration, 0.9)
    rows = []
    for number, light in enumerate(LIGHT_CLASSES):
        rng = np.random.default_rng((HELD_OUT_SEED, number))
        pixels = sensor.measure(spectra, np.full(len(spectra), light, np.float32), rng)
        found, std = run_network(network, pixels)
        error = found - truth
        half = std * [
            by_light(np.float32(light), calibration.light, calibration.factor[:, o])
            * by_light(np.float32(light), calibration.light, widths[:, o])
            for o in range(len(names))
        ]
        text = "known" if light == 0 else f"{light:g}"
        rows.append([text, "RMSE", *np.sqrt((error**2).mean(axis=0))])
        rows.append([text, "bias", *error.mean(axis=0)])
        rows.append([text, "in 90 % interval, %", *(100 * (np.abs(error) <= half).mean(axis=0))])
    rows.append(["(spread of the truth)", "standard deviation", *truth.std(axis=0)])
    lines = [["ln-sd of the light", "measure", *names], ["---"] * (2 + len(names))]
    lines += [[c if isinstance(c, str) else f"{c:.2f}" for c in row] for row in rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{len(spectra)} held-out soils, wt% (shares in %):\n\n{table}"
