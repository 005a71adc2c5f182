"""What tools read of lunarray: type checkers, editors, notebooks, pickles."""

from __future__ import annotations

import ast
import copy
import functools
import importlib
import inspect
import io
import json
import os
import pickle
import pydoc
import re
import subprocess
import sys
from collections.abc import Set
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import astropy  # noqa: F401  its first import fails in a process where IPython is and no shell of it
import cloudpickle
import numpy as np
import pytest
import stubs
import xarray as xr
from dask.base import tokenize
from numpydoc.docscrape import FunctionDoc
from PIL import Image
from test_docstrings import public_objects

import lunarray as la
from lunarray import errors
from lunarray.units import unit_label

ROOT = Path(__file__).resolve().parents[1]

#: What a user writes: what each expression is, and which lines are wrong, stands behind it.
SCRIPT = """
from functools import partial

import xarray as xr

import lunarray as la
from lunarray.typing import DataArray, Dataset

sp = la.open_sp("SP_2C_*.spc")
reveal_type(sp)  # Dataset
reveal_type(sp.lunar)  # LunarDatasetAccessor
cube = sp.lunar.condition().lunar.grid("north", resolution=500)
reveal_type(cube)  # Dataset
maps = cube.lunar.invert_oxides(uncertainty=True)
reveal_type(maps)  # Dataset
reveal_type(maps.FeO)  # DataArray
reveal_type(maps["FeO"])  # DataArray
reveal_type(maps[["FeO", "TiO2"]])  # Dataset
reveal_type(maps.FeO.lunar)  # LunarDataArrayAccessor
reveal_type(maps.FeO.lunar.plot_polar(path="feo.png"))  # Figure
reveal_type(maps.isel(x=slice(9)).lunar.to_zarr("maps.zarr"))  # Dataset
reveal_type((maps.FeO > 10).lunar.to_cog("iron"))  # list[Path]
reveal_type(cube.reflectance.lunar.smooth(40.0))  # DataArray
reveal_type(la.sp.smooth(cube["reflectance"], order=3))  # DataArray
reveal_type(la.oxides.invert_oxides(cube))  # Dataset
reveal_type(la.oxides.atlas(cube, latitude=70)["north"])  # Dataset
reveal_type(la.geo.reproject(maps, "geographic").FeO)  # DataArray
reveal_type(la.plot.polar_map(maps.FeO, path="feo.png"))  # Figure
reveal_type(la.simulate.polar_scene(resolution=5000))  # Dataset
reveal_type(la.fractures.open_nac("a.tif"))  # DataArray
reveal_type(la.maps.open_m3("M3G.LBL").lunar.invert_oxides())  # Dataset
reveal_type(la.xrf.read_response("a.rmf"))  # Response
reveal_type(partial(la.oxides.invert_oxides, cube)())  # Dataset
reveal_type(la.typed(xr.Dataset()).lunar.invert_oxides())  # Dataset
reveal_type(la.typed(xr.DataArray()).lunar.smooth())  # DataArray
with la.cluster() as client:
    reveal_type(client)  # Client


def iron(ds: Dataset) -> DataArray:
    return ds.lunar.invert_oxides().FeO


maps.lunar.no_such_verb()  # wrong
maps.FeO.lunar.coadd()  # wrong
cube.lunar.invert_oxides(devise="gpu")  # wrong
cube.lunar.invert_oxides(device="gpu")  # wrong
cube.lunar.smooth("wide")  # wrong
la.open_sp("x", errors="ignor")  # wrong
la.oxides.invert_oxides(cube, devise="gpu")  # wrong
la.sp.no_such()  # wrong
la.no_such()  # wrong
"""


def _mypy(
    script: Path, wanted: Set[str] = frozenset({"attr-defined", "call-arg", "arg-type"})
) -> tuple[dict[int, str], set[int]]:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", "--strict", "-O", "json", str(script)],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "MYPYPATH": str(ROOT)},
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    found = [f for f in found if Path(f["file"]).name == script.name]
    assert found, done.stdout + done.stderr
    told = re.compile(r'Revealed type is "(.*)"')
    revealed = {f["line"]: m[1] for f in found if (m := told.search(f["message"]))}
    # What --strict alone would tell is not among them: who runs mypy plainly sees the same.
    codes = {f["code"] for f in found if f["severity"] == "error"}
    assert codes == wanted
    return revealed, {f["line"] for f in found if f["severity"] == "error"}


def _pyright(script: Path) -> tuple[dict[int, str], set[int]]:
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT)]}
    script.with_name("pyrightconfig.json").write_text(json.dumps(settings))
    program = Path(sys.executable).with_name("basedpyright")
    done = subprocess.run(
        [program, "--outputjson", "--pythonpath", sys.executable, "-p", str(script.parent)],
        capture_output=True, text=True, cwd=script.parent,
    )  # fmt: skip
    found = json.loads(done.stdout)["generalDiagnostics"]
    told = re.compile(r'Type of ".*" is "(.*)"')
    revealed, errors = {}, set()
    for one in found:
        line = one["range"]["start"]["line"] + 1
        if one["severity"] == "information":
            revealed[line] = told.fullmatch(one["message"])[1]
        elif one["severity"] == "error":
            errors.add(line)
    return revealed, errors


@pytest.mark.parametrize("check", [_mypy, _pyright])
def test_a_users_script_has_types_and_its_mistakes_are_caught(check, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    revealed, errors = check(script)
    lines = dict(enumerate(SCRIPT.splitlines(), start=1))
    wanted = {n: line.split("# ")[1] for n, line in lines.items() if "reveal_type" in line}
    short = {n: re.sub(r"\b(?:\w+\.)+(?=\w)", "", found) for n, found in revealed.items()}
    assert short == wanted
    assert errors == {n for n, line in lines.items() if line.endswith("# wrong")}


def test_every_public_function_keeps_its_types_under_mypy(tmp_path):
    """An overload that is ambiguous to mypy makes a decorated function take and give anything, without a word."""
    rooms = [
        la,
        *(m for m in map(functools.partial(getattr, la), la.__all__) if inspect.ismodule(m)),
    ]
    functions = [
        f"{room.__name__.replace('lunarray', 'la', 1)}.{name}"
        for room in rooms
        for name in getattr(room, "__all__", ())
        if inspect.isfunction(value := getattr(room, name)) and value is not la.typed
    ]
    assert len(functions) > 150
    script = tmp_path / "script.py"
    reveal = [f"reveal_type({name})" for name in functions]
    script.write_text("\n".join(["import lunarray as la", *reveal, "la.no_such()"]))
    revealed, _ = _mypy(script, {"attr-defined"})
    kept = [revealed[number] for number in range(2, len(functions) + 2)]
    lost = [
        name
        for name, told in zip(functions, kept, strict=True)
        if told.startswith("def (*Any, **Any)")
    ]
    assert not lost
    vague = {name for name, told in zip(functions, kept, strict=True) if told.endswith("-> Any")}
    # What these give, geopandas, pandas, shapely and arrays of any kind, has no types of its own for mypy.
    assert {name for name in vague if not name.startswith(("la.engine.", "la.geo."))} <= {
        "la.oxides.region_table", "la.xrf.read_goes_flares", "la.fractures.vectorize"
    }  # fmt: skip


def test_the_accessors_stub_is_what_the_verbs_say():
    assert stubs.STUB.read_text() == stubs.accessors(), "run: python tests/stubs.py"


def _remedies():
    """Every remedy of the sources: (where, its text), of a text with values in it what stands before the first."""

    def pieces(node):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
            yield node.values[0].value + "…" * (len(node.values) > 1)
        elif isinstance(node, ast.IfExp):
            yield from (*pieces(node.body), *pieces(node.orelse))
        elif isinstance(node, ast.BinOp):
            yield from pieces(node.left)

    for path in sorted((ROOT / "lunarray").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            found = []
            if isinstance(node, ast.Call):
                found = [k.value for k in node.keywords if k.arg == "remedy"]
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                found = [node.value] if node.targets[0].id.lower().endswith("remedy") else []
            for value in found:
                for text in pieces(value):
                    yield f"{path.relative_to(ROOT)}:{value.lineno}", text


def test_remedies_are_sentences_of_one_style():
    """A capital first, no full stop of their own, which the error adds, more than a word, and the house's words."""
    remedies = list(_remedies())
    assert len(remedies) > 400
    wrong = [
        f"{where}: {text}"
        for where, text in remedies
        if not re.match(r"[A-Z]\w*,? \S", text) or text.endswith(".") or "Pass " in text
    ]
    assert not wrong, "\n".join(wrong)
    assert str(errors.InputError("3", where="n", remedy="Give 4")) == "n: 3. Give 4."


# ------------------------------------------------------------------ while the program runs


def spectra(kind: str) -> xr.Dataset | xr.DataArray:
    wavelength = np.linspace(500.0, 1600.0, 60)
    values = (0.1 + 1e-4 * (wavelength - 500) + 0.01 * np.sin(wavelength)).astype("f4")
    ds = xr.Dataset({"reflectance": ("wavelength", values)}, {"wavelength": wavelength})
    return ds if kind == "Dataset" else ds.reflectance


@pytest.mark.parametrize("kind", ["Dataset", "DataArray"])
@pytest.mark.parametrize(
    "carry",
    [
        lambda thing: pickle.loads(pickle.dumps(thing)),
        lambda thing: cloudpickle.loads(cloudpickle.dumps(thing)),
        copy.copy,
        copy.deepcopy,
        functools.partial,
    ],
    ids=["pickle", "cloudpickle", "copy", "deepcopy", "partial"],
)
def test_a_verb_of_an_object_can_be_carried_elsewhere(kind, carry):
    obj = spectra(kind)
    expected = obj.lunar.smooth(40.0)
    xr.testing.assert_identical(carry(obj.lunar.smooth)(40.0), expected)
    if carry is not functools.partial:
        xr.testing.assert_identical(carry(obj.lunar).smooth(40.0), expected)


def test_a_verb_of_an_object_runs_on_a_worker(client):
    with client(processes=True) as workers:
        obj = spectra("Dataset")
        found = workers.submit(obj.lunar.smooth, 40.0).result()
        xr.testing.assert_identical(found, obj.lunar.smooth(40.0))
        assert workers.submit(lambda verb: verb.__name__, obj.lunar.smooth).result() == "smooth"


def test_equal_verbs_of_equal_objects_have_equal_tokens():
    one, other = spectra("Dataset"), spectra("Dataset")
    assert tokenize(one.lunar.smooth) == tokenize(other.lunar.smooth)
    tokens = {tokenize(v) for v in (one.lunar.smooth, one.lunar.despike, (one + 1).lunar.smooth)}
    assert len(tokens) == 3


def test_a_verb_shows_the_help_and_the_signature_of_its_function():
    obj = spectra("Dataset")
    verb = obj.lunar.plot_maps
    assert verb.__name__ == "plot_maps"
    assert verb.__doc__ == la.plot.maps.__doc__
    assert (
        list(inspect.signature(verb).parameters)
        == list(inspect.signature(la.plot.maps).parameters)[1:]
    )
    text = pydoc.plain(pydoc.render_doc(obj.lunar.smooth))
    assert "smooth(window: 'float' = 50.0, order: 'int' = 2)" in text
    assert "Parameters" in text
    assert inspect.signature(type(obj.lunar).smooth) == inspect.signature(la.sp.smooth)


def test_an_accessor_says_which_verbs_its_object_has():
    for kind, has in (("Dataset", True), ("DataArray", False)):
        shown = spectra(kind).lunar
        assert f"for this {kind}:" in repr(shown)
        assert ("coadd" in repr(shown)) == ("coadd" in dir(shown)) == hasattr(shown, "coadd") == has
        assert "smooth" in dir(shown)


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """A shell as a notebook has it."""
    from IPython.core.interactiveshell import InteractiveShell

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        made = InteractiveShell()
        yield made
        made.history_manager.end_session()


def test_a_notebook_completes_the_verbs_that_an_object_has(shell):
    from IPython.core.completer import provisionalcompleter

    shell.push({"ds": spectra("Dataset"), "da": spectra("DataArray")})

    def completed(text):
        with provisionalcompleter():
            return [c.text for c in shell.Completer.completions(text, len(text))]

    assert completed("ds.lunar.smo") == completed("da.lunar.smo") == ["smooth"]
    assert completed("ds.lunar.coa") == ["coadd"]
    assert completed("da.lunar.coa") == []


def test_a_notebook_shows_a_picture_once(shell):
    """As the last line of a cell, without matplotlib's own magic."""
    figure = la.plot.spectra(spectra("DataArray").expand_dims(observation=2))
    shown, _ = shell.display_formatter.format(figure)
    assert shown["image/png"].startswith(b"\x89PNG")
    width, height = figure.get_size_inches()
    found = Image.open(io.BytesIO(shown["image/png"]))
    assert abs(found.width / found.height - width / height) < 0.02
    # A figure looks the same after it has been shown, and pickles as it did.
    assert pickle.loads(pickle.dumps(figure)).get_size_inches().tolist() == [width, height]


# ------------------------------------------------------------------ units


def test_units_are_read_by_other_programs_and_shown_as_people_write_them():
    import pint

    registry = pint.UnitRegistry()
    soils = la.simulate.soils(8, seed=1)
    maps = la.simulate.polar_scene("north", resolution=24000, latitude=87).lunar.invert_oxides()
    for ds in (soils, maps, la.oxides.metrics(soils, soils * 1.1)):
        for name, variable in ds.variables.items():
            units = variable.attrs.get("units", "1")
            if "since" not in units and units not in ("degrees_north", "degrees_east"):
                assert registry.parse_units(units) is not None, name
    assert registry.Quantity(1, maps.FeO.attrs["units"]).to("").magnitude == 0.01
    assert "FeO (wt%)" in la.plot.maps(maps).axes[0].get_title() + "".join(
        text for axes in la.plot.maps(maps).axes for text in (axes.get_xlabel(), axes.get_ylabel())
    ).replace("$_", "").replace("$", "")


def test_a_store_whose_units_are_of_before_is_understood():
    """Stores of earlier versions say wt%."""
    before = xr.DataArray(10.0, name="FeO", attrs={"units": "wt%"})
    assert unit_label(before) == unit_label(before.assign_attrs(units="percent")) == "wt%"
    cloud = xr.DataArray(10.0, name="cover", attrs={"units": "percent"})
    assert unit_label(cloud) == "percent"
    error = before.rename("Fe, error").assign_attrs(units="percent", long_name="Fe, error")
    assert unit_label(error) == "wt%"


# ------------------------------------------------------------------ annotations of what is public


class _Known(dict):
    """Names of a module, also those that it imports for types alone; what is no name of either is anything."""

    def __init__(self, function):
        super().__init__(function.__globals__)
        self.for_types = stubs.imported(function.__module__)

    def __missing__(self, name):
        module, what = self.for_types.get(name, ("builtins", name))
        return getattr(importlib.import_module(module), what, Any) if what else Any


FUNCTIONS = {path: f for path, f in public_objects().items() if inspect.isfunction(f)}


def _choices(annotation):
    """The values of every Literal in an annotation, and None where it may be left out."""
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    if annotation is type(None):
        return {None}
    return set().union(*(_choices(part) for part in get_args(annotation)))


@pytest.mark.parametrize("path", sorted(FUNCTIONS))
def test_what_is_public_says_its_types(path):
    """Every parameter and result; of a choice, a Literal of what the documentation names."""
    function = FUNCTIONS[path]
    signature = inspect.signature(function)
    bare = [n for n, p in signature.parameters.items() if p.annotation is inspect.Parameter.empty]
    assert not bare, f"{path}: no types of {bare}"
    assert signature.return_annotation is not inspect.Signature.empty, path
    for text in FunctionDoc(function)["Parameters"]:
        listed = re.match(r"\{.*?\}", text.type)
        if listed is None or "path" in text.type:  # the names beside which a file may be given
            continue
        values = set(ast.literal_eval(listed[0]))
        for name in text.name.split(", "):
            annotation = signature.parameters[name.lstrip("*")].annotation
            found = eval(annotation, {}, _Known(function)) if isinstance(annotation, str) else annotation  # fmt: skip
            missing = values - {None} ^ (_choices(found) - {None})
            assert not missing, f"{path}({name}): {annotation} and {listed[0]} differ by {missing}"


def test_what_gives_objects_of_xarray_gives_them_with_their_verbs():
    """A public function that returns a Dataset or DataArray is ``@typed``, so that a user's checker goes on knowing."""
    plain = [
        path
        for path, function in FUNCTIONS.items()
        if re.search(r"\bxr\.Data", str(inspect.signature(function).return_annotation))
        and not any(
            getattr(decorator, "id", "") in ("typed", "typed_either")
            for decorator in stubs.definition(f"{function.__module__}:{function.__name__}")[
                1
            ].decorator_list
        )
    ]
    assert not plain, f"not @typed: {plain}"
