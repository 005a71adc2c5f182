"""What an error says, in the words of the command that the user gave.

The rooms speak Python: ``device='auto'``, ``overwrite=True``, ``lunarray.readers.available()``. A command has an option
of the same name for most of it, and its own way for some of the rest; what remains is said to be Python.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import typer

    from lunarray.errors import LunarrayError

#: Python that has a name of its own on the command line: what it is, and what stands for it where the command has the
#: option in the third place, if there is one.
_PHRASES = (
    (r"errors=(['\"])skip\1", "--skip-bad-files", "skip_bad_files"),
    (r"errors=(['\"])skip\1", "--skip-bad", "skip_bad"),
    (r"outside=(['\"])skip\1", "--skip-outside", "skip_outside"),
    (r"\w*\.lunar\.grid\((['\"])(\w+)\1\)", r"--grid \2", "grid"),
    (r" or bounds= that reach ", " that reaches ", "latitude"),
    (r"maps=\{'\w+': \.\.\.\}", "--map", "maps"),
    (r"la\.cluster\((['\"])(\w+)\1\)", r"--cluster \2", None),
    (r"la\.cluster", "--cluster", None),
    (r", or give an address, a client or a cluster", ", or give an address", None),
    (r"lunarray\.readers\.available\(\)", "`lunarray readers`", None),
    (r"lunarray\.engine\.available_models\(\)", "`lunarray models`", None),
    (r"(for instance )?with lunarray\.geo\.assign_crs(\([^)]*\))?", r"\1with gdal_edit.py -a_srs IAU_2015:30130", None),
    (r"\(ISIS: cam2map, or lunarray\.fractures\.process_edr\)", "(ISIS: cam2map)", None),
    (r"what lunarray\.open_class gives", "CLASS L1 files (.fits)", None),
    (r"lunarray\.superres\.create_gib", "`lunarray gib create`", None),
    (r"lunarray\.fractures\.save_model", "`lunarray train-fractures`", None),
    (r"(,?) or None\b", r"\1 or leave it out", None),
    (r"lunarray\.oxides\.save_oxide_cnn", "`lunarray train-oxides`", None),
    (r"open with xarray\.open_zarr", "open with --reader zarr", "reader"),
)  # fmt: skip
_VALUE = r"(?:'[^']*'|\"[^\"]*\"|[\w.+-]*\w)"
#: What is left of Python: a keyword with its value, a name of ours, a call, a method of the accessor.
PYTHON = re.compile(
    rf"\b\w+=(?={_VALUE}|\W|$)|\blunarray\.\w|\bla\.\w|\.lunar\.\w|\w\((?:\.\.\.|['\"\w]*)\)"
)


def in_words_of(error: LunarrayError, context: typer.Context) -> str:
    """The message of an error as the command of a context would put it."""
    options = dict(_options(context))
    where = error.where if error.where is None else _translated(error.where, options)
    remedy = error.remedy
    if remedy:
        remedy = _translated(remedy, options)
        ours = str(error.where).startswith("--")  # what a command itself refuses is in its words
        if not ours and PYTHON.search(_without_commands(remedy)):
            remedy = f"In Python: {remedy[0].lower()}{remedy[1:]}"
    return str(type(error)(_translated(error.problem, options), where=where, remedy=remedy))


def _options(context: Any) -> Iterator[tuple[str, str]]:
    """Options of a command, and of those that it belongs to, by the names of their parameters."""
    if context.parent is not None:
        yield from _options(context.parent)
    for parameter in context.command.params:
        if parameter.param_type_name == "option" and parameter.name:
            yield parameter.name, max(parameter.opts, key=len)


def _translated(text: str, options: dict[str, str]) -> str:
    if text in options:
        return options[text]
    for python, command, needs in _PHRASES:
        if needs is None or needs in options:
            text = re.sub(python, command, text)
    for name, option in options.items():
        text = re.sub(rf"`{name}`", option, text)
        text = re.sub(rf"([Ll]eave) {name}(?:=False)?( out| away|\b(?=,|;|$))", rf"\1 out {option}", text)  # fmt: skip
        text = re.sub(rf"\b{name}=True\b", option, text)
        text = re.sub(
            rf"(?<![\w-]){name}=({_VALUE})?((?:(?:, | or ){_VALUE})*)",
            partial(_spelt, option),
            text,
        )
    return text


def _spelt(option: str, match: re.Match[str]) -> str:
    """An option with its value, and the other values that follow, without Python's quotes."""
    value, more = match[1], match[2]
    if value is None:
        return option + more
    if value[0] in "'\"":
        more = re.sub(r"['\"]", "", more)
    return f"{option} {value.strip(chr(39) + chr(34))}{more}"


def _without_commands(text: str) -> str:
    """A text without what is meant for a shell."""
    return re.sub(r"`[^`]*`|\(\w+ \w+[^)]*\)|\b[A-Z][\w]*=[\d.]+", "", text)
