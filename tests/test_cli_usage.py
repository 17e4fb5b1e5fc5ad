"""Wrong usage is one sentence too: what was expected, what came, what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_cases import invoke, refused, run

USAGE: dict[str, tuple[str, ...]] = {
    "read": ("expected the argument current of", "got none", "read --help"),
    "read x --nonsense": ("got '--nonsense'; see", "read --help"),
    "read x --pror y": (
        "expected an option of",
        "got '--pror'; did you mean --prior or --prior-date?",
    ),
    "read x y": ("expected no further argument, got 'y'",),
    "read x --out": ("expected a value after --out, got none",),
    "read x --json=1": ("expected no value after --json, got one",),
    "demo": ("expected the option --out of", "got none"),
    "trian": ("expected a command of", "got 'trian'; did you mean train?"),
    "train nonsense": ("got 'nonsense'; choose one of base, detect, compare, explain",),
    "data prepare table --seed some": ("expected a valid integer for --seed, got 'some'",),
    "evaluate unet --data x": ("expected the option --out of", "evaluate unet --help"),
    "evaluate unet --datta x": ("got '--datta'; did you mean --data?",),
    "evaluate unet --data x --out y --learning-rate long": (
        "number for --learning-rate, got 'long'",
    ),
    "evaluate unet --config none.yaml": ("--config: none.yaml cannot be read",),
    "info --model nano": ("--model: expected --memory with it", "add --memory"),
    "info --memory": ("--memory: expected --model with it, got none",),
    "--vers": ("got '--vers'; did you mean --version?",),
}


@pytest.mark.parametrize("words", USAGE)
def test_wrong_usage_is_one_sentence(words: str) -> None:
    refused(invoke(*words.split()), *USAGE[words])


def test_the_real_command_says_the_same() -> None:
    said = (
        "expected an option of `medic-ad read`, got '--pror'; did you mean --prior or --prior-date?"
    )
    refused(run("read", "x", "--pror", "y"), said)


@pytest.mark.parametrize(
    "words",
    [
        ["read", "{}"],
        ["read", "x", "--prior", "{}"],
        ["read", "x", "--out", "{}"],
        ["read", "x", "--ask", "{}"],
        ["demo", "--out", "{}"],
        ["data", "prepare", "table", "--csv", "{}"],
        ["data", "prepare", "mni152", "--out", "{}"],
        ["train", "detect", "--data", "x", "--out", "{}"],
        ["evaluate", "unet", "--data", "{}", "--out", "x"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_word_is_not_the_current_folder(
    words: list[str], empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = words[words.index("{}") - 1]
    name = name if name.startswith("--") else "current"
    refused(invoke(*(word.format(empty) for word in words)), f"{name}: expected a", "empty text")
    assert not list(tmp_path.iterdir())


def test_no_word_at_all_shows_the_help() -> None:
    for words in ([], ["train"]):
        done = invoke(*words)
        assert done.exit_code == 2 and "Usage:" in done.output
