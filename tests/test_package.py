"""The package as a whole: what importing it costs, what the accessor shows, how errors read."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import io
import pickle
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import lunarray
from lunarray import errors


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_import_loads_nothing_heavy():
    code = "import sys, lunarray; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = set(run(code).split())
    assert loaded.isdisjoint(
        {"torch", "numba", "geopandas", "matplotlib", "rasterio", "scipy", "typer", "rich"}
    )


def test_command_help_loads_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from lunarray.cli import app;"
        "assert CliRunner().invoke(app, ['invert-oxides', '--help']).exit_code == 0;"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    assert set(run(code).split()).isdisjoint({"torch", "numba", "matplotlib", "rasterio"})


@pytest.mark.parametrize("obj", [xr.Dataset(), xr.DataArray(0)])
def test_accessor_binds_public_functions_with_their_documentation(obj):
    verbs = [name for name in dir(obj.lunar) if not name.startswith("_")]
    assert {"grid", "invert_oxides", "to_zarr", "condition"} <= set(verbs)
    for name in verbs:
        verb = getattr(obj.lunar, name)
        function = inspect.unwrap(verb)
        assert verb.__doc__ == function.__doc__
        assert "Parameters" in verb.__doc__
        bound, unbound = inspect.signature(verb), inspect.signature(function)
        assert list(bound.parameters) == list(unbound.parameters)[1:]


def test_each_kind_shows_the_verbs_that_it_has():
    """What the accessors show is what the functions say that they take."""
    one, other = xr.Dataset().lunar, xr.DataArray(0).lunar
    shown = {name for name in dir(one) if not name.startswith("_")}
    assert {name for name in dir(other) if not name.startswith("_")} < shown
    for name in shown:
        first = next(
            iter(inspect.signature(inspect.unwrap(getattr(one, name))).parameters.values())
        )
        both = "DataArray" in first.annotation or first.annotation == "T"
        assert hasattr(other, name) == both, name
    with pytest.raises(errors.InputError, match="coadd: this verb works on a Dataset"):
        other.coadd("sliding")
    with pytest.raises(AttributeError, match="no_such"):
        _ = other.no_such


def test_show_versions_names_the_dependencies():
    out = io.StringIO()
    lunarray.show_versions(out)
    text = out.getvalue()
    assert f"lunarray: {lunarray.__version__}" in text
    assert f"numpy: {np.__version__}" in text
    assert f"xarray: {xr.__version__}" in text


def test_extras_are_those_of_the_project_and_what_lacks_names_them(monkeypatch):
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    brought = project["optional-dependencies"]
    distributions = {"sklearn": "scikit-learn"}
    for package, extra in errors.EXTRAS.items():
        name = distributions.get(package, package.replace("_", "-"))
        assert any(line.startswith(f"{name}>=") for line in brought[extra]), package
    assert set(errors.EXTRAS.values()) == set(brought) - {"test-core", "test", "bench", "docs"}

    for package in ("torch", "no_such_module_of_torch"):
        with (
            pytest.raises(errors.MissingDependencyError, match=r"pip install 'lunarray\[torch\]'"),
            errors.needs("torch", "this"),
        ):
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    absent = {"torch", "dask_cuda"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n in absent else n)
    out = io.StringIO()
    lunarray.show_versions(out)
    assert "lunarray[torch]: not installed\nlunarray[learn]: installed" in out.getvalue()


REBIN = """
import os, warnings
import numpy as np
from pathlib import Path
{before}
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    from lunarray.xrf.response import fold_kernel, rebin
    import lunarray.geo.resample_kernels
    {between}
    print(*rebin(np.ones(3), [0, 1, 2], [1, 2, 3], [0, 1.5], [1.5, 3]))
print(*[f"{{w.category.__name__}} {{w.message}}" for w in told if "NUMBA" in str(w.message)], sep="\\n")
"""


@pytest.mark.core
@pytest.mark.parametrize(
    ("before", "between", "warned"),
    [
        # Nowhere to write, as of a read-only install of a user without a home: Numba finds no place at all.
        ("from numba.core.caching import CacheImpl; CacheImpl._locator_classes = []", "", 1),
        # The place goes once the modules are loaded: what a full disk does.
        ("", "[(d.rmdir(), d.touch()) for d in Path(os.environ['NUMBA_CACHE_DIR']).iterdir()]", 1),
        ("", "", 0),
    ],
    ids=["read-only", "lost", "kept"],
)
def test_a_cache_of_compiled_code_that_cannot_be_kept_costs_one_warning(
    before, between, warned, tmp_path, monkeypatch
):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    result, *lines = run(REBIN.format(before=before, between=between)).strip().splitlines()
    assert result == "1.5 1.5"
    assert [line.startswith("LunarrayWarning") for line in lines] == [True] * warned
    assert all("Set the environment variable NUMBA_CACHE_DIR to a folder" in line for line in lines)
    assert any((tmp_path / "cache").rglob("*.nbc")) == (not warned)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no_such"):
        _ = lunarray.no_such
    assert set(lunarray.__all__) <= set(dir(lunarray))
    for name in lunarray.__all__:
        assert getattr(lunarray, name) is not None


def test_a_module_does_not_hide_the_function_of_its_name():
    """xrf.coadd is a function, also after the module that holds it has been imported by itself."""
    code = "import lunarray.xrf.coadd, lunarray.xrf as xrf; print(callable(xrf.coadd))"
    assert run(code).strip() == "True"


def test_stubs_name_what_is_there():
    """What editors and type checkers are told of a room is what the room shows, and nothing less."""
    for stub in sorted(Path(lunarray.__file__).parent.rglob("__init__.pyi")):
        root = Path(lunarray.__file__).parents[1]
        package = ".".join(stub.parent.relative_to(root).parts)
        module = importlib.import_module(package)
        assert module.__all__
        for name in module.__all__:
            assert getattr(module, name) is not None, f"{package}.{name}"


def test_errors_say_where_and_what_to_do_and_cross_processes():
    error = errors.ProductFormatError("truncated", where="a.spc", remedy="Fetch it again")
    assert str(error) == "a.spc: truncated. Fetch it again."
    assert isinstance(error, ValueError)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.remedy == "Fetch it again"
    classes = [c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, Exception)]
    assert all(issubclass(c, (errors.LunarrayError, Warning)) for c in classes)


def test_one_check_of_choices_and_one_of_numbers():
    errors.require_choice("method", "a", ("a", "b"))
    with pytest.raises(errors.InputError, match=r"method: 'c'\. Give 'a', 'b' or None"):
        errors.require_choice("method", "c", ("a", "b", None))
    for value, bounds in ((1, (1, 3)), (np.float32(2.5), (0,)), (np.int64(3), (1, 3)), (-1e9, ())):
        errors.require_number("n", value, *bounds)
    for value, bounds, options, remedy in (
        (0, (1,), {"whole": True}, "a whole number, 1 or more"),
        (1.5, (1, 3), {"whole": True}, "a whole number from 1 to 3"),
        (1.0, (0, 1), {"strictly": True}, "a number between 0 and 1"),
        (float("nan"), (0,), {}, "a number, 0 or more"),
        (float("inf"), (0,), {"whole": True}, "a whole number, 0 or more"),
        ("1", (0,), {"strictly": True}, "a number above 0"),
        (None, (), {}, "a number"),
    ):
        with pytest.raises(errors.InputError, match=f"n: .*Give {remedy}[.]"):
            errors.require_number("n", value, *bounds, **options)


ROOT = Path(__file__).parents[1]


def test_conda_recipe_asks_for_what_pyproject_does():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    recipe = (ROOT / ".github/conda-forge/recipe.yaml").read_text("utf-8")
    for requirement in project["dependencies"]:
        name, lowest = requirement.replace("dask[array]", "dask-core").split(">=")
        assert f"    - {name} >={lowest}\n" in recipe, requirement


def test_citation_names_the_version():
    text = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {lunarray.__version__.partition('+')[0]}\n" in text
    assert "10.1029/2025je009145" in text
