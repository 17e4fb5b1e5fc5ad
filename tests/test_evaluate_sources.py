"""What kept predictions depend on: derived from the imports, so that no file can be forgotten."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from medic_ad.errors import DataError
from medic_ad.evaluate.predictions import sources, store
from medic_ad.evaluate.predictions.table import arrays_in


def test_all_that_the_road_loads_is_among_the_files() -> None:
    """Held against what Python itself imports for the road."""
    code = "import sys, medic_ad.road; sys.stdout.write('\\n'.join(m for m in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name for name in run.stdout.split() if name.split(".")[0] == "medic_ad"}
    found = set(sources.reachable("medic_ad.road"))
    packages = {sources.PACKAGE / "readers/__init__.py", sources.PACKAGE / "__init__.py"}
    for name in loaded:
        path = sources.file_of(name)
        assert path in found or (path is not None and path.name == "__init__.py"), name
    assert len(loaded) > 30 and packages <= found
    named = {"words", "load", "study", "look", "processor"}
    assert named <= {path.stem for path in found}
    assert not any("node" in path.parts or path.stem == "cli" for path in found)


def test_a_changed_file_changes_the_code_of_what_imports_it(tmp_path: Path, monkeypatch) -> None:
    package = tmp_path / "medic_ad"
    (package / "deep").mkdir(parents=True)
    for name, text in {
        "top": "def f():\n    from medic_ad.deep.low import x\n",
        "deep/low": "x = 1\n",
        "other": "y = 1\n",
        "typed": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import medic_ad.other\n",
    }.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.setattr(sources, "PACKAGE", package)
    top, other, typed = (store.code(f"medic_ad.{n}") for n in ("top", "other", "typed"))
    (package / "deep/low.py").write_text("x = 2\n")
    assert store.code("medic_ad.top") != top and store.code("medic_ad.other") == other
    (package / "other.py").write_text("y = 2\n")
    assert store.code("medic_ad.other") != other and store.code("medic_ad.typed") == typed


def test_a_module_that_is_not_there_is_refused() -> None:
    """Else a module that moves would silently no longer count."""
    with pytest.raises(ValueError, match="medic_ad.evaluate.gone"):
        store.code("medic_ad.road", "medic_ad.evaluate.gone")


def test_what_predictions_go_with_is_found_through_packages() -> None:
    found = sources.reachable(
        "medic_ad.evaluate.predictions.sweep", "medic_ad.evaluate.predictions.pairs"
    )
    evaluation = {str(p.relative_to(sources.PACKAGE)) for p in found if "evaluate" in p.parts}
    assert {f"evaluate/predictions/{n}.py" for n in ("sweep", "pairs", "table")} <= evaluation
    assert not any("output" in name or "parts" in name for name in evaluation)


def test_a_damaged_file_that_was_kept_is_named_before_anything_is_made(tmp_path: Path) -> None:
    kept, made = store.Store(tmp_path, "test"), []

    def make() -> dict[str, np.ndarray]:
        made.append(1)
        return {"n_0": np.arange(500)}

    def ask(key: str = "key") -> None:
        kept.predictions("a" * 64, "x", key, make)

    ask()
    [path] = tmp_path.rglob("*.npz")
    whole = path.read_bytes()
    spoilt = [whole[:n] for n in (0, 1, 100, len(whole) // 2, len(whole) - 1)]
    spoilt += [b"no archive", whole[:300] + bytes(50) + whole[350:]]
    for content in spoilt:
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"{path.name} .* damaged; delete it and run again"):
            ask()
        with pytest.raises(DataError, match=path.name):
            arrays_in([(path, [0])], "n")[0]
    log = tmp_path / "opened.jsonl"
    line = log.read_text()
    for text in (line + "{", line[:-5] + "\n", "[]\n", "{}\n", "1\n"):
        log.write_text(text)
        with pytest.raises(DataError, match="opened.jsonl .* damaged"):
            ask("another")
    assert len(made) == 1


@pytest.mark.parametrize("kind", ["predictions", "material", "parts"])
def test_what_another_version_of_the_maker_made_is_not_used(kind, tmp_path, monkeypatch) -> None:
    kept, made = store.Store(tmp_path, "test"), []

    def make(n: int) -> dict[str, np.ndarray]:
        made.append(n)
        return {"n": np.array(n)}

    def ask() -> None:
        if kind == "predictions":
            kept.predictions("a" * 64, "x", "key", partial(make, 1))
        elif kind == "material":
            kept.material("x", "key", partial(make, 1))
        else:
            kept.parts("a" * 64, "x", {"key": partial(make, 1)})

    ask()
    ask()
    assert made == [1]
    monkeypatch.setattr(store, "source_of", lambda make: "another text")
    ask()
    assert made == [1, 1]
