"""The gallery: scripts of ``examples/`` run as people run them, with what they print and draw."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lunarray.readers import SAMPLES

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).parent / "gallery"


@dataclass(frozen=True)
class Shown:
    """An example of the gallery: the script, and the arguments by which it ends within a minute or so."""

    script: str
    arguments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return Path(self.script).stem


def _files(sample: str) -> tuple[str, ...]:
    return tuple(str(path) for path in SAMPLES[sample].files if path.suffix != ".spc")


GALLERY = (
    Shown("sp_oxides.py", (*_files("sp_orbit"), "--output", "out")),
    Shown("fracture_map.py", ("--size", "1024", "--output", "out")),
)
#: What takes longer than a build, or needs files of an archive: shown with its first lines, not run.
TOLD = (
    "oxide_atlas.py",
    "superres_map.py",
    "class_elements.py",
    "cluster_laptop.py",
    "cluster_gpus.py",
    "cluster_slurm.py",
)


def _run(shown: Shown, folder: Path) -> tuple[str, list[str]]:
    """Run one; what it printed, and the pictures that it made."""
    work = folder / f"_{shown.name}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / shown.script), *shown.arguments],
        cwd=work, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"examples/{shown.script} failed:\n{done.stdout}\n{done.stderr}")
    pictures = []
    for picture in sorted(work.rglob("*.png")):
        name = f"{shown.name}-{picture.name}"
        shutil.copyfile(picture, folder / name)
        pictures.append(name)
    shutil.rmtree(work)
    print(f"gallery: {shown.script} in {time.perf_counter() - begun:.0f} s", flush=True)
    return done.stdout.replace("\r", "\n"), pictures


def _title(script: str) -> tuple[str, str]:
    """First sentence of a script, and the rest of what it says of itself."""
    text = ast.get_docstring(ast.parse((ROOT / "examples" / script).read_text("utf-8"))) or script
    first, _, rest = text.partition("\n\n")
    return first.replace("\n", " ").rstrip("."), rest


def _page(shown: Shown, folder: Path) -> str:
    title, rest = _title(shown.script)
    printed, pictures = _run(shown, folder)
    shorter = [a if "/" not in a else Path(a).name for a in shown.arguments]
    lines = [
        f"# {title}",
        "",
        rest,
        "",
        "```text",
        f"python examples/{shown.script} {' '.join(shorter)}",
        "```",
        "",
    ]
    for picture in pictures:
        lines += [f"![{picture}]({picture})", ""]
    if printed.strip():
        lines += ["It prints:", "", "```text", printed.strip(), "```", ""]
    lines += [
        "The script:",
        "",
        f"```{{literalinclude}} ../../examples/{shown.script}",
        ":language: python",
        "```",
        "",
    ]
    return "\n".join(lines)


def _told(script: str) -> str:
    title, rest = _title(script)
    include = f"```{{literalinclude}} ../../examples/{script}\n:language: python\n```"
    return f"# {title}\n\n{rest}\n\n{include}\n"


def write(app: Any = None) -> None:
    """Run the examples and write their pages, unless they are there and newer than what they show."""
    HERE.mkdir(exist_ok=True)
    newest = max(
        p.stat().st_mtime
        for folder in ("examples", "lunarray")
        for p in (ROOT / folder).rglob("*.py")
    )
    for shown in GALLERY:
        page = HERE / f"{shown.name}.md"
        if not page.exists() or page.stat().st_mtime < newest:
            page.write_text(_page(shown, HERE), encoding="utf-8")
    for script in TOLD:
        (HERE / f"{Path(script).stem}.md").write_text(_told(script), encoding="utf-8")
    names = [shown.name for shown in GALLERY] + [Path(script).stem for script in TOLD]
    tree = "\n".join(names)
    (HERE / "index.md").write_text(
        "# Gallery\n\nScripts of `examples/`; those at the top were run while this page was built, the others take "
        f"longer or need files of an archive.\n\n```{{toctree}}\n:maxdepth: 1\n\n{tree}\n```\n",
        encoding="utf-8",
    )
