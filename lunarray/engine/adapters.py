"""Networks and regressors of other libraries as models: PyTorch, ONNX, scikit-learn, and objects of one's own.

What is in memory is pickled into a file whose name is the digest of its content, and travels to workers as that file's
path and digest, as all models do: a graph stays small, a process loads it once, and the token of equal objects is
equal (that of an object whose class was written in a notebook or script holds for the session). A file is read only
if its digest is the one that was taken of the object; a pickle that comes from elsewhere is refused unless the user
vouches for it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lunarray.engine.batches import out_of_memory, threads_here, torch_threads
from lunarray.engine.models import Device, Inputs, Maps, Model, ModelSpec, Predictor, Spectra, Tiles
from lunarray.engine.regressors import read_regressor, require_method
from lunarray.errors import LunarrayError, MissingDependencyError, ModelError, needs

#: Folder of pickled models, where the user's cache does not serve: one that all workers see.
FOLDER = "LUNARRAY_MODELS"
#: What a worker loads.
_HERE = "lunarray.engine.adapters"
_NETWORKS = ("load_torch_object", "load_torch_file", "load_onnx")

Outputs = Sequence[str] | Mapping[str, str]


def from_torch(
    module: Any,
    *,
    outputs: Outputs,
    wavelengths: Sequence[float] | None = None,
    inputs: Inputs | None = None,
    device: Device = "auto",
    folder: str | os.PathLike[str] | None = None,
) -> ModelSpec:
    """Make a model of a PyTorch network.

    Parameters
    ----------
    module : torch.nn.Module or path
        The network in memory, with its weights, or a file of ``torch.export.save`` (``.pt2``) or ``torch.jit.save``. A
        state dict is no network: load it into one.
    outputs : sequence of str, or mapping of str to str
        Names of what it gives, ``("FeO", "TiO2")``, or names and units. ``FeO_std`` is the standard deviation of the
        error of ``FeO``.
    wavelengths : sequence of float, optional
        Of the bands of a network of spectra, nm; short for ``inputs=Spectra(wavelengths)``.
    inputs : Spectra, Tiles or Maps, optional
        What it takes. Of spectra and maps it gets (pixel, band), of tiles (tile, channel, y, x), as
        :class:`lunarray.engine.Tiles` says; float32.
    device : {"auto", "cpu", "cuda"}
        Where to run.
    folder : path, optional
        Where a network in memory is kept for the workers; by default the folder that the environment variable
        ``LUNARRAY_MODELS`` names, or the user's cache. Workers on other machines must see it.

    Returns
    -------
    ModelSpec

    Raises
    ------
    ModelError
        If the file cannot be read, or the network cannot be pickled.

    Examples
    --------
    >>> import torch
    >>> from lunarray.engine import from_torch
    >>> network = torch.nn.Linear(3, 2)
    >>> from_torch(network, wavelengths=(750, 950, 1000), outputs=("FeO", "TiO2")).outputs
    ('FeO', 'TiO2')
    """
    if isinstance(module, (str, os.PathLike)):
        loader, path = "load_torch_file", Path(module)
    else:
        require_method(
            module, "state_dict", "from_torch", "a torch.nn.Module with its weights, or a file"
        )
        loader, path = "load_torch_object", _kept(module, folder)
    inputs = _inputs(wavelengths, inputs)
    return _spec(loader, path, outputs=outputs, inputs=inputs, device=device)


def from_onnx(
    path: str | os.PathLike[str],
    *,
    outputs: Outputs | None = None,
    wavelengths: Sequence[float] | None = None,
    inputs: Inputs | None = None,
    device: Device = "auto",
) -> ModelSpec:
    """Make a model of an ONNX file, which ONNX Runtime runs.

    Parameters
    ----------
    path : path
        The file, with its weights in it. Every worker must see it.
    outputs : sequence of str, or mapping of str to str, optional
        As for :func:`from_torch`. Outputs of the graph that are several are put beside each other. By default what the
        file says, see the notes.
    wavelengths : sequence of float, optional
        Of the bands of a network of spectra, nm; short for ``inputs=Spectra(wavelengths)``.
    inputs : Spectra, Tiles or Maps, optional
        What it takes, as for :func:`from_torch`; spectra as (pixel, 1, band) where the graph has that dimension. A
        graph whose first dimension is fixed gets its batches in such parts.
    device : {"auto", "cpu", "cuda"}
        Where to run; a GPU needs ``onnxruntime-gpu``, and "auto" takes the CPU without it.

    Returns
    -------
    ModelSpec

    Raises
    ------
    ModelError
        If the file cannot be read, gives another number of values than there are names, or neither it nor you say what
        it gives.

    Notes
    -----
    A file may say itself what it takes and gives, as JSON under the key "lunarray" of its metadata: ``{"outputs":
    ["FeO"], "wavelengths": [750, 950]}``, or ``"tiles"`` or ``"maps"`` with the fields of
    :class:`~lunarray.engine.Tiles` or :class:`~lunarray.engine.Maps` in the place of the wavelengths.
    Then its path alone is enough wherever a model is asked for, on the command line too.

    Examples
    --------
    >>> from lunarray.engine import from_onnx
    >>> from_onnx("mine.onnx", wavelengths=(750, 950), outputs=("FeO",))  # doctest: +SKIP
    """
    session = _session(Path(path), 1, ["CPUExecutionProvider"])
    if outputs is None:
        outputs, inputs = _said(session, Path(path))
    inputs = _inputs(wavelengths, inputs)
    names = [outputs] if isinstance(outputs, str) else list(outputs)
    side = session.get_inputs()[0].shape[-1]
    if isinstance(inputs, Tiles):
        if inputs.tile is None and isinstance(side, int):
            inputs = replace(inputs, tile=side)
    else:
        gives = [o.shape[1] if len(o.shape) > 1 else 1 for o in session.get_outputs()]
        if all(isinstance(n, int) for n in gives) and sum(gives) != len(names):
            raise ModelError(
                f"it gives {sum(gives)} values a pixel and {len(names)} are named",
                where=path,
                remedy="Name what it gives, in order",
            )
    return _spec("load_onnx", Path(path), outputs=outputs, inputs=inputs, device=device)


def _said(session: Any, path: Path) -> tuple[Outputs, Inputs]:
    """Outputs and inputs by an ONNX file's own words."""
    text = session.get_modelmeta().custom_metadata_map.get("lunarray")
    try:
        said = json.loads(text) if text else None
        if said is not None:
            kinds: dict[str, Any] = {"tiles": Tiles, "maps": Maps}
            for key in kinds.keys() & said.keys():
                fields = {k: tuple(v) if isinstance(v, list) else v for k, v in said[key].items()}
                return said["outputs"], kinds[key](**fields)
            return said["outputs"], _inputs(said.get("wavelengths"), None)
        fault = "the file does not say what it takes and what it gives"
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        fault = f"what the file says of itself is not understood ({type(error).__name__}: {error})"
    raise ModelError(
        fault,
        where=path,
        remedy="Say it with lunarray.engine.from_onnx(path, outputs=..., wavelengths=... or inputs=...), or in the "
        "file's metadata, as the notes of from_onnx show",
    )


def from_sklearn(
    regressor: Any,
    *,
    outputs: Outputs,
    wavelengths: Sequence[float] | None = None,
    inputs: Inputs | None = None,
    uncertainty: bool = False,
    trusted: bool = False,
    folder: str | os.PathLike[str] | None = None,
) -> ModelSpec:
    """Make a model of a fitted regressor of scikit-learn, or of anything with its ``predict``.

    Parameters
    ----------
    regressor : object or path
        With ``predict``, which takes (pixel, band) and gives (pixel,) or (pixel, output). Or a file: of skops
        (``.skops``), which holds no code, or of joblib or pickle, with `trusted`.
    outputs : sequence of str, or mapping of str to str
        As for :func:`from_torch`, without the standard deviations.
    wavelengths : sequence of float, optional
        Of the bands of a regressor of spectra, nm; short for ``inputs=Spectra(wavelengths)``.
    inputs : Spectra or Maps, optional
        What it takes.
    uncertainty : bool
        Ask ``predict(x, return_std=True)``, as Gaussian processes and Bayesian regressors have it: ``FeO_std`` for each
        output.
    trusted : bool
        Read a pickle, which can run any code when it is read. Only for files that are the user's own.
    folder : path, optional
        As for :func:`from_torch`.

    Returns
    -------
    ModelSpec

    Raises
    ------
    ModelError
        If the file cannot be read or is not trusted, or the regressor is not fitted, takes another number of bands, or
        gives another number of values than there are names.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> from lunarray.engine import from_sklearn
    >>> fitted = LinearRegression().fit([[0.1, 0.2], [0.2, 0.3], [0.2, 0.5]], [16.0, 8.0, 5.0])
    >>> from_sklearn(fitted, wavelengths=(750, 950), outputs={"FeO": "wt%"}).units
    (('FeO', 'wt%'),)
    """
    if isinstance(regressor, (str, os.PathLike)):
        regressor = read_regressor(Path(regressor), trusted)
    require_method(regressor, "predict", "from_sklearn", "a fitted regressor, or a file")
    inputs = _inputs(wavelengths, inputs)
    names, units = list(outputs), dict(outputs) if isinstance(outputs, Mapping) else {}
    bands = getattr(regressor, "n_features_in_", None)
    wanted = inputs.wavelengths if isinstance(inputs, Spectra) else getattr(inputs, "names", None)
    if bands is not None and wanted and len(wanted) != bands:
        raise ModelError(
            f"it takes {bands} values a pixel and {len(wanted)} are named",
            where=f"from_sklearn({type(regressor).__name__})",
            remedy="Give the wavelengths, or the names, that it was fitted on",
        )
    if isinstance(outputs, str):
        names = [outputs]
    if uncertainty:
        names += [f"{name}_std" for name in names]
        units |= {f"{name}_std": unit for name, unit in units.items()}
    kept = _kept(_Regressor(regressor, uncertainty), folder)
    spec = _spec("load_plain_object", kept, outputs=names, inputs=inputs, device="cpu")
    count = bands if bands is not None else len(wanted or ())
    if count:
        try:
            found = spec.load()(np.zeros((1, count), np.float32)).shape
        except LunarrayError:
            raise
        except Exception as error:  # whatever the regressor raises
            raise ModelError(
                f"its predict() fails ({type(error).__name__}: {error})",
                where=f"from_sklearn({type(regressor).__name__})",
                remedy="Fit it first, and ask uncertainty=True only of what knows return_std",
            ) from error
        if found != (1, len(names)):
            raise ModelError(
                f"it gives {found[1]} values a pixel and {len(names)} are named",
                where=f"from_sklearn({type(regressor).__name__})",
                remedy="Name what it gives, in order",
            )
    return replace(spec, units=tuple(units.items()))


def from_object(model: Model, folder: str | os.PathLike[str] | None = None) -> ModelSpec:
    """Make the spec of a :class:`lunarray.engine.Model`; ModelError if it cannot be pickled."""
    kept = _kept(model, folder)
    return _spec("load_object", kept, outputs=model.outputs, inputs=model.inputs, device="auto")


# --- Files of objects -----------------------------------------------------------------------------


def _inputs(wavelengths: Sequence[float] | None, inputs: Inputs | None) -> Inputs:
    return (
        Spectra(None if wavelengths is None else tuple(wavelengths)) if inputs is None else inputs
    )


def _spec(
    loader: str, path: Path, *, outputs: Outputs, inputs: Inputs, device: Device
) -> ModelSpec:
    # What networks of other libraries see of tiles is prepared for them; objects of one's own take them as they are.
    prepared = isinstance(inputs, Tiles) and loader in _NETWORKS
    more: dict[str, Any] = {"rule": inputs} if prepared else {}
    if loader == "load_onnx" and device == "cuda":
        more["gpu_only"] = True
    return ModelSpec.from_file(
        f"{_HERE}:{loader}", path, outputs=outputs, inputs=inputs, device=device, **more
    )


def _kept(thing: Any, folder: str | os.PathLike[str] | None) -> Path:
    """Pickle into the file that is named by the digest of its content."""
    content = io.BytesIO()
    try:
        _pickler(content).dump(thing)
    except Exception as error:  # whatever the objects within raise
        raise ModelError(
            f"a {type(thing).__name__} cannot be pickled ({type(error).__name__}: {error})",
            where="model",
            remedy="Export it (torch.export, ONNX) and give the file, or name what loads it: "
            "ModelSpec.from_file('module:function', weights, …)",
        ) from error
    data = content.getvalue()
    place = Path(folder) if folder is not None else _folder()
    path = place / f"{hashlib.sha256(data).hexdigest()[:32]}.pickle"
    try:
        if not path.exists() or path.read_bytes() != data:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
            partial.write_bytes(data)
            partial.replace(path)
    except OSError as error:
        raise ModelError(
            f"the model cannot be kept for the workers ({error.strerror or error})",
            where=path,
            remedy=f"Give a folder=, or set {FOLDER} to one, that can be written and that all workers see",
        ) from error
    return path


def _folder() -> Path:
    named = os.environ.get(FOLDER)
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(cache) / "lunarray" / "models"


def _pickler(file: io.BytesIO) -> pickle.Pickler:
    import cloudpickle

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            # Torch's own pickles of a tensor name the place in memory where it lies: two of equal ones would differ.
            kind = type(obj)
            names = (kind.__module__.partition(".")[0], kind.__name__)
            if names in (("torch", "Tensor"), ("torch", "Parameter")):
                array = _array(obj)
                if array is not None:
                    return _tensor, (array, kind.__name__ == "Parameter")
            return super().reducer_override(obj)

    return Pickler(file, protocol=5)


def _array(tensor: Any) -> np.ndarray | None:
    try:
        return np.array(tensor.detach().cpu().numpy(), order="C")
    except TypeError:  # of a type that NumPy has not
        return None


def _tensor(array: np.ndarray, parameter: bool) -> Any:
    import torch

    tensor = torch.from_numpy(array)
    return torch.nn.Parameter(tensor, requires_grad=False) if parameter else tensor


def _unpickled(path: Path) -> Any:
    try:
        return pickle.loads(path.read_bytes())
    except Exception as error:  # whatever a class that is missing or another here raises
        raise ModelError(
            f"the model cannot be loaded here ({type(error).__name__}: {error})",
            where=path,
            remedy="Install on every worker what it was made with",
        ) from error


# --- What workers load ----------------------------------------------------------------------------


def load_object(path: Path, device: Literal["cpu", "cuda"]) -> Predictor:
    """Load an object of :func:`from_object`."""
    model = _unpickled(path)
    name = type(model).__qualname__
    predictor = model.load(device)
    if not callable(predictor):
        raise ModelError(
            f"load() gives a {type(predictor).__name__}",
            where=name,
            remedy="Return a function of arrays from load()",
        )
    return _ruled(predictor, None, name)


def load_plain_object(path: Path, device: str) -> Predictor:
    """Load an object that is a predictor itself."""
    thing = _unpickled(path)
    return _ruled(thing, None, type(getattr(thing, "regressor", thing)).__qualname__)


class _Regressor:
    """A regressor as a predictor."""

    def __init__(self, regressor: Any, std: bool) -> None:
        self.regressor, self.std = regressor, std

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        if not self.std:
            return _columns(self.regressor.predict(pixels))
        values, std = self.regressor.predict(pixels, return_std=True)
        return np.concatenate([_columns(values), _columns(std)], axis=1)


def _columns(values: Any) -> np.ndarray:
    """(pixel, output) float32 of (pixel,), or of the same."""
    found = np.asarray(values, np.float32)
    return found[:, None] if found.ndim == 1 else found


def load_torch_object(path: Path, device: str, rule: Tiles | None = None) -> Predictor:
    """Load a network that was in memory."""
    with needs("torch", f"the network {path.name}"):
        import torch as torch
    return _torch_predictor(_unpickled(path).eval(), device, rule)


def load_torch_file(path: Path, device: str, rule: Tiles | None = None) -> Predictor:
    """Load a network that was exported."""
    with needs("torch", f"the network {path.name}"):
        import torch
    try:
        if path.suffix == ".pt2":
            network = torch.export.load(path).module()
        else:
            network = torch.jit.load(path, map_location="cpu").eval()
    except Exception as error:  # torch raises whatever its readers raise
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"not an exported network ({first})",
            where=path,
            remedy="Write it with torch.export.save (.pt2) or torch.jit.save; load a state dict into its network, and "
            "give that",
        ) from error
    return _torch_predictor(network, device, rule)


def _torch_predictor(network: Any, device: str, rule: Tiles | None) -> Predictor:
    import torch

    network = network.to(device)
    one_at_a_time = threading.Lock()  # a GPU's memory is bounded by one batch

    def run(values: np.ndarray) -> np.ndarray:
        with (
            torch.inference_mode(),
            torch_threads(threads_here()),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        ):
            found = network(torch.from_numpy(values).to(device))
            if isinstance(found, Mapping):
                found = found["out"] if "out" in found else next(iter(found.values()))
            parts = found if isinstance(found, (tuple, list)) else [found]
            return _beside([part.float().cpu().numpy() for part in parts])

    def on_gpu(values: np.ndarray) -> np.ndarray:
        with one_at_a_time:
            return run(values)

    return _ruled(run if device == "cpu" else on_gpu, rule, "torch")


def _beside(parts: list[np.ndarray]) -> np.ndarray:
    parts = [_columns(part) for part in parts]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _ruled(run: Callable[[np.ndarray], np.ndarray], rule: Tiles | None, name: str) -> Predictor:
    """A network that gets what it wants of tiles, and whose own errors are told in our words."""

    def told(values: np.ndarray) -> np.ndarray:
        try:
            return run(values)
        except LunarrayError:
            raise
        except Exception as error:  # torch's and ONNX Runtime's have no common base
            first = (str(error) or type(error).__name__).splitlines()[0]
            if out_of_memory(error) or "allocate memory" in first:
                raise MemoryError(first) from error
            raise ModelError(
                f"the model fails on an array {values.shape} ({type(error).__name__}: {first})",
                where=name,
                remedy="Say with wavelengths or inputs what it takes, and see that the data have it",
            ) from error

    if rule is None:
        return told
    return lambda tiles: rule.probability(told(rule.prepared(tiles)))


def load_onnx(
    path: Path, device: str, rule: Tiles | None = None, gpu_only: bool = False
) -> Predictor:
    """Load an ONNX file."""
    import onnxruntime

    providers = ["CPUExecutionProvider"]
    if device == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, "CUDAExecutionProvider")
    elif gpu_only:
        raise MissingDependencyError(
            "this ONNX Runtime runs on the CPU alone",
            where="device='cuda'",
            remedy="Install onnxruntime-gpu in the place of onnxruntime, or give device='auto' or 'cpu'",
        )
    sessions = Sessions(lambda threads: _session(path, threads, providers))

    def run(values: np.ndarray) -> np.ndarray:
        session = sessions.here()
        into = session.get_inputs()[0]
        if len(into.shape) == 3 and values.ndim == 2:
            values = values[:, None]
        size = into.shape[0] if isinstance(into.shape[0], int) else len(values)
        parts = [_padded(values[at : at + size], size) for at in range(0, len(values), size)]
        found = [_beside(session.run(None, {into.name: part})) for part in parts]
        return np.concatenate(found)[: len(values)]

    return _ruled(run, rule, path.name)


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    """A batch of the one size that a graph takes; what is added is dropped again."""
    more = [(0, size - len(values))] + [(0, 0)] * (values.ndim - 1)
    return np.pad(values, more) if len(values) < size else values


class Sessions:
    """Sessions of ONNX Runtime for one graph, one for each number of threads that a call may use.

    Parameters
    ----------
    make : callable
        Makes the session that runs on so many threads.
    """

    def __init__(self, make: Callable[[int], Any]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._made: dict[int, Any] = {}

    def here(self) -> Any:
        """The session for the thread that asks (:func:`lunarray.engine.batches.threads_here`)."""
        threads = threads_here() or _cores()
        with self._lock:
            if threads not in self._made:
                self._made[threads] = self._make(threads)
            return self._made[threads]


def _cores() -> int:
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _session(path: Path, threads: int, providers: list[str]) -> Any:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(path, session_options(threads), providers=providers)
    except Exception as error:  # ONNX Runtime's own have no common base that it shows
        raise ModelError(
            f"ONNX Runtime cannot read it ({str(error).splitlines()[0]})",
            where=path,
            remedy="Export the network anew, with its weights in the file",
        ) from error


def session_options(threads: int) -> Any:
    """Options of ONNX Runtime for so many threads, which sleep between calls."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options
