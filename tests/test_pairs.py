"""Pairs of spectra and chemistry: tables of them, what is left out together, regressions, methods side by side."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import lunarray as la
from lunarray import oxides, simulate
from lunarray.errors import InputError, LunarrayError
from lunarray.oxides import OXIDES, TrainSettings, compare_methods, open_pairs, regressors, train
from lunarray.oxides.dealing import deal

WAVES = np.arange(520.0, 1600.0, 40.0)


def soils(count: int, seed: int) -> xr.Dataset:
    """Soils with the errors of a laboratory."""
    ds = simulate.soils(count, seed, WAVES)[["reflectance", *OXIDES]]
    rng = np.random.default_rng(seed)
    ds["reflectance"] = ds.reflectance * rng.normal(1, 0.01, ds.reflectance.shape).astype("f4")
    return ds.assign_coords(
        lon=("sample", rng.uniform(-180, 180, count)),
        lat=("sample", rng.uniform(-60, 60, count)),
        mission=("sample", rng.choice(["Apollo 11", "Apollo 16", "Luna 24", "CE-5"], count)),
        specimen=("sample", np.repeat(np.arange(count), 2)[:count]),
    )


def table(path: Path, ds: xr.Dataset, errors: bool = True, delimiter: str = ",") -> Path:
    """The same as a table of text."""
    names = ["sample", "Longitude", "lat", "mission", *OXIDES]
    columns = [ds.specimen.values, ds.lon.values, ds.lat.values, ds.mission.values]
    columns += [ds[o].values for o in OXIDES]
    if errors:
        names.append("FeO_error")
        columns.append(np.full(ds.sizes["sample"], 0.5))
    # Wavelengths in no order.
    order = np.argsort(np.cos(WAVES))
    names += [f"{w:g}" for w in WAVES[order]]
    columns += list(ds.reflectance.values.T[order])
    lines = [delimiter.join(names)]
    lines += [delimiter.join(map(str, row)) for row in zip(*columns, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_and_a_store_are_the_same_pairs(tmp_path, delimiter):
    ds = soils(12, 1)
    found = open_pairs(table(tmp_path / "p.csv", ds, delimiter=delimiter))
    assert found.sizes == {"sample": 12, "wavelength": WAVES.size}
    np.testing.assert_allclose(found.wavelength, WAVES)
    np.testing.assert_allclose(found.reflectance, ds.reflectance, rtol=1e-6)
    for oxide in OXIDES:
        np.testing.assert_allclose(found[oxide], ds[oxide], rtol=1e-6)
        assert found[oxide].attrs["units"] == ds[oxide].attrs["units"]
    np.testing.assert_allclose(found.FeO_std, 0.5)
    np.testing.assert_allclose(found.lon, ds.lon)
    assert list(found.mission.values) == list(ds.mission.values)
    assert list(found.specimen.values) == list(ds.specimen.values)
    ds["FeO_error"] = ("sample", np.full(12, 0.5))
    ds.lunar.to_zarr(tmp_path / "p.zarr", progress=False)
    again = open_pairs(tmp_path / "p.zarr")
    xr.testing.assert_allclose(again.drop_attrs(), found.drop_attrs())


def test_missing_cells(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(
        "name,FeO (wt%),TiO2,FeO_std,500 nm,600,note\na,10,1,0.5,0.1,0.2,\nb,,2,,0.2,nan,x\nc,12,NA,,0.1,0.1,\n"
    )
    found = open_pairs(path)
    assert np.isnan(found.FeO.values[1])
    assert np.isnan(found.TiO2.values[2])
    np.testing.assert_allclose(found.FeO_std, 0.5)
    # Of a lacking titanium the iron is none the worse.
    kept = oxides.select_samples(found.drop_vars("TiO2"))
    assert list(kept["name"].values) == ["a", "c"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("FeO,TiO2\n1,2\n", "no wavelengths"),
        ("FeO,500\n1,0.1\n", "1 wavelength among"),
        ("500,600\n0.1,0.2\n", "no oxide"),
        ("FeO,0.5,0.6\n1,0.1,0.2\n", "no nm"),
        ("FeO,500,500.0\n1,0.1,0.2\n", "comes twice"),
        ("FeO,500,600\n1,10.1,20.2\n", "no share of the light"),
        ("FeO,500,600\n1,0.1,bright\n", "600 of row 1 is 'bright'"),
        ("FeO,500,600\n1,0.1\n", "row 1 has 2 cells"),
        ("FeO,feo,500,600\n1,1,0.1,0.2\n", "two columns of FeO"),
        ("FeO,500,600\n-1,0.1,0.2\n", "FeO of row 1 is -1"),
        ("FeO,FeO_error,500,600\n1,,0.1,0.2\n", "no number in the errors of FeO"),
        ("FeO,500,600\n", "1 lines"),
        ("", "0 lines"),
    ],
)
def test_what_is_no_table_is_told(tmp_path, text, match):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=match):
        open_pairs(path)


def test_what_is_no_file_is_told(tmp_path):
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x01" * 9)
    for path in (tmp_path / "none.csv", tmp_path / "b.csv", tmp_path):
        with pytest.raises(LunarrayError):
            open_pairs(path)


# ---- what is left out together ----
@pytest.mark.parametrize("by", ["mission", "specimen", "lon"])
@pytest.mark.parametrize("folds", [2, 3, "leave-one-out"])
def test_groups_are_never_split(by, folds):
    ds = soils(31, 2)
    parts = deal(ds, folds, by, 0)
    assert sorted(np.concatenate(parts)) == list(range(31))
    assert all(part.size for part in parts)
    values = [set(ds[by].values[part]) for part in parts]
    assert sum(map(len, values)) == len(set(ds[by].values))
    assert len(parts) == (len(set(ds[by].values)) if folds == "leave-one-out" else folds)
    if by != "mission" and folds != "leave-one-out":
        # Neighbours together, of about equal counts.
        assert all(max(a) < min(b) for a, b in pairwise(values))
        assert max(map(len, parts)) - min(map(len, parts)) <= 2


def test_few_and_uneven_groups():
    ds = soils(20, 2).assign_coords(site=("sample", np.r_[np.zeros(17), 1.0, 2.0, 3.0]))
    parts = deal(ds, 4, "site", 0)
    assert [len(p) for p in parts] == [17, 1, 1, 1]
    with pytest.raises(InputError, match="4 values of 'site' for 5 folds"):
        deal(ds, 5, "site", 0)
    with pytest.raises(InputError, match="no coordinate 'planet'"):
        deal(ds, 2, "planet", 0)


# ---- regressions ----
def test_partial_least_squares_are_those_of_scikit_learn():
    pls = pytest.importorskip("sklearn.cross_decomposition").PLSRegression
    ds = soils(60, 3)
    x, y = ds.reflectance.values.astype(float), ds.FeO.values.astype(float)
    for count in (1, 3, 6):
        b, offset = regressors._pls(x, y, np.ones(60), 8)[count - 1]
        theirs = pls(n_components=count, scale=False).fit(x, y).predict(x).ravel()
        np.testing.assert_allclose(x @ b + offset, theirs, atol=1e-6)


def test_gaussian_processes_are_those_of_scikit_learn():
    gp = pytest.importorskip("sklearn.gaussian_process")
    kernels = gp.kernels
    rng = np.random.default_rng(0)
    z, t, noise = rng.normal(size=(40, 2)), rng.normal(size=40), rng.uniform(0, 0.1, 40)
    theta = np.log([0.7, 1.5, 0.4, 0.8, 0.2])
    scale = np.exp(theta[:2])
    theirs = gp.GaussianProcessRegressor(
        kernels.ConstantKernel(1.0, "fixed")
        + kernels.ConstantKernel(0.4**2, "fixed") * kernels.DotProduct(0.0, "fixed")
        + kernels.ConstantKernel(0.8**2, "fixed") * kernels.RBF(1.0, "fixed"),
        alpha=noise + 0.2**2, optimizer=None,
    ).fit(z * scale, t)  # fmt: skip
    new = rng.normal(size=(7, 2))
    k = regressors._kernel(z, z, theta) + np.diag(noise + 0.2**2)
    ours = regressors._kernel(new, z, theta) @ np.linalg.solve(k, t)
    np.testing.assert_allclose(ours, theirs.predict(new * scale), rtol=1e-6)


@pytest.mark.parametrize("method", ["pls", "gp"])
def test_regressions_beat_the_mean_by_far(method):
    ds = soils(160, 4)
    fit = train(ds, folds=4, by="lon", method=method)
    scores = fit.metrics()
    assert scores.attrs["of"] == "left-out predictions"
    spread = float(ds.FeO.std())
    assert float(scores.RMSE.sel(oxide="FeO")) < 0.5 * spread
    assert float(scores.RMSE.sel(oxide="Al2O3")) < 0.6 * float(ds.Al2O3.std())
    new = soils(30, 5)
    off = fit.predict(new).FeO.values - new.FeO.values
    assert np.sqrt(np.mean(off**2)) < 0.5 * spread
    assert fit.calibration is not None
    xr.testing.assert_identical(fit.left_out, train(ds, folds=4, by="lon", method=method).left_out)


@pytest.mark.parametrize("method", ["pls", "gp"])
def test_saved_regressions_run_in_the_inversion(tmp_path, method):
    ds = soils(60, 4)
    fit = train(ds, folds=4, method=method)
    path = fit.save(tmp_path / "m.safetensors")
    new = soils(20, 5)
    maps = new.reflectance.chunk(sample=7).lunar.invert_oxides(path, uncertainty=True).compute()
    np.testing.assert_allclose(maps.FeO, fit.predict(new).FeO, rtol=1e-4, atol=1e-4)
    assert (maps.FeO_upper > maps.FeO_lower).all()
    assert np.isfinite(maps.novelty).all()
    # Without folds nothing is known of the errors.
    bare = train(ds, method=method).save(tmp_path / "b.safetensors")
    assert "FeO" in new.reflectance.lunar.invert_oxides(bare)
    with pytest.raises(LunarrayError, match="calibration"):
        new.reflectance.lunar.invert_oxides(bare, uncertainty=True)


@pytest.mark.parametrize("method", ["pls", "gp", "cnn"])
def test_pairs_with_large_errors_count_little(method):
    ds = soils(60, 6)
    rng = np.random.default_rng(1)
    wrong = np.arange(60) % 3 == 0
    ds["FeO"] = ds.FeO + (20 * wrong * rng.random(60)).astype("f4")
    told = ds.assign(FeO_std=("sample", np.where(wrong, 20.0, 0.2).astype("f4")))
    new = soils(100, 7)
    settings = TrainSettings(n=4, epochs=80, learning_rate=5e-3)
    errors = [
        float(np.abs(train(pairs, settings, method=method, oxides=["FeO"]).predict(new).FeO - new.FeO).mean())
        for pairs in (ds, told)
    ]  # fmt: skip
    assert errors[1] < 0.75 * errors[0]


@pytest.mark.parametrize("method", ["pls", "gp", "cnn"])
def test_simulated_soils_help_where_pairs_are_few(method):
    few, prior, new = soils(8, 8), soils(100, 9), soils(100, 10)
    settings = TrainSettings(n=4, epochs=80, learning_rate=5e-3)
    errors = []
    for known in (None, prior):
        fit = train(few, settings, method=method, prior=known, folds=4)
        assert fit.left_out.sizes["sample"] == 8
        assert np.isfinite(fit.left_out.FeO).all()
        assert int(fit.metrics()["count"].min()) == 8
        off = fit.predict(new).FeO - new.FeO
        errors.append(float(np.sqrt((off**2).mean())))
    assert errors[1] < errors[0]


def test_what_is_no_prior_is_told():
    ds = soils(10, 1)
    with pytest.raises(InputError, match="other wavelengths"):
        train(ds, method="pls", prior=simulate.soils(5, 1))
    with pytest.raises(InputError, match="FeO"):
        train(ds, method="pls", prior=ds.drop_vars("FeO"))
    with pytest.raises(InputError, match="method"):
        train(ds, method="forest")


def test_oxides_that_are_not_asked_for_may_be_missing():
    ds = soils(20, 1)
    ds["SiO2"][:15] = np.nan
    assert train(ds, method="pls", oxides=["FeO"]).samples.sizes["sample"] == 20
    with pytest.raises(InputError, match="SiO2"):
        train(ds, method="pls", oxides=["SiO2", "K2O"])


def test_the_paper_as_one_preset():
    settings = TrainSettings.paper(n=2, epochs=3)
    assert (settings.joint, settings.folds, settings.polish_epochs) == (False, "leave-one-out", 0)
    assert (TrainSettings.paper().n, TrainSettings.paper().epochs) == (32, 100)
    ds = soils(5, 3)
    fit = train(ds, settings)
    assert len(fit.states) == 6
    assert fit.loss.sizes == {"network": 6, "fold": 5, "epoch": 3}
    # The plain average of the weights of all folds.
    from lunarray.oxides.folds import FoldData, train_folds

    x = ds.reflectance.values
    y = np.stack([ds.FeO.values], axis=1)
    average = train_folds(FoldData(x, y), [np.array([i]) for i in range(5)], settings).average
    np.testing.assert_array_equal(fit.states[0]["head.weight"], average["head.weight"])


def test_methods_side_by_side():
    ds = soils(48, 11)
    settings = TrainSettings(n=2, epochs=5)
    found = compare_methods(ds, settings, folds=3, by="mission")
    assert list(found.model.values) == ["mean", "lucey", "pls", "gp", "cnn"]
    assert found.attrs["left_out"] == "one of 3 parts by mission"
    assert int(found["count"].sel(model="gp").min()) == 48
    assert int(found["count"].sel(model="lucey", oxide="FeO")) == 48
    assert int(found["count"].sel(model="lucey", oxide="CaO")) == 0
    error = found.RMSE.sel(oxide="FeO")
    assert float(error.sel(model="gp")) < 0.6 * float(error.sel(model="mean"))
    with pytest.raises(InputError, match="Lunar Prospector"):
        compare_methods(ds, methods=["prospector"])
    with pytest.raises(InputError, match="methods"):
        compare_methods(ds, methods=["forest"])


@pytest.mark.realdata
def test_methods_on_real_pairs(real_data):
    """Thirteen separates and anorthosites: end members, of which a regression knows little."""
    pairs = open_pairs(real_data / "spectra" / "pairs" / "lunar_samples_give.csv")
    assert pairs.sizes == {"sample": 13, "wavelength": 401}
    pairs = pairs.sel(wavelength=slice(520, 1700))
    prospector = la.maps.open_lunar_prospector(
        real_data / "maps" / "lpgrs_high1_elem_abundance_5deg.tab"
    )
    pairs = pairs.assign_coords(lon=("sample", np.zeros(13)), lat=("sample", np.zeros(13)))
    found = compare_methods(
        pairs,
        methods=["mean", "prospector", "lucey", "pls", "gp"],
        folds="leave-one-out",
        prospector=prospector,
    )
    assert int(found["count"].sel(model="pls", oxide="FeO")) == 11
    assert np.isfinite(found.RMSE.sel(oxide="FeO")).all()


# ---- the command ----
@pytest.mark.needs("torch")
def test_the_command_takes_a_table(tmp_path):
    from typer.testing import CliRunner

    from lunarray.cli import app

    path = table(tmp_path / "pairs.csv", soils(40, 12))
    result = CliRunner().invoke(
        app,
        [
            "train-oxides", str(path), "-o", str(tmp_path / "m.safetensors"), "--method", "gp",
            "--folds", "4", "--by", "mission", "--table", "--epochs", "2", "-n", "2", "--prior", "50",
            "--json",
        ],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "40 samples of 40 points" in result.output
    for name in ("mean", "lucey", "pls", "gp", "cnn"):
        assert f"{name} " in result.output
    assert "one of 4 parts by mission" in result.output
    told = json.loads(result.stdout)
    assert (told["samples"], told["lattice_points"]) == (40, 40)
    tried = [row["model"] for row in told["methods"]]
    assert {"mean", "lucey", "pls", "gp", "cnn"} <= set(tried)
    assert {row["oxide"] for row in told["scores"]} == set(OXIDES)
    assert all(row["count"] == 40 for row in told["scores"])
    assert told["written"] == [{"what": "weights", "path": str(tmp_path / "m.safetensors")}]
    maps = soils(5, 13).reflectance.lunar.invert_oxides(
        tmp_path / "m.safetensors", uncertainty=True
    )
    assert np.isfinite(maps.FeO_std).all()
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("FeO,TiO2\n1,2\n")
    result = CliRunner().invoke(app, ["train-oxides", str(wrong), "-o", str(tmp_path / "n")])
    assert result.exit_code == 1
    assert "no table of pairs" in " ".join(result.output.split())
