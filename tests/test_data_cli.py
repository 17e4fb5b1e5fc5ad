"""Command line: `medic-ad data list` and `medic-ad data prepare`."""

from __future__ import annotations

import json
from pathlib import Path

from published_cases import Maker
from typer.testing import CliRunner, Result

from medic_ad.cli import app
from medic_ad.data.registry import SETS


def invoke(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "80", "TERM": "dumb"}).invoke(app, ["data", *map(str, words)])


def test_the_list_is_a_row_a_set_where_no_screen_is() -> None:
    lines = invoke("list").stdout.splitlines()
    rows = {line.split()[0]: line for line in lines if line.strip()}
    for name, info in SETS.items():
        for word in (info.task, info.modality, info.n, info.licence, info.where, info.split):
            assert word in rows[name]
        assert info.layout in rows[name]
    assert rows["nano:"] == "nano: brain_tumour_cheng + ms_cross_sectional + mni152"


def test_the_list_as_json() -> None:
    listed = json.loads(invoke("list", "--json").stdout)
    assert list(listed) == list(SETS)
    assert listed["vqa_rad"]["ship"] is True and listed["mmxu"]["ship"] is False


def test_prepare_says_what_it_found(tmp_path: Path) -> None:
    make = Maker(tmp_path / "set")
    for name in ("yes/a.png", "yes/b.png", "no/c.png"):
        make.picture(name)
    (make.root / "yes/copy.png").write_bytes((make.root / "no/c.png").read_bytes())
    words = ("prepare", "br35h", "--root", make.root, "--out", tmp_path / "t.parquet")
    done = invoke(*words)
    assert done.exit_code == 0, done.output
    assert "br35h: 4 files compared, 1 exact and 0 near pairs." in done.stdout
    assert "br35h: 4 samples in 3 groups." in done.stdout
    done = invoke(*words, "--no-duplicates")
    assert "duplicates were not looked for" in done.stdout


def test_a_table_is_a_parquet_file_or_lies_in_a_folder(tmp_path: Path) -> None:
    make = Maker(tmp_path / "set")
    for name in ("yes/a.png", "yes/b.png", "no/c.png"):
        make.picture(name)
    (tmp_path / "v1.2").mkdir()
    (tmp_path / "notes").write_text("mine")
    words = ("prepare", "br35h", "--root", make.root, "--no-duplicates", "--out")
    for out in ("t.csv", "new.d", "notes"):
        done = invoke(*words, tmp_path / out)
        assert done.exit_code == 2 and done.stderr.count("\n") == 1
        assert "expected --out as a file NAME.parquet" in done.stderr
    assert (tmp_path / "notes").read_text() == "mine" and len(list(tmp_path.iterdir())) == 3
    for out, written in (("v1.2", "v1.2/br35h.parquet"), ("new", "new/br35h.parquet")):
        assert invoke(*words, tmp_path / out).exit_code == 0
        assert (tmp_path / written).is_file()


def test_prepare_refuses_in_one_sentence(tmp_path: Path) -> None:
    for words, expected in (
        (("br35h", "--validation", "patient07"), "leave --validation out"),
        (("br35h",), "The folder yes of br35h is missing"),
        (("slake",), "train questions of slake is missing"),
        (("chestx_det",), "ChestX_Det_train.json"),
        (("brain_tumour_cheng",), "index.csv"),
        (("table", "--csv", tmp_path / "mine.csv", "--no-duplicates"), "leave --no-duplicates out"),
    ):
        done = invoke("prepare", *words, "--root", tmp_path, "--out", tmp_path / "x.parquet")
        assert done.exit_code == 2 and done.stdout == ""
        assert expected in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
