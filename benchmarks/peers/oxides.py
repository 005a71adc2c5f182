"""1D-CNN oxide inversion, n = 32, 150 bands: pixels/s of the engine, of four inference engines, and Zarr to Zarr.

All contenders have the same weights, get the same spectra, compute in float32 on all cores, and must agree with eager
PyTorch within 1e-3 wt%.

The limit is what this machine's best fp32 matrix product (large, by NumPy's and torch's BLAS) would reach at the
network's nominal operations. Ours may exceed it: it needs 2.25 times fewer multiplications for a convolution.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import Absent, Comparison, Contender, Options
from lunarray.engine.batches import torch_threads

N, BANDS = 32, 150
#: wt%: what an output may differ from eager fp32.
TOLERANCE = 1e-3
#: Pixels that a thread of ours gets at once, as the engine's batches.
OUR_BATCH = 4096
SEED = 20261121


def prepare(options: Options) -> Comparison:
    """Set up the contenders."""
    weights = _weights(options.folder)
    model = _eager(weights)
    pixels = 2048 if options.quick else 8192
    x = _spectra(model, 4 * pixels)
    with torch_threads(options.threads):
        reference = np.concatenate([_run_torch(model, part) for part in np.split(x, 16)])
    if reference.std(axis=0).min() < 0.1:
        raise RuntimeError("the model's outputs hardly vary: agreement with it would mean nothing")

    def check(output: np.ndarray) -> float:
        # The engine's predictor gives the novelty as well, in another column.
        deviation = float(np.abs(output[:, :6] - reference[: len(output)]).max())
        assert deviation <= TOLERANCE, f"differs from eager fp32 by {deviation:.1e} wt%"
        return deviation

    few = x[:pixels]
    peers = {
        "torch_eager": _torch_eager(model, x[: pixels // 4], options),
        "torch_compile": _torch_compile(model, few, options),
        "onnxruntime": _onnxruntime(model, few, options),
        "openvino": _openvino(model, few, options),
    }
    operations = network_operations(N, BANDS)
    return Comparison(
        unit="pixels/s",
        ours=_ours(weights, x, options),
        peers=peers,
        limit=("fp32 GEMM of BLAS at the network's nominal operations", _gemm(operations, options)),
        check=check,
        extras={
            "bare_model": _bare_model(weights, x, options),
            "pipeline": _pipeline(weights, options),
        },
        finish=partial(_finish, options=options, weights=weights),
        notes=(
            f"{operations / 1e6:.2f} MFLOP a pixel. Ours needs 2.25 times fewer multiplications for a convolution"
            " (F(6, 3)), so it may exceed the limit.",
        ),
    )


def network_operations(n: int, bands: int, outputs: int = 6) -> int:
    """Nominal floating point operations a pixel, a multiplication and an addition counted as two."""
    channels = [1, n, n, 2 * n, 2 * n, 4 * n]
    convolutions = sum(3 * a * b * bands for a, b in pairwise(channels))
    return 2 * (convolutions + channels[-1] * bands * outputs)


# --- The model and its input ----------------------------------------------------------------------


def _weights(folder: Path) -> Path:
    """The model that comes with lunarray, or a random one of the same architecture."""
    from lunarray.oxides.constants import OXIDES
    from lunarray.oxides.weights import DEFAULT_WEIGHTS, read_header, save_oxide_cnn

    if DEFAULT_WEIGHTS.exists():
        header = read_header(DEFAULT_WEIGHTS)
        if (header["n"], header["bands"]) == (N, BANDS):
            return DEFAULT_WEIGHTS
    print("no default model of this architecture: random weights", file=sys.stderr)
    import torch

    from lunarray.oxides.model import OxideCNN
    from lunarray.sp.bands import WAVELENGTHS_150

    torch.manual_seed(SEED)
    model = OxideCNN(N, BANDS).eval()
    with torch.no_grad():
        for block in model.features:
            block[1].weight.uniform_(0.5, 1.5)
            block[1].bias.normal_(0, 0.3)
            block[1].running_mean.normal_(0, 0.3)
            block[1].running_var.uniform_(0.3, 2)
        model.head.weight *= 30
        model.set_standardisation(
            torch.linspace(0.1, 0.25, BANDS),
            torch.linspace(0.02, 0.05, BANDS),
            torch.tensor([10.0, 2, 20, 13, 8, 45]),
            torch.tensor([5.0, 2, 6, 2.5, 3, 2]),
        )
    path = folder / "random.safetensors"
    save_oxide_cnn(path, model, wavelengths=np.asarray(WAVELENGTHS_150), oxides=OXIDES)
    return path


def _eager(weights: Path) -> Any:
    from lunarray.oxides.weights import load_oxide_cnn

    return load_oxide_cnn(weights)


def _spectra(model: Any, pixels: int) -> np.ndarray:
    """What the model takes: spectra, and of a model that takes the light how well that is known."""
    rng = np.random.default_rng(SEED)
    if not hasattr(model, "trunk"):
        mean, std = model.input_mean.numpy(), model.input_std.numpy()
        return (mean + std * rng.standard_normal((pixels, mean.size))).astype(np.float32)
    mean, std = model.trunk.input_mean.numpy(), model.trunk.input_std.numpy()
    shapes = mean + std * rng.standard_normal((pixels, mean.size))
    level = np.exp(model.level[0].item() + model.level[1].item() * rng.standard_normal((pixels, 1)))
    light = rng.uniform(0, 1, (pixels, 1))
    return np.concatenate([shapes * level, light], axis=1, dtype=np.float32)


# --- Contenders -----------------------------------------------------------------------------------


def _batches(x: np.ndarray, size: int) -> list[np.ndarray]:
    return [x[i : i + size] for i in range(0, len(x), size)]


def _run_torch(model: Any, x: np.ndarray) -> np.ndarray:
    import torch

    with torch.inference_mode():
        return model(torch.from_numpy(x)).numpy()


def _ours(weights: Path, x: np.ndarray, options: Options) -> Contender:
    """What `invert_oxides` has Dask's threads run on each block: the oxides, and the novelty of each spectrum."""
    return _in_threads(_spec(weights).load(), x, options)


def _bare_model(weights: Path, x: np.ndarray, options: Options) -> Contender:
    """The network alone."""
    from safetensors.numpy import load_file

    from lunarray.oxides.fused import FusedCNN

    state = load_file(weights)
    lit = "level" in state
    if lit:
        # The convolutions alone, on what they read.
        state = {n.removeprefix("trunk."): a for n, a in state.items() if n.startswith("trunk.")}
        x = np.ascontiguousarray(x[:, :BANDS] / x[:, :BANDS].mean(axis=1, keepdims=True))
    return _in_threads(FusedCNN.from_state(state), x, options, check=not lit)


def _in_threads(
    predictor: Callable[[np.ndarray], np.ndarray],
    x: np.ndarray,
    options: Options,
    *,
    check: bool = True,
) -> Contender:
    """Each batch by one thread."""
    pool = ThreadPoolExecutor(options.threads)
    size = min(OUR_BATCH, len(x) // (2 * options.threads))

    def run() -> np.ndarray:
        return np.concatenate(list(pool.map(predictor, _batches(x, size))))

    return Contender(len(x), {f"{options.threads} threads, batches of {size}": run}, check=check)


def _spec(weights: Path) -> Any:
    from lunarray.oxides import oxide_model

    return oxide_model(weights, device="cpu")


def _torch_eager(model: Any, x: np.ndarray, options: Options) -> Contender:
    def run(size: int) -> np.ndarray:
        with torch_threads(options.threads):
            return np.concatenate([_run_torch(model, part) for part in _batches(x, size)])

    sizes = sorted({min(size, len(x)) for size in (16, 64, 256, 1024, 2048)})
    return Contender(len(x), {f"batch {size}": partial(run, size) for size in sizes})


def _torch_compile(model: Any, x: np.ndarray, options: Options) -> Contender | Absent:
    import torch

    if shutil.which("g++") is None and shutil.which("clang++") is None:
        return Absent("torch.compile needs a C++ compiler, and there is none")
    with torch_threads(options.threads):
        torch._dynamo.reset()
        compiled = torch.compile(model, dynamic=False)

    def run(size: int) -> np.ndarray:
        with torch_threads(options.threads), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.concatenate([_run_torch(compiled, part) for part in _batches(x, size)])

    sizes = (256,) if options.quick else (64, 256)
    return Contender(len(x), {f"batch {size}": partial(run, size) for size in sizes})


def _exported(model: Any, folder: Path) -> str:
    import torch

    path = folder / "model.onnx"
    if not path.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                (torch.from_numpy(_spectra(model, 2)),),
                str(path),
                dynamo=False,
                input_names=["x"],
                output_names=["y"],
                dynamic_axes={"x": {0: "pixel"}, "y": {0: "pixel"}},
                opset_version=17,
            )
    return str(path)


def _onnxruntime(model: Any, x: np.ndarray, options: Options) -> Contender | Absent:
    try:
        import onnx  # noqa: F401  # torch's exporter needs it
        import onnxruntime
    except ImportError as error:
        return Absent(str(error))
    path = _exported(model, options.folder)

    def session(threads: int) -> Any:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])

    whole, single = session(options.threads), session(1)
    pool = ThreadPoolExecutor(options.threads)

    def predict(engine: Any, part: np.ndarray) -> np.ndarray:
        return engine.run(None, {"x": part})[0]

    def together(size: int) -> np.ndarray:
        return np.concatenate([predict(whole, part) for part in _batches(x, size)])

    def apart(size: int) -> np.ndarray:
        return np.concatenate(list(pool.map(partial(predict, single), _batches(x, size))))

    sizes = (16, 64, 256, 1024)
    variants: dict[str, Callable[[], np.ndarray]] = {
        f"batch {s}": partial(together, s) for s in sizes
    }
    variants |= {f"batch {s}, one thread a batch": partial(apart, s) for s in sizes}
    return Contender(len(x), variants)


def _openvino(model: Any, x: np.ndarray, options: Options) -> Contender | Absent:
    try:
        import onnx  # noqa: F401  # torch's exporter needs it
        import openvino
    except ImportError as error:
        return Absent(str(error))
    path = _exported(model, options.folder)
    core = openvino.Core()

    def build(size: int, streams: int) -> Callable[[], np.ndarray]:
        network = core.read_model(path)
        network.reshape([size, x.shape[1]])
        compiled = core.compile_model(
            network,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "f32",  # else it computes in bf16 where the processor can
                "PERFORMANCE_HINT": "THROUGHPUT" if streams > 1 else "LATENCY",
                "NUM_STREAMS": streams,
                "INFERENCE_NUM_THREADS": options.threads,
            },
        )
        queue = openvino.AsyncInferQueue(compiled, 2 * streams)
        output = np.empty((len(x), 6), np.float32)

        def store(request: Any, start: int) -> None:
            output[start : start + size] = request.get_output_tensor().data

        queue.set_callback(store)

        def run() -> np.ndarray:
            for start in range(0, len(x), size):
                queue.start_async({0: x[start : start + size]}, start)
            queue.wait_all()
            return output

        return run

    variants = {
        f"batch {size}, {streams} streams": build(size, streams)
        for streams in sorted({1, options.threads})
        for size in (16, 64, 256, 512)
    }
    return Contender(len(x), variants)


def _gemm(operations: int, options: Options) -> Contender:
    import torch

    size = 2048
    a, b = np.random.default_rng(SEED).standard_normal((2, size, size)).astype(np.float32)
    c = np.empty_like(a)
    ta, tb, tc = torch.from_numpy(a), torch.from_numpy(b), torch.from_numpy(c)

    def by_torch() -> None:
        with torch_threads(options.threads):
            torch.mm(ta, tb, out=tc)

    return Contender(
        2 * size**3 / operations,
        {"NumPy": lambda: np.matmul(a, b, out=c), "torch": by_torch},
        check=False,
    )


# --- Zarr to Zarr ---------------------------------------------------------------------------------


def write_map(path: Path, rows: int, columns: int, weights: Path) -> None:
    """A cube of spectra such as the model was trained on, written block by block."""
    import dask.array as da
    import xarray as xr

    import lunarray  # noqa: F401  # registers the accessor
    from lunarray.oxides.weights import read_weights

    header, tensors = read_weights(weights)
    rng = da.random.default_rng(SEED)
    noise = rng.standard_normal((BANDS, rows, columns), dtype=np.float32, chunks=(BANDS, 128, 512))
    lit = "level" in tensors
    prefix, level = ("trunk.", np.exp(tensors["level"][0])) if lit else ("", 1.0)
    mean, std = (tensors[f"{prefix}input_{name}"][:, None, None] for name in ("mean", "std"))
    data = (mean + std * noise) * level
    cube = xr.Dataset(
        {"reflectance": (("wavelength", "y", "x"), data.astype(np.float32), {"units": "1"})},
        coords={
            "wavelength": (
                "wavelength",
                np.asarray(header["wavelengths"], np.float32),
                {"units": "nm"},
            ),
            "y": ("y", 500.0 * np.arange(rows)[::-1], {"units": "m"}),
            "x": ("x", 500.0 * np.arange(columns), {"units": "m"}),
        },
    )
    cube.lunar.to_zarr(path, progress=False)


def invert_map(source: Path, target: Path, weights: Path, threads: int) -> None:
    """What a user writes: open, invert, store; on Dask's threads."""
    import dask

    import lunarray

    with dask.config.set(scheduler="threads", num_workers=threads):
        maps = lunarray.open_zarr(source).lunar.invert_oxides(model=_spec(weights))
        maps.lunar.to_zarr(target, progress=False)


def _pipeline(weights: Path, options: Options) -> Contender | Absent:
    rows, columns = (128, 256) if options.quick else (512, 1024)
    source = options.folder / "map.zarr"
    try:
        write_map(source, rows, columns, weights)
    except (ImportError, AttributeError) as error:
        return Absent(f"lunarray's public path is not there yet ({error})")
    number = count()

    def run() -> None:
        # A new store each time: a complete one would be left as it is.
        target = options.folder / f"oxides-{next(number)}.zarr"
        invert_map(source, target, weights, options.threads)
        shutil.rmtree(target)

    return Contender(
        rows * columns, {f"{rows} x {columns} pixels, {options.threads} threads": run}, check=False
    )


_CHILD = """
import sys
from pathlib import Path
from benchmarks.peers.oxides import invert_map
invert_map(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


def _finish(report: dict[str, Any], *, options: Options, weights: Path) -> dict[str, Any]:
    """Peak resident memory of fresh processes that invert maps of two sizes."""
    if report["pipeline"] is None:
        return {}
    pipeline = report["pipeline"]
    pipeline["share_of_bare_model"] = round(pipeline["value"] / report["bare_model"]["value"], 3)
    print(f"pipeline / bare model: {pipeline['share_of_bare_model']:.2f}")
    if not Path("/proc/self/status").exists():
        return {}
    sizes = [(64, 256), (128, 256)] if options.quick else [(256, 1024), (1024, 1024)]
    peaks = {}
    for rows, columns in sizes:
        source, target = options.folder / "memory.zarr", options.folder / "memory-oxides.zarr"
        write_map(source, rows, columns, weights)
        # VmHWM, not ru_maxrss: the latter begins with what the parent process held.
        run = subprocess.run(
            [
                sys.executable,
                "-c",
                _CHILD,
                str(source),
                str(target),
                str(weights),
                str(options.threads),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[2],
            env=os.environ,
        )
        if run.returncode:
            raise RuntimeError(run.stderr)
        peaks[rows * columns] = round(int(run.stdout.split()[-1]) / 1024)
        shutil.rmtree(source)
        shutil.rmtree(target)
    small, large = peaks
    for pixels, peak in peaks.items():
        print(
            f"peak memory, Zarr to Zarr, {pixels:,} pixels ({pixels * BANDS * 4 / 2**20:,.0f} MiB): {peak} MiB"
        )
    return {
        "memory": {
            "unit": "MiB",
            "peaks": {str(pixels): peak for pixels, peak in peaks.items()},
            "growth": float(f"{peaks[large] / peaks[small]:.3g}"),
        }
    }
