"""Seeded damage of files, and what readers make of it: in a child of bounded memory and time, so that whatever
happens to it is told with the seed that did it."""

from __future__ import annotations

import gzip
import os
import re
import resource
import signal
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lunarray.errors import LunarrayError

#: What a mutation of a reader may take: CPU seconds, seconds in all (this machine may be busy), bytes.
SECONDS, PATIENCE, MEMORY = 5.0, 90.0, 2**30

_NUMBERS = (
    b"-1", b"0", b"1", b"2", b"3", b"7", b"1000", b"65535", b"1000000", b"2147483647", b"4294967296", b"-2147483648",
    b"9223372036854775807", b"18446744073709551615", b"1e-320", b"1e30", b"1e308", b"-1e400", b"nan", b"inf",
)  # fmt: skip
_WORDS = (
    b"", b"''", b'""', b"x", b"null", b"true", b"[]", b"{}", b"()", b"N/A", b"../x", b"/etc/hostname", b"\xff\xfe",
    b"[[[", b"1, 2", b"PE(9)", b"2000-13-45T99:99", b"A" * 300,
)  # fmt: skip
_VALUE = re.compile(rb"[=:,] *\(?\"?([^=:,\"\r\n(){}\[\]<>]+)")
_KEY = re.compile(rb"[A-Za-z_^][A-Za-z0-9_.]{2,}")


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Damage of one to three kinds, by what the bytes are as often as not; never none."""
    if data.startswith(b"\x1f\x8b") and rng.random() < 0.7:
        return gzip.compress(mutate(gzip.decompress(data), rng), 1)
    out = data
    while out == data:
        for _ in range(int(rng.integers(1, 4))):
            aware = _aware(out) if rng.random() < 0.6 else None
            out = (aware or _blind)(out, rng)
    return out


def _aware(data: bytes) -> Callable[[bytes, np.random.Generator], bytes] | None:
    """How files of such a kind are damaged in what they say of themselves."""
    if data.startswith((b"SIMPLE", b"XTENSION")):
        return _cards
    if data.startswith((b"II*\0", b"MM\0*")):
        return _tags
    if data.startswith((b"\x89HDF", b"SQLite", b"PK\x03\x04", b"\x89PNG", b"\x1f\x8b")):
        return _head
    if data[8:9] == b"{" or data[:64].isascii():  # safetensors, or text
        return _words
    return None


def _blind(data: bytes, rng: np.random.Generator) -> bytes:
    """Bits flipped, bytes overwritten, cut out, cut off, put in, or zero: in the head more often than not."""
    out = bytearray(data)
    reach = len(out) if rng.random() < 0.4 else min(len(out), 12000)
    at = int(rng.integers(0, max(reach, 1)))
    length = int(rng.integers(1, 200))
    match int(rng.integers(0, 7)):
        case 0 | 1:
            if out:
                out[at] ^= 1 << int(rng.integers(8))
        case 2:
            out[at : at + 8] = rng.bytes(8)
        case 3:
            del out[at:]
        case 4:
            del out[at : at + length]
        case 5:
            out[at:at] = rng.bytes(length)
        case 6:
            out[at : at + length] = bytes(min(length, len(out) - at))
    return bytes(out)


def _cards(data: bytes, rng: np.random.Generator) -> bytes:
    """A card of a FITS header: another value, another name, gone, or twice."""
    out = bytearray(data)
    cards = [at for at in range(0, len(out) - 80, 80) if out[at + 8 : at + 10] == b"= "]
    if not cards:
        return _blind(data, rng)
    at, other = (int(rng.choice(cards)) for _ in range(2))
    match int(rng.integers(0, 6)):
        case 0 | 1:
            value = _one(rng, _NUMBERS)[:20].rjust(20)
            out[at + 10 : at + 30] = value
        case 2:
            text = b"'" + _one(rng, _WORDS)[:60].ljust(8) + b"'"
            out[at + 10 : at + 80] = text.ljust(70)[:70]
        case 3:
            out[at : at + 8] = out[other : other + 8]
        case 4:
            out[at : at + 80] = b" " * 80 if rng.random() < 0.5 else b"END".ljust(80)
        case 5:
            out[at + 8 : at + 80] = out[other + 8 : other + 80]
    return bytes(out)


def _tags(data: bytes, rng: np.random.Generator) -> bytes:
    """An entry of a TIFF's directory: its tag, type, count or value."""
    order = "little" if data[:2] == b"II" else "big"
    begin = int.from_bytes(data[4:8], order)
    number = int.from_bytes(data[begin : begin + 2], order)
    if not 0 < number < 200:
        return _blind(data, rng)
    at = begin + 2 + 12 * int(rng.integers(number))
    part, size = ((0, 2), (2, 2), (4, 4), (8, 4), (8, 2), (8, 4))[int(rng.integers(6))]
    value = (
        0,
        1,
        2,
        3,
        8,
        255,
        65535,
        2**31 - 1,
        2**32 - 1,
        10**6,
        len(data),
        int(rng.integers(2**16)),
    )
    out = bytearray(data)
    out[at + part : at + part + size] = (_one(rng, value) % 256**size).to_bytes(size, order)
    return bytes(out)


def _head(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes of the first 512, or a run of the first 8192, where HDF5, SQLite and zip say what they are."""
    out = bytearray(data)
    reach = min(len(out), 512 if rng.random() < 0.3 else 8192)
    for _ in range(int(rng.integers(1, 6))):
        at, size = int(rng.integers(0, max(reach, 1))), int(rng.choice([1, 2, 4, 8]))
        small = (int(rng.integers(1, 300)) % 256**size).to_bytes(size, "little")
        fill = (bytes(size), b"\xff" * size, rng.bytes(size), small)
        out[at : at + size] = _one(rng, fill)
    return bytes(out)


def _words(data: bytes, rng: np.random.Generator) -> bytes:
    """A value or a key of text: a PDS3 label, JSON, CSV, a header of ENVI or safetensors; in place, or not."""
    reach = data[:400000]
    found = list((_VALUE if rng.random() < 0.75 else _KEY).finditer(reach))
    if not found:
        return _blind(data, rng)
    match = found[int(rng.integers(len(found)))]
    begin, end = match.span(1 if match.re is _VALUE else 0)
    kind = rng.random()
    if kind < 0.5:
        value = _one(rng, _NUMBERS)
    elif kind < 0.8:
        value = _one(rng, _WORDS)
    elif kind < 0.9:
        begin, end = _line(data, begin)
        value = b"" if rng.random() < 0.5 else data[begin:end] * 2
    else:
        other = found[int(rng.integers(len(found)))]
        value = other.group(1 if match.re is _VALUE else 0)
    if kind < 0.9 and rng.random() < 0.5:
        value = value[: end - begin].ljust(end - begin)
    return data[:begin] + value + data[end:]


def _line(data: bytes, at: int) -> tuple[int, int]:
    end = data.find(b"\n", at)
    return data.rfind(b"\n", 0, at) + 1, len(data) if end < 0 else end + 1


def _one(rng: np.random.Generator, things: Any) -> Any:
    return things[int(rng.integers(len(things)))]


# ---- running
@dataclass
class Report:
    """What readers made of mutations. `failures`: of a seed, what should not have been."""

    opened: int = 0
    refused: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    peak: int = 0


def run(
    source: Path,
    read: Callable[[int], object],
    seeds: Iterable[int],
    *,
    files: Callable[[str], bool] = lambda name: True,
    salt: int = 7,
) -> Report:
    """Damage one file of `source` (a file, or a folder of which those that `files` takes) for each seed, and read it.

    `read` is given the seed. What is not an error of ours, a signal that ends the process, more CPU
    seconds than SECONDS, or memory asked for beyond MEMORY, is a failure.
    """
    places = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    contents = {p: p.read_bytes() for p in places if files(p.name)}
    places = list(contents)
    report, left = Report(), list(seeds)
    while left:
        receive, send = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of fork, where there are threads
            child = os.fork()
        if child == 0:
            try:
                os.close(receive)
                _in_child(send, places, contents, read, left, salt)
            finally:
                os._exit(0)
        os.close(send)
        with os.fdopen(receive, "rb") as pipe:
            told = pipe.read().decode(errors="replace").splitlines()
        _, status, _ = os.wait4(child, 0)
        current = None
        for line in told:
            word, _, rest = line.partition(" ")
            if word == "begin":
                current = int(rest)
            elif word == "peak":
                report.peak = max(report.peak, int(rest))
            elif current is not None:
                if word == "bad":
                    report.failures[current] = rest
                else:
                    setattr(report, word, getattr(report, word) + 1)
                left = left[left.index(current) + 1 :]
                current = None
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            names = {signal.SIGPROF: "hangs, computing", signal.SIGALRM: "hangs, waiting"}
            what = names.get(number, f"ends with {signal.Signals(number).name}")
            if current is None:
                raise RuntimeError(f"the child {what} between mutations; {told[-3:]}")
            report.failures[current] = what
            left = left[left.index(current) + 1 :]
        elif left and current is None and not told:
            raise RuntimeError("the child says nothing")
        for place, data in contents.items():
            place.write_bytes(data)
    return report


def _in_child(
    send: int, places: Any, contents: Any, read: Any, seeds: list[int], salt: int
) -> None:
    def tell(text: str) -> None:
        os.write(send, f"{text}\n".encode())

    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    at_first = _status("VmRSS")
    most = (_status("VmData") + MEMORY, resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_DATA, most)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    for seed in seeds:
        rng = np.random.default_rng([salt, seed])
        place = _one(rng, places)
        place.write_bytes(mutate(contents[place], rng))
        tell(f"begin {seed}")
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        try:
            read(seed)
            outcome = "opened"
        except LunarrayError as error:
            outcome = _memory(error) or "refused"
        except BaseException as error:
            outcome = (
                f"bad {type(error).__name__}: {' '.join(str(error).split())[:200]} {_where(error)}"
            )
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        tell(f"{outcome} {place.name}")
        place.unlink(missing_ok=True)
        place.write_bytes(contents[place])
    tell(f"peak {max(_status('VmHWM') - at_first, 0)}")


def _memory(error: BaseException | None) -> str | None:
    """Whether an error of ours is so only because memory is bounded here."""
    while error is not None:
        if isinstance(error, MemoryError):
            return f"bad asks for much memory: {error} {_where(error)}"
        error = error.__cause__ or error.__context__
    return None


def _where(error: BaseException) -> str:
    """The last lines of lunarray that an error went through."""
    lines, trace = [], error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if "/lunarray/" in code.co_filename:
            lines.append(f"{os.path.basename(code.co_filename)}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"({' '.join(lines[-3:])})"


def _status(name: str) -> int:
    """A number of bytes of this process, as Linux tells it."""
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0
