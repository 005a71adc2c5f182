"""The ISIS driver: what it says without ISIS, and what it runs, in which order, with programs that stand in for it."""

from __future__ import annotations

import importlib.util
import os
import sys

import numpy as np
import pytest

import lunarray as la
from lunarray.errors import InputError, LunarrayWarning, MissingDependencyError
from lunarray.fractures import process_edr
from lunarray.fractures.isis import MORE_STEPS, STEPS, IsisError, isis_available

SCRIPT = """#!{python}
import pathlib, shutil, sys
here = pathlib.Path(__file__)
values = dict(a.split("=", 1) for a in sys.argv[1:])
with open(here.parent.parent / "log.txt", "a") as log:
    log.write(" ".join([here.name, *sys.argv[1:]]) + "\\n")
if here.name == "{failing}":
    print("**USER ERROR** No kernels", file=sys.stderr)
    sys.exit(1)
if "map" in values:
    shutil.copy(values["map"], here.parent.parent / "used.map")
if here.name == "mosrange":
    pathlib.Path(values["to"]).write_text({range!r})
elif "to" in values:
    shutil.copy(values["from"], values["to"])
"""
RANGE = """Group = Mapping
  ProjectionName          = Equirectangular
  PixelResolution         = 0.52 <meters/pixel>
  CenterLongitude         = -11.2213
  CenterLatitude          = {latitude}
  MinimumLatitude         = {low}
  MaximumLatitude         = {high}
End_Group
End
"""


@pytest.fixture
def isis(tmp_path, monkeypatch):
    """A folder like that of ISIS, whose programs copy from= to to= and log how they were called."""
    if importlib.util.find_spec("kalasiris") is None:
        pytest.skip("kalasiris is not installed (pip install 'lunarray[isis]')")
    root = tmp_path / "isis"
    (root / "bin" / "xml").mkdir(parents=True)

    def make(failing="", programs=STEPS, low=-43.6, high=-43.0):
        said = RANGE.format(latitude=(low + high) / 2, low=low, high=high)
        for name in programs:
            program = root / "bin" / name
            program.write_text(SCRIPT.format(python=sys.executable, failing=failing, range=said))
            program.chmod(0o755)
            (root / "bin" / "xml" / f"{name}.xml").write_text("<application/>")
        return root

    monkeypatch.setenv("ISISROOT", str(root))
    monkeypatch.setenv("ISISDATA", str(tmp_path))
    for name in [n for n in sys.modules if n.split(".")[0] == "kalasiris"]:
        monkeypatch.delitem(sys.modules, name)
    return make


def _calls(root):
    rows = [line.split() for line in (root / "log.txt").read_text().splitlines()]
    return [(row[0], dict(a.split("=", 1) for a in row[1:])) for row in rows]


@pytest.fixture
def raw(tmp_path):
    path = tmp_path / "M126622485RE.IMG"
    path.write_bytes(b"raw")
    return path


def test_the_chain(isis, raw, tmp_path):
    root = isis()
    assert isis_available()
    (made,) = process_edr(
        raw, tmp_path / "out", projection="south", resolution=1.5, options={"lronaccal": {"radiometrictype": "iof"}}
    )  # fmt: skip
    assert made == tmp_path / "out" / "M126622485RE.map.cub"
    assert made.read_bytes() == b"raw"
    # Nothing else is left.
    assert os.listdir(tmp_path / "out") == [made.name]
    calls = _calls(root)
    assert [name for name, _ in calls] == list(STEPS)
    # Each takes what the one before it made; spiceinit writes into the cube.
    assert calls[0][1]["from"] == str(raw)
    assert calls[1][1]["from"] == calls[0][1]["to"] == calls[2][1]["from"]
    assert calls[2][1]["radiometrictype"] == "iof"
    assert calls[3][1]["from"] == calls[2][1]["to"]
    assert calls[4][1]["from"] == calls[3][1]["to"]
    assert (calls[4][1]["pixres"], calls[4][1]["resolution"]) == ("mpp", "1.5")
    text = (root / "used.map").read_text()
    assert "ProjectionName     = PolarStereographic" in text
    assert "CenterLatitude     = -90.0" in text
    # What is there is not made again.
    process_edr(raw, tmp_path / "out", projection="south")
    assert len(_calls(root)) == len(STEPS)


def test_the_map_lies_about_the_images(isis, raw, tmp_path, recwarn):
    """Centre by mosrange, over all images before any is projected; a later image goes onto the same map."""
    root = isis(programs=STEPS + MORE_STEPS)
    other = tmp_path / "M126622485LE.IMG"
    other.write_bytes(b"other")
    options = {"spiceinit": {"cksmithed": True, "spksmithed": True}}
    made = process_edr([raw, other], tmp_path / "out", photometry=True, options=options)
    assert [path.read_bytes() for path in made] == [b"raw", b"other"]
    calls = _calls(root)
    names = [name for name, _ in calls]
    assert names.count("mosrange") == 1
    assert names.index("mosrange") < names.index("cam2map")
    assert calls[1][1]["cksmithed"] == calls[1][1]["spksmithed"] == "true"
    pho = next(values for name, values in calls if name == "lronacpho")
    assert pho["from"].endswith(".cal.echo.cub")
    last = calls[-1][1]
    assert last["from"].endswith(".cal.echo.pho.cub")
    assert (last["interp"], last["warpalgorithm"]) == ("cubicconvolution", "forwardpatch")
    text = (root / "used.map").read_text()
    assert "CenterLatitude     = -43.3" in text
    assert "CenterLongitude    = -11.2213" in text
    assert not [w for w in recwarn if "times as wide" in str(w.message)]
    third = tmp_path / "M126622486LE.IMG"
    third.write_bytes(b"third")
    process_edr([raw, third], tmp_path / "out", interpolation="bilinear")
    more = _calls(root)[len(calls) :]
    assert [name for name, _ in more].count("mosrange") == 0
    assert more[-1][1]["map"] == last["map"]
    assert more[-1][1]["interp"] == "bilinear"


def test_pixels_that_are_not_square_are_told_of(isis, raw, tmp_path):
    """A map that is true at the equator: Tycho's pixels of 1.5 m would be 1.09 m wide."""
    root = isis(programs=STEPS + MORE_STEPS)
    with pytest.warns(LunarrayWarning, match=r"0\.7\d times as wide as long.*true at latitude 0"):
        process_edr(raw, tmp_path / "out", centre_latitude=0.0, centre_longitude=0.0)
    assert "CenterLatitude     = 0.0" in (root / "used.map").read_text()


def test_options(isis, raw, tmp_path):
    root = isis()
    own = tmp_path / "own.map"
    own.write_text("Group = Mapping\nEnd_Group\nEnd\n")
    process_edr(
        [raw], tmp_path / "out", projection=own, resolution=None, echo=False, web_spice=True, keep=True
    )  # fmt: skip
    calls = dict(_calls(root))
    assert "lronacecho" not in calls
    assert calls["spiceinit"]["web"] == "true"
    assert calls["cam2map"]["pixres"] == "camera"
    assert calls["cam2map"]["map"] == str(own)
    assert (tmp_path / "out" / "M126622485RE.steps" / "M126622485RE.cal.cub").exists()


def test_a_program_that_fails(isis, raw, tmp_path):
    root = isis("spiceinit")
    with pytest.raises(IsisError, match=r"spiceinit failed \(1\): \*\*USER ERROR\*\* No kernels"):
        process_edr(raw, tmp_path / "out")
    assert [name for name, _ in _calls(root)] == ["lronac2isis", "spiceinit"]
    assert os.listdir(tmp_path / "out") == []


def test_without_isis(raw, tmp_path, monkeypatch):
    monkeypatch.delenv("ISISROOT", raising=False)
    assert not isis_available()
    with pytest.raises(
        MissingDependencyError, match=r"ISISROOT is not set.*conda install.*open_nac"
    ):
        process_edr(raw, tmp_path / "out")
    monkeypatch.setenv("ISISROOT", str(tmp_path))
    with pytest.raises(MissingDependencyError, match=r"no bin/lronac2isis"):
        process_edr(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_refused(isis, raw, tmp_path):
    isis()
    with pytest.raises(InputError, match="no such file"):
        process_edr(tmp_path / "none.IMG", tmp_path / "out")
    with pytest.raises(InputError, match="projection"):
        process_edr(raw, tmp_path / "out", projection="mercator")
    with pytest.raises(InputError, match="options for cam3map"):
        process_edr(raw, tmp_path / "out", options={"cam3map": {}})
    with pytest.raises(InputError, match="resolution"):
        process_edr(raw, tmp_path / "out", resolution=-1)


@pytest.mark.realdata
def test_the_way_from_a_real_raw_product(real_data, tmp_path, monkeypatch):
    """The reader sends to this driver, and the driver says what is missing."""
    monkeypatch.delenv("ISISROOT", raising=False)
    path = real_data / "nac" / "nacl.img"
    with pytest.raises(InputError, match="process_edr"):
        la.open_nac(path)
    with pytest.raises(MissingDependencyError, match="ISIS is not installed"):
        process_edr(path, tmp_path)
    assert np.array(os.listdir(tmp_path)).size == 0
