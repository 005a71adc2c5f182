"""Where models are found: those that come with lunarray, with installed packages, and those that a user hands over."""

from __future__ import annotations

import importlib.metadata
import os
import warnings
from pathlib import Path
from typing import Any

from lunarray.engine.adapters import from_object, from_onnx
from lunarray.engine.models import Device, Inputs, Maps, Model, ModelSpec, Spectra, Tiles
from lunarray.errors import LunarrayWarning, ModelError

#: Entry points under which installed packages offer models: each names a :class:`ModelSpec`, a :class:`Model`, or a
#: function without arguments that gives one.
GROUP = "lunarray.models"
#: Those that come with lunarray, named here as an entry point would name them.
_OWN = {
    "oxides": "lunarray.oxides.api:oxide_model",
    "oxides-m3": "lunarray.oxides.sensors:m3_model",
    "oxides-mi": "lunarray.oxides.sensors:mi_model",
    "fractures": "lunarray.fractures.detection:fracture_model",
}
#: What makes models of files that hold a network or regressor and do not say what it takes.
_ADAPTERS = {".pt2": "from_torch", ".skops": "from_sklearn", ".joblib": "from_sklearn"}


def available_models() -> dict[str, ModelSpec]:
    """List the models that come with lunarray and with installed packages.

    Any of their names may be given where a verb takes a model: ``ds.lunar.invert_oxides("name")``. A package offers
    models as entry points of the group ``lunarray.models``, each a :class:`ModelSpec`, a :class:`Model`, or a function
    without arguments that gives one.

    Returns
    -------
    dict of str to ModelSpec
        By name. A model that cannot be had, such as one of a broken package, is left out with a
        :class:`~lunarray.errors.LunarrayWarning`.

    Examples
    --------
    >>> import lunarray as la
    >>> sorted(la.engine.available_models())[:2]
    ['fractures', 'oxides']
    """
    found = {}
    for name in sorted(_offers()):
        try:
            found[name] = _offered(name)
        except Exception as error:  # whatever the code of another's package raises
            warnings.warn(
                f"the model {name!r} is left out: {type(error).__name__}: {error}",
                LunarrayWarning,
                stacklevel=2,
            )
    return found


def find_model(
    model: object, kind: type[Inputs], verb: str, *, save: str, device: Device = "auto"
) -> Any:
    """The spec of what a user gave as model; a path of the room's own files, or None, is given back.

    `model`: a :class:`ModelSpec`, the name of an available model, or a :class:`Model`, object or class; `kind`: what
    the verb feeds it, one of Spectra, Tiles, Maps; `verb` and `save`, what writes the room's own files: for
    messages; `device`: for models that come by name or as objects. ModelError if the model eats something else, does
    not say what it eats, or there is none of this name.
    """
    spec = model
    if model is None:
        return None
    if isinstance(model, str) and Path(model).name == model:
        if model in _offers():
            spec = _on(_offered(model), device)
        elif "." not in model and not Path(model).exists():
            raise ModelError(
                f"no file and no installed model is called {model!r}",
                where=verb,
                remedy=f"Give a file, or one of {', '.join(sorted(_offers()))}",
            )
    if isinstance(model, (str, os.PathLike)) and spec is model:
        spec = _of_another(Path(model), device)
    elif not isinstance(model, (ModelSpec, str, os.PathLike)):
        spec = _on(_spec_of(model, verb, save), device)
    if isinstance(spec, ModelSpec) and not isinstance(spec.inputs, (kind, type(None))):
        eats = {Spectra: "spectra", Tiles: "tiles of an image", Maps: "named maps"}
        raise ModelError(
            f"a model of {eats[type(spec.inputs)]} where {eats[kind]} are given",
            where=verb,
            remedy="Choose a model made for this verb",
        )
    return spec


def _on(spec: ModelSpec, device: Device) -> ModelSpec:
    return spec if device == "auto" else spec.on(device)


def _of_another(path: Path, device: Device) -> ModelSpec | Path:
    """The spec of an ONNX file that says what it takes; other paths as they are, for they are the room's own affair."""
    if path.suffix == ".onnx":
        return from_onnx(path, device=device)
    if path.suffix in _ADAPTERS:
        raise ModelError(
            "the file does not say what it takes and what it gives",
            where=path,
            remedy=f"Say it with lunarray.engine.{_ADAPTERS[path.suffix]}, and give what that returns",
        )
    return path


def _offers() -> dict[str, str]:
    """Names of available models, and where they are."""
    entries = importlib.metadata.entry_points(group=GROUP)
    # Lunarray's own names are its own: a package that takes one would change results unasked.
    return {**{entry.name: entry.value for entry in entries}, **_OWN}


def _offered(name: str) -> ModelSpec:
    entry = importlib.metadata.EntryPoint(name, _offers()[name], GROUP)
    offer = entry.load()
    if isinstance(offer, type) or not callable(offer) or isinstance(offer, (ModelSpec, Model)):
        return _spec_of(offer, entry.value)
    return _spec_of(offer(), entry.value)


def _spec_of(model: object, where: str, save: str = "the room's own function") -> ModelSpec:
    if isinstance(model, ModelSpec):
        return model
    if isinstance(model, type) and all(hasattr(model, n) for n in ("inputs", "outputs", "load")):
        model = model()
    if isinstance(model, Model):
        return from_object(model)
    raise ModelError(
        f"a {type(model).__name__} does not say what it takes and what it gives",
        where=where,
        remedy=f"Save it with {save} and give the path, if it is one of lunarray's; make a model of another's with "
        "lunarray.engine.from_torch, from_onnx or from_sklearn; or write a class with inputs, outputs and load(device) "
        "(lunarray.engine.Model)",
    )
