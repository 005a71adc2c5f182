"""Samples, training of folds, scores and regional statistics: what a study of the oxides does besides inverting."""

from __future__ import annotations

import numpy as np

from benchmarks import SEED, dask_threads, needs_lunarray, spectra


class Folds:
    """Ten epochs of four folds of 64 samples on two threads, the paper's widths."""

    timeout = 300
    params = ([16, 32],)
    param_names = ("n",)
    samples, epochs = 64, 10

    def setup(self, n: int) -> None:
        with needs_lunarray():
            from lunarray.oxides.folds import FoldData, train_folds
            from lunarray.oxides.settings import TrainSettings
        rng = np.random.default_rng(SEED)
        x = spectra(self.samples)
        y = rng.uniform(1, 20, (self.samples, 6)).astype(np.float32)
        self.data = FoldData(x, y)
        self.left_out = [np.array([i]) for i in range(4)]
        self.train, self.settings = train_folds, TrainSettings
        self._run(n, 1)

    def _run(self, n: int, epochs: int) -> None:
        settings = self.settings(n=n, epochs=epochs, seed=SEED)
        self.train(self.data, self.left_out, settings, device="cpu", workers=2)

    def time_train(self, n: int) -> None:
        self._run(n, self.epochs)

    def peakmem_train(self, n: int) -> None:
        self._run(n, self.epochs)


class Study:
    """Samples from cubes and maps of a coarse Moon, their correlations, and scores of maps."""

    timeout = 300

    def setup(self) -> None:
        with needs_lunarray():
            import lunarray
        self.la = lunarray
        self.moon = lunarray.simulate.moon(40_000.0, SEED)
        self.cubes = [self.moon.north.compute(), self.moon.south.compute()]
        self.reference = self.moon.reference.compute()
        self.samples = self._build()
        rng = np.random.default_rng(SEED)
        self.truth = self.la.simulate.truth_maps(self.cubes[1])
        self.maps = self.truth + rng.normal(0, 0.3, self.truth["FeO"].shape).astype(np.float32)
        self.regions = self.la.oxides.artemis3_regions(60_000.0)
        self.time_metrics()

    def _build(self):
        with dask_threads():
            return self.la.oxides.build_samples(
                self.cubes, self.reference, reference_window=9
            ).compute()

    def time_build_samples(self) -> None:
        self._build()

    def time_band_correlation(self) -> None:
        self.la.oxides.band_correlation(self.samples).compute()

    def time_metrics(self) -> None:
        self.la.oxides.metrics(self.maps, self.truth).compute()

    def time_region_statistics(self) -> None:
        self.la.geo.region_statistics(self.maps, self.regions).compute()
