"""The harness that every verb goes through: what the house promises of each, checked from one table.

A row of the table (in verbs.py) names a public function, makes a small input in memory and calls the function on it.
The checks know nothing else: they chunk the input in odd ways, choose from it, mask it, join it again, and hold what
comes out to what came out of the whole input in memory. ``python -m tests.harness`` prints the table.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import itertools
import pickle
import pkgutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import dask
import numpy as np
import xarray as xr

from lunarray.errors import LunarrayError

XARRAY = (xr.Dataset, xr.DataArray)


@dataclasses.dataclass(frozen=True)
class Verb:
    """A public function, and an input for it.

    Parameters
    ----------
    name : str
        Room and name, as ``sp.despike``.
    make : callable
        Makes the input in memory, of seeded numbers: an object of xarray, or a tuple of several.
    call : callable, optional
        Calls the function on the input; by default, with it alone. What it gives is compared.
    along : tuple of str
        Dimensions that users choose from and cut into chunks.
    across : tuple of str
        Dimensions that a chunk must not split for the work's sake, but may.
    lazy : bool
        Whether a chunked input gives a lazy result. Not so: pictures, files, tables, numbers, and what `why` says.
    why : str
        Why an object of xarray is computed at once, or is lazy whatever it is made of.
    in_memory : tuple of str
        Variables of a lazy result that are in memory all the same.
    rtol : float
        0: equal to the bit.
    steps : tuple of str
        xarray's steps that are tried before it, several at once joined by "+"; by default `STEPS_BEFORE` where the
        result is lazy.
    """

    name: str
    make: Callable[[], Any]
    call: Callable[..., Any] | None = None
    along: tuple[str, ...] = ()
    across: tuple[str, ...] = ()
    lazy: bool = True
    why: str = ""
    in_memory: tuple[str, ...] = ()
    rtol: float = 0.0
    steps: tuple[str, ...] | None = None

    @property
    def function(self) -> Callable[..., Any]:
        room, name = self.name.split(".")
        return getattr(importlib.import_module(f"lunarray.{room}"), name)

    def inputs(self) -> tuple[Any, ...]:
        made = self.make()
        return tuple(copied(o) for o in (made if isinstance(made, tuple) else (made,)))

    def __call__(self, *objs: Any) -> Any:
        return (self.call or self.function)(*objs)

    def __str__(self) -> str:
        return self.name

    def chunked(self, size: int) -> tuple[Any, ...]:
        """The input in chunks: of `size` along the first dimension that users cut, two uneven ones elsewhere.

        Size 0 is uneven along the first too.
        """
        first, *others = self.inputs()
        return (self._cut(first, size), *(self._cut(o, 0) for o in others))

    def _cut(self, obj: Any, size: int) -> Any:
        if not isinstance(obj, XARRAY):
            return obj
        along = [d for d in obj.dims if d in self.along]
        chunks: dict[Any, Any] = {d: _uneven(obj.sizes[d]) for d in along}
        if size and along:
            chunks[along[0]] = size
        chunks |= {d: -(-n // 3) for d, n in obj.sizes.items() if d in self.across}
        return obj.chunk(chunks)


def _uneven(n: int) -> tuple[int, ...]:
    return (n - n // 3, n // 3) if n // 3 else (n,)


def copied(obj: Any) -> Any:
    return obj.copy(deep=True) if isinstance(obj, XARRAY) else obj


# ------------------------------------------------------------------ equal


def plain(result: Any) -> Any:
    """A result in memory, in a form that can be compared."""
    from matplotlib.figure import Figure

    if isinstance(result, XARRAY):
        return result.compute(scheduler="synchronous")
    if isinstance(result, Figure):
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        result.set_dpi(30)
        canvas = FigureCanvasAgg(result)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba()).copy()
    if hasattr(result, "to_wkb"):  # a GeoDataFrame
        import pandas as pd

        return [dict(result.attrs), str(result.crs), pd.DataFrame(result.to_wkb())]
    if isinstance(result, dict):
        return {key: plain(value) for key, value in result.items()}
    if isinstance(result, list | tuple):
        return [plain(value) for value in result]
    return result


def differ(a: Any, b: Any, rtol: float = 0.0) -> Iterator[str]:
    """How two results differ: values to the bit, kinds, dimensions, names, attributes."""
    if isinstance(a, xr.Dataset) and isinstance(b, xr.Dataset):
        yield from _differ_attrs(a, b)
        for kind in ("data_vars", "coords", "sizes"):
            if list(getattr(a, kind)) != list(getattr(b, kind)) and (
                kind == "data_vars" or set(getattr(a, kind)) != set(getattr(b, kind))
            ):
                yield f"{kind}: {list(getattr(a, kind))} and {list(getattr(b, kind))}"
        for name in set(a.variables) & set(b.variables):
            yield from (
                f"{name}: {text}" for text in differ(a[name].variable, b[name].variable, rtol)
            )
    elif isinstance(a, xr.DataArray) and isinstance(b, xr.DataArray):
        if a.name != b.name:
            yield f"name: {a.name} and {b.name}"
        yield from differ(a.variable, b.variable, rtol)
        if set(a.coords) != set(b.coords):
            yield f"coords: {set(a.coords) ^ set(b.coords)}"
        for name in set(a.coords) & set(b.coords):
            yield from (
                f"{name}: {text}" for text in differ(a[name].variable, b[name].variable, rtol)
            )
    elif isinstance(a, xr.Variable) and isinstance(b, xr.Variable):
        yield from _differ_attrs(a, b)
        if a.dims != b.dims:
            yield f"dims: {a.dims} and {b.dims}"
        else:
            yield from differ(a.values, b.values, rtol)
    elif isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        yield from _differ_values(a, b, rtol)
    elif hasattr(a, "equals") and type(a) is type(b):
        if not a.equals(b):
            yield "frames differ"
    elif isinstance(a, dict) and isinstance(b, dict):
        if list(a) != list(b):
            yield f"keys: {list(a)} and {list(b)}"
        for key in set(a) & set(b):
            yield from (f"{key}: {text}" for text in differ(a[key], b[key], rtol))
    elif isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            yield f"{len(a)} and {len(b)} of them"
        for number, (x, y) in enumerate(zip(a, b, strict=False)):
            yield from (f"{number}: {text}" for text in differ(x, y, rtol))
    elif isinstance(a, float) and isinstance(b, float):
        if not (a == b or (a != a and b != b) or abs(a - b) <= rtol * abs(a)):
            yield f"{a} and {b}"
    elif type(a) is not type(b):
        yield f"{type(a).__name__} and {type(b).__name__}"
    elif dataclasses.is_dataclass(a):
        yield from differ(
            *({f.name: getattr(o, f.name) for f in dataclasses.fields(o)} for o in (a, b)), rtol
        )
    elif type(a).__eq__ is object.__eq__:
        if pickle.dumps(a) != pickle.dumps(b):
            yield f"{type(a).__name__}s differ"
    elif a != b:
        yield f"{a!r} and {b!r}"


def _differ_attrs(a: Any, b: Any) -> Iterator[str]:
    for key in {*a.attrs, *b.attrs}:
        x, y = (o.attrs.get(key, "(none)") for o in (a, b))
        if type(x) is not type(y) or not np.array_equal(
            x, y, equal_nan=np.asarray(x).dtype.kind == "f"
        ):
            yield f"attribute {key}: {x!r} and {y!r}"


def _differ_values(a: np.ndarray, b: np.ndarray, rtol: float) -> Iterator[str]:
    if a.dtype != b.dtype or a.shape != b.shape:
        yield f"{a.dtype}{a.shape} and {b.dtype}{b.shape}"
    elif a.dtype.kind in "fc":
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        if rtol:
            same |= np.isclose(a, b, rtol=rtol, atol=0)
        if not same.all():
            yield f"{np.count_nonzero(~same)} of {a.size} values, as {a[~same][0]} and {b[~same][0]}"
    elif a.dtype.kind == "O":
        if a.tolist() != b.tolist():
            yield "objects differ"
    elif not np.array_equal(a, b):
        yield f"{np.count_nonzero(a != b)} of {a.size} values"


def hold_equal(a: Any, b: Any, rtol: float = 0.0) -> None:
    found = list(differ(plain(a), plain(b), rtol))
    assert not found, "; ".join(found[:6])


# ------------------------------------------------------------------ xarray's own steps


def _first(obj: Any, verb: Verb) -> str:
    return next(d for d in verb.along if d in obj.dims)


def _mask(obj: Any, verb: Verb) -> np.ndarray:
    return np.arange(obj.sizes[_first(obj, verb)]) % 4 != 1


def _step_isel(obj, verb):
    return obj.isel({d: slice(1, None) for d in verb.along if d in obj.dims})


def _step_mask(obj, verb):
    return obj.isel({_first(obj, verb): _mask(obj, verb)})


def _step_sel(obj, verb):
    names = [d for d in verb.along if d in obj.indexes]
    return obj.sel({d: obj[d].values[1:-1] for d in names})


def _step_where(obj, verb):
    dim = _first(obj, verb)
    return obj.where(xr.DataArray(_mask(obj, verb), dims=dim))


def _step_drop(obj, verb):
    dim = _first(obj, verb)
    return obj.where(xr.DataArray(_mask(obj, verb), dims=dim), drop=True)


def _step_rechunk(obj, verb):
    return obj.chunk({_first(obj, verb): 2}) if _is_lazy(obj) else obj


def _step_persist(obj, verb):
    return obj.persist(scheduler="synchronous")


def _step_concat(obj, verb):
    dim = _first(obj, verb)
    cut = obj.sizes[dim] // 2
    parts = [obj.isel({dim: slice(cut)}), obj.isel({dim: slice(cut, None)})]
    options = {
        "coords": "minimal",
        "compat": "override",
        "join": "override",
        "combine_attrs": "override",
    }
    if isinstance(obj, xr.Dataset):
        options["data_vars"] = "minimal"
    return xr.concat(parts, dim, **options)


def _step_transpose(obj, verb):
    return obj.transpose(*reversed(list(obj.dims)))


def _step_double(obj, verb):
    def double(array):
        return array.astype("f8") if array.dtype.kind == "f" else array

    return obj.map(double, keep_attrs=True) if isinstance(obj, xr.Dataset) else double(obj)


STEPS: dict[str, Callable[[Any, Verb], Any]] = {
    name.removeprefix("_step_"): step for name, step in list(globals().items()) if name.startswith("_step_")
}  # fmt: skip


#: What comes before every lazy verb: each step once, those that hide nothing of one another at once.
STEPS_BEFORE = ("isel+sel", "mask", "where", "concat+rechunk+persist", "drop+transpose+double")


def step(names: str, verb: Verb, objs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The first object, after a step, or several."""
    first, *others = objs
    for name in names.split("+"):
        first = STEPS[name](first, verb)
    return (first, *others)


def _is_lazy(obj: Any) -> bool:
    return dask.is_dask_collection(obj)


# ------------------------------------------------------------------ checks


@contextmanager
def computing_nothing() -> Iterator[None]:
    def raising(dsk, keys, **kwargs):
        raise AssertionError("computed while the graph was being built")

    with dask.config.set(scheduler=raising):
        yield


_EXPECTED: dict[str, Any] = {}


def expected(verb: Verb) -> Any:
    """What comes of the whole input in memory: made once, for all checks."""
    if verb.name not in _EXPECTED:
        check_memory(verb)
    return _EXPECTED[verb.name]


def check_memory(verb: Verb) -> None:
    """In memory: a result in memory, and the input as it was."""
    objs = verb.inputs()
    result = verb(*objs)
    _EXPECTED[verb.name] = plain(result)
    if isinstance(result, XARRAY):
        assert not _is_lazy(result) or verb.why, "a lazy result of an input in memory"
    for obj, before in zip(objs, verb.inputs(), strict=True):
        assert not list(differ(before, obj)), "the input was changed"


def check_lazy(verb: Verb) -> None:
    """Chunked: nothing is computed; kinds, dimensions, attributes are known; the same input, the same graph."""
    objs = verb.chunked(0)
    before = [tokens(obj) for obj in objs]
    with computing_nothing():
        lazy = verb(*objs)
        again = verb(*verb.chunked(0))
    assert before == [tokens(obj) for obj in objs], "the input was changed"
    assert tokens(lazy) == tokens(again), "other names for the same work"
    for one, whole in zip(each(lazy), each(expected(verb)), strict=True):
        for name, variable in variables(one).items():
            assert name in verb.in_memory or variable.ndim == 0 or _is_lazy(variable), (
                f"{name} is in memory"
            )
            known = variables(whole)[name]
            assert (variable.dtype, variable.dims, variable.shape) == (
                known.dtype,
                known.dims,
                known.shape,
            ), name
            assert not list(_differ_attrs(known, variable)), list(_differ_attrs(known, variable))
            if _is_lazy(variable):
                assert type(variable.data._meta) is np.ndarray
                assert variable.data._meta.dtype == known.dtype


def each(result: Any) -> list[Any]:
    """The objects of xarray in a result of one or several."""
    if isinstance(result, dict):
        result = list(result.values())
    return list(result) if isinstance(result, list | tuple) else [result]


def variables(obj: Any) -> dict[Any, xr.Variable]:
    if isinstance(obj, xr.DataArray):
        return {obj.name: obj.variable}
    return {name: obj[name].variable for name in obj.data_vars}


def tokens(obj: Any) -> Any:
    """The names of an object's arrays."""
    if not isinstance(obj, XARRAY):
        return [tokens(o) for o in each(obj)] if isinstance(obj, dict | list | tuple) else None
    found = obj.variables if isinstance(obj, xr.Dataset) else {None: obj.variable}
    return {name: v.data.name for name, v in found.items() if _is_lazy(v)}


def check_chunks(verb: Verb, size: int) -> None:
    """In any chunks: equal."""
    hold_equal(verb(*verb.chunked(size)), expected(verb), verb.rtol)


def check_workers(verb: Verb, client: Any) -> None:
    """On a cluster, to which everything has to travel: equal; and so is a part of it alone."""
    lazy = verb(*verb.chunked(0))
    if isinstance(lazy, XARRAY):
        found = lazy.compute(scheduler=client.get)
    else:
        found = dask.compute(lazy, scheduler=client.get)[0]
    hold_equal(found, expected(verb), verb.rtol)
    for one, whole in zip(each(lazy), each(expected(verb)), strict=True):
        corner = {d: slice(-1, None) for d in one.dims}
        hold_equal(one.isel(corner), whole.isel(corner), verb.rtol)


def check_step(verb: Verb, name: str) -> None:
    """After a step of xarray: equal to the verb on the same in memory, or refused alike."""
    _alike(verb, step(name, verb, verb.inputs()), step(name, verb, verb.chunked(3)))


def outcome(verb: Verb, objs: tuple[Any, ...]) -> tuple[Any, LunarrayError | None]:
    try:
        return plain(verb(*objs)), None
    except LunarrayError as error:
        return None, error


def check_after(verb: Verb) -> None:
    """Steps of xarray on what comes out: equal to the same steps on the result in memory."""
    lazy = verb(*verb.chunked(3))
    for one, whole in zip(each(lazy), each(expected(verb)), strict=True):
        for dim in whole.dims:
            after = Verb(verb.name, verb.make, along=(dim,))
            for steps in ("isel+mask+where", "concat+rechunk+persist"):
                hold_equal(*(step(steps, after, (o,))[0] for o in (one, whole)), verb.rtol)
            break


#: Steps of xarray that come between two verbs, in turn.
BETWEEN = ("isel+where", "mask+persist", "concat")


def check_chain(make: Callable[[], Any], dims: dict[str, Any], verbs: Any) -> None:
    """Verbs after one another, with and without steps of xarray between: lazy all through, and equal to memory."""
    whole = copied(make())
    lazy = Verb("chain", make, **dims).chunked(3)[0]
    faults = []
    for (name, call), between in zip(verbs, itertools.cycle(BETWEEN), strict=False):
        verb = Verb(name, make, call, **dims, rtol=1e-12)
        if isinstance(whole, XARRAY) and any(d in whole.dims for d in verb.along):
            try:
                _alike(verb, step(between, verb, (whole,)), step(between, verb, (lazy,)))
            except Exception as error:
                faults.append(f"{name} after {between}: {type(error).__name__}: {str(error)[:200]}")
        with computing_nothing() if "zarr" not in name and name != "vectorize" else nullcontext():
            lazy = call(lazy)
        whole = plain(call(whole))
        hold_equal(lazy, whole, 1e-12)
    assert not faults, "\n".join(faults)


def _alike(verb: Verb, whole: tuple[Any, ...], lazy: tuple[Any, ...]) -> None:
    wanted, refused = outcome(verb, whole)
    found, lazily = outcome(verb, lazy)
    if refused or lazily:
        assert type(refused) is type(lazily), f"in memory: {refused!r}; chunked: {lazily!r}"
    else:
        hold_equal(found, wanted, verb.rtol)


def checks_of(verb: Verb) -> dict[str, Callable[[Verb], None]]:
    """Every check that the table promises of a verb, by name; on workers besides, if it is lazy."""
    found: dict[str, Callable[[Verb], None]] = {"memory": check_memory}
    if not verb.along and not verb.across:
        return found
    if verb.lazy:
        found["lazy"] = check_lazy
        found["after"] = check_after
    for size in (0, 1) if verb.lazy else (0,):  # the steps cut threes
        found[f"chunks of {size}" if size else "uneven chunks"] = functools.partial(
            check_chunks, size=size
        )
    steps = verb.steps if verb.steps is not None else STEPS_BEFORE if verb.lazy else ("mask",)
    for name in steps:
        found[name] = functools.partial(check_step, name=name)
    return found


def hold(verb: Verb) -> None:
    """Every check of a verb; those that fail are named."""
    faults = []
    for name, check in checks_of(verb).items():
        try:
            check(verb)
        except ImportError:
            raise
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{frame.filename}:{frame.lineno}"
            faults.append(f"{verb}, {name}: {type(error).__name__}: {error} ({where})")
    assert not faults, "\n".join(faults)


# ------------------------------------------------------------------ what has to be in the table


def takes_xarray(function: Callable[..., Any]) -> bool:
    parameters = list(inspect.signature(function).parameters.values())
    note = str(parameters[0].annotation) if parameters else ""
    return "DataArray" in note or "Dataset" in note or note == "T"


def public_verbs() -> set[str]:
    """Verbs of the accessor, and public functions whose first parameter is an object of xarray."""
    import lunarray
    from lunarray.accessor import LunarDataArrayAccessor, LunarDatasetAccessor

    found = set()
    for room in (m.name for m in pkgutil.iter_modules(lunarray.__path__) if m.ispkg):
        module = importlib.import_module(f"lunarray.{room}")
        for name in getattr(module, "__all__", ()):
            function = inspect.unwrap(getattr(module, name))
            if inspect.isfunction(function) and takes_xarray(function):
                found.add(f"{room}.{name}")
    for accessor in (LunarDatasetAccessor, LunarDataArrayAccessor):
        for base in accessor.__mro__:
            for verb in vars(base).values():
                if target := getattr(verb, "target", None):
                    found.add(target.removeprefix("lunarray.").replace(":", "."))
    return found


def main() -> None:
    """Print the table: a line a verb, a mark for each check that it goes through."""
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parent))
    from verbs import VERBS

    rows = {v.name: [*checks_of(v), *(["workers"] if v.lazy else [])] for v in VERBS}
    columns = list(dict.fromkeys(name for names in rows.values() for name in names))
    width = max(map(len, rows))
    for depth in range(max(map(len, columns))):
        print(" " * width, *(name.ljust(depth + 1)[depth] for name in columns))
    for verb in VERBS:
        marks = ("x" if name in rows[verb.name] else "." for name in columns)
        print(verb.name.ljust(width), *marks, f"  {verb.why}".rstrip())
    count = sum(map(len, rows.values()))
    print(f"{len(rows)} verbs, {count} checks; x: goes through it")
    for name in sorted(public_verbs() - set(rows)):
        print(f"not in the table: {name}")


if __name__ == "__main__":
    main()
