"""The reader protocol: files known by what is in them, opened by the function that they are for, or refused."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
import xarray as xr

import lunarray as la
from lunarray.errors import InputError, LunarrayWarning, ProductFormatError
from lunarray.readers import Reader, registry


@pytest.fixture
def toy(monkeypatch):
    """A reader of numbers, one a line, behind a word that they begin with."""

    def open_toy(paths, *, scale=1.0):
        values = []
        for name in paths:
            with open(name) as stream:
                word, *numbers = stream.read().split()
            assert word == "TOY"  # foreign on purpose
            values += [scale * float(v) for v in numbers]
        return xr.Dataset({"value": ("sample", np.array(values))}).chunk()

    reader = Reader(
        "toy",
        "Numbers of a test",
        open_toy,
        lambda path: la.readers.head(path, 3) == b"TOY",
        (".toy",),
        {"first": lambda path: open_toy([path]).isel(sample=[0])},
        many=True,
    )
    monkeypatch.setattr(registry, "_ADDED", dict(registry._ADDED))
    return la.readers.register(reader)


def write(path, text):
    path.write_text(text)
    return path


def test_what_a_reader_knows_opens(toy, tmp_path):
    a = write(tmp_path / "a.toy", "TOY 1 2")
    b = write(tmp_path / "b.data", "TOY 3")
    assert la.open(a)["value"].values.tolist() == [1, 2]
    assert la.open(str(b))["value"].values.tolist() == [3]
    assert la.open([b, a], scale=2)["value"].values.tolist() == [6, 2, 4]
    assert la.open(a, product="first")["value"].values.tolist() == [1]
    assert la.open(a, reader="toy").identical(la.open(a, reader=toy))
    assert la.readers.reader_of(a) is toy


def test_a_name_alone_serves_where_nobody_is_certain(toy, tmp_path):
    bad = write(tmp_path / "bad.toy", "TO")
    with pytest.raises(
        ProductFormatError, match=r"bad\.toy: damaged, or another kind of file \(Ass"
    ):
        la.open(bad)


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ("gone.toy", InputError, r"gone\.toy: no such file, folder or pattern"),
        ("*.gone", InputError, "no files there"),
        ("empty", InputError, "no files there"),
        ("what.bin", ProductFormatError, r"no reader knows it; tried kaguya-sp, .*toy.*reader="),
        (["a.toy", "x.spc"], InputError, r"2 kinds \(toy: .*a\.toy; kaguya-sp: .*x\.spc"),
        ("*.[ts][op][yc]", InputError, "2 kinds"),
        (3, InputError, "int is no path"),
        ([], InputError, "no files there"),
    ],
)  # fmt: skip
def test_what_cannot_be_opened_says_why(toy, tmp_path, monkeypatch, given, error, match):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.toy", "TOY 1")
    write(
        tmp_path / "x.spc", 'PDS_VERSION_ID = PDS3\nMISSION_NAME = "SELENE"\nINSTRUMENT_ID = "SP"\n'
    )
    (tmp_path / "what.bin").write_bytes(bytes(64))
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=match):
        la.open(given)


def test_arguments_that_are_wrong_say_what_is_right(toy, tmp_path):
    a = write(tmp_path / "a.toy", "TOY 1")
    with pytest.raises(InputError, match=r"toy: no option scala. Its options are scale"):
        la.open(a, scala=2)
    with pytest.raises(InputError, match=r"product: 'second'. Give 'first'"):
        la.open(a, product="second")
    with pytest.raises(InputError, match=r"reader: 'toi'. Give 'kaguya-sp'.* or 'toy'"):
        la.open(a, reader="toi")
    with pytest.raises(InputError, match="errors: 'ignore'"):
        la.open(a, errors="ignore")


def test_several_readers_are_named(toy, tmp_path):
    la.readers.register(Reader("other", "the same", toy.opens, toy.guess, (".toy",), many=True))
    a = write(tmp_path / "a.toy", "TOY 1")
    with pytest.raises(InputError, match=r"2 readers know it: toy, other.*reader='toy'"):
        la.open(a)
    bad = write(tmp_path / "bad.toy", "?")
    with pytest.raises(InputError, match="2 readers may be meant: toy, other"):
        la.open(bad)
    assert la.open(a, reader="other")["value"].values.tolist() == [1]


def test_skipping_needs_nothing_of_the_reader(toy, tmp_path):
    for name, text in (("a", "TOY 1"), ("b", "TOY x"), ("c", "TOY 3")):
        write(tmp_path / f"{name}.toy", text)
    with pytest.raises(ProductFormatError, match="could not convert string to float"):
        la.open(tmp_path)
    with pytest.warns(LunarrayWarning, match=r"1 of 3 files skipped: b\.toy"):
        ds = la.open(tmp_path / "*.toy", errors="skip")
    assert ds["value"].values.tolist() == [1, 3]
    assert "could not convert" in ds.attrs["skipped_files"][0]["reason"]
    with pytest.raises(ProductFormatError, match="could not convert"):
        la.open(tmp_path / "b.toy", errors="skip")


def test_what_a_reader_makes_is_an_object_of_xarray(tmp_path):
    reader = Reader("list", "", lambda path: [path], lambda path: True)
    with pytest.raises(ProductFormatError, match="'list' made a list of it"):
        la.open(write(tmp_path / "a", ""), reader=reader)
    with pytest.raises(InputError, match="2 files, and 'list' opens one at a time"):
        la.open([write(tmp_path / "a", ""), write(tmp_path / "b", "")], reader=reader)
    with pytest.raises(InputError, match=r"no files of toy there. Their endings are \.toy"):
        la.open(tmp_path, reader=Reader("toy", "", list, lambda path: False, (".toy",)))


def test_a_guess_that_raises_is_no(tmp_path):
    def boom(path):
        raise RuntimeError("boom")

    reader = Reader("boom", "", lambda path: None, boom, could=boom)
    assert not reader.certain("a")
    assert not reader.possible("a")


def test_paths_of_every_sort(toy, tmp_path, monkeypatch):
    a = write(tmp_path / "a.toy", "TOY 1")
    b = write(tmp_path / "b.toy", "TOY 2")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for given, values in (
        (os.fsencode(a), [1]),
        ("~/b.toy", [2]),
        ("a.toy", [1]),
        ((p for p in (b, a)), [2, 1]),
        ({"a.toy": 0}.keys(), [1]),
        ([a, a, "a.toy", b], [1, 2]),  # each once
        ("**/?.toy", [1, 2]),
        (".", [1, 2]),
    ):
        assert la.open(given)["value"].values.tolist() == values


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(engines, tmp_path):
    os.mkfifo(tmp_path / "a.spc")
    assert not any(
        engines[n].guess_can_open(tmp_path / "a.spc") for n in ("kaguya-sp", "ch2-class")
    )
    with pytest.raises(ProductFormatError, match="neither a file nor a folder"):
        la.open(tmp_path / "a.spc")
    with pytest.raises(InputError, match="no files there"):
        la.open(tmp_path)


def test_the_table_prints():
    readers = la.readers.available()
    text = repr(readers).splitlines()
    assert text[0].split() == ["reader", "reads", "files", "products"]
    assert len(text) == len(readers) + 1
    assert {line.split()[0] for line in text[1:]} == set(readers)
    assert ">kaguya-sp</td>" in readers._repr_html_()
    assert {"kaguya-sp", "ch2-class", "lroc-nac", "lunarray", "cube", "zarr"} <= set(readers)


def test_a_reader_that_cannot_be_loaded_is_left_out(monkeypatch):
    from importlib.metadata import EntryPoint

    points = [
        EntryPoint("gone", "no_such_module:READER", registry.GROUP),
        EntryPoint("wrong", "math:pi", registry.GROUP),
    ]
    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: points)
    registry.announced.cache_clear()
    with pytest.warns(LunarrayWarning) as caught:
        found = la.readers.available()
    registry.announced.cache_clear()
    told = [str(w.message) for w in caught]
    assert "'gone' (no_such_module:READER) is left out: ModuleNotFoundError" in told[0]
    assert "it is a float" in told[1]
    assert "kaguya-sp" in found  # the source tree says its own


def test_only_a_reader_is_registered():
    with pytest.raises(InputError, match="a str, not a reader"):
        la.readers.register("toy")


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("given", "reader", "opener", "options"),
    [
        ("sp/SP_2C_02_02358_S138_E3586.spc", "kaguya-sp", "open_sp", {}),
        ("sp/SP_2C_03_04184_N187_E0053.lbl", "kaguya-sp", "open_sp", {"reflectance": "REF2"}),
        ("sp", "kaguya-sp", "open_sp", {"chunks": "file"}),
        ("sp/*", "kaguya-sp", "open_sp", {}),
        ("class/bright", "ch2-class", "open_class", {}),
        ("class/bright/*03303*.fits", "ch2-class", "open_class", {"chunks": None}),
        ("nac/M143947267L.cal.echo.crop.cub", "lroc-nac", "open_nac", {}),
        ("nac/M115143943RE_cal_echo_2_2.png", "lroc-nac", "open_nac", {"scale": None}),
        ("m3/M3_4030seg_L2_aristcrater.tif", "cube", "open_cube", {"bands": [1, 5, 9]}),
    ],
)
def test_real_files_open_as_by_their_own_function(real_data, given, reader, opener, options):
    path = real_data / given
    opener = getattr(la, opener, None) or getattr(la.fractures, opener)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LunarrayWarning)  # the cube has no place on the Moon
        ours = la.open(
            path, reader=None if given.startswith(("sp", "cl", "nac")) else reader, **options
        )
        own = opener(path, **options)
    assert la.readers.available()[reader].many or la.readers.available()[reader].possible(str(path))
    assert ours.identical(own)
    assert ours.chunks == own.chunks
    data = (
        [(ours[v].data, own[v].data) for v in own.data_vars]
        if hasattr(own, "data_vars")
        else [(ours.data, own.data)]
    )
    for a, b in data:
        assert getattr(a, "name", None) == getattr(b, "name", None)  # the very same graph


@pytest.mark.realdata
def test_a_mixed_folder_of_real_files(real_data):
    with pytest.raises(InputError, match="2 kinds"):
        la.open([*(real_data / "sp").glob("*.spc"), *(real_data / "class/bright").glob("*.fits")])
    background = la.open(real_data / "class/background/background_allevents.fits")
    assert background["counts"].sizes == {"channel": 2048}
