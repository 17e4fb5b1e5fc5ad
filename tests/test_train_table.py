"""What a table of one's own says beyond masks and labels is trained on: questions, real pairs."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image as PILImage
from scipy import ndimage

from medic_ad.data.sample import Sample, TableInfo, write_samples
from medic_ad.errors import DataError
from medic_ad.model.compare import CompareOutput
from medic_ad.train import compare, detect
from medic_ad.train.compare import change_map_loss
from medic_ad.train.draw import Slices, pair_batch, scan_batch
from medic_ad.train.real_pairs import RealPairs, render_pairs
from medic_ad.train.render import Rendered
from medic_ad.train.run import split

QUESTION = ("Is the left side affected?", "Yes, on the left.")


def sample(name: str, **own) -> Sample:
    return Sample(image=f"{name}.png", group=name, split="train", source="mine", **own)


def rendered(samples: list[Sample], known: bool) -> Rendered:
    grey = np.tile(np.arange(32, dtype=np.uint8) * 4, (len(samples), 32, 1))  # dark left
    none = np.zeros(grey.shape, bool)
    label = np.array([s.label for s in samples], np.float32)
    return Rendered(grey, grey, grey, none, np.full(len(samples), known), label, samples)


def test_a_question_of_the_table_is_asked_of_its_own_unflipped_image() -> None:
    asked = sample("a", question=QUESTION[0], answer=QUESTION[1])
    slices, rng = Slices(rendered([asked], known=False), masked=False), np.random.default_rng(0)
    rows = [slices.scan(rng) for _ in range(60)]
    assert {row["dialogue"] for row in rows} == {QUESTION}  # nothing else is known of it
    labelled = Slices(rendered([replace(asked, label=0.0)], known=False), masked=False)
    rows += [labelled.scan(rng) for _ in range(60)]
    assert {row["dialogue"] for row in rows[60:]} == {None, QUESTION}
    batch = scan_batch(rows, torch.Generator().manual_seed(0))
    assert batch["label"][:60].isnan().all() and (batch["label"][60:] == 0).all()
    leans: Counter = Counter()
    for image, dialogue in zip(batch["image"], batch["dialogue"], strict=True):
        leans[dialogue is not None, bool(image[:, 20:].mean() > image[:, :12].mean())] += 1
    assert leans[True, False] == 0 < leans[True, True]  # the dark side stays on the left
    assert leans[False, False] > 5
    with pytest.raises(DataError, match="label and a mask"):
        Slices(rendered([asked], known=False))  # stages that need masks do not take it


def test_an_image_without_a_label_does_not_count_for_the_image_loss() -> None:
    asked = sample("a", question=QUESTION[0], answer=QUESTION[1])
    network, processor = tiny.network(), tiny.processor()
    stage = detect.DetectStage(network, processor, detect.DetectArguments(data="d", out="o"))
    rng = np.random.default_rng(0)
    slices = Slices(rendered([asked], known=False), masked=False)
    batch = scan_batch([slices.scan(rng) for _ in range(2)], torch.Generator().manual_seed(0))
    batch["image"] = tiny.canvases(2)
    batch["mask"] = torch.zeros_like(batch["image"])
    with torch.no_grad():
        out = stage(**batch, dialogues=[QUESTION] * 2, hints=[""] * 2)
    assert float(out["image"]) == 0 == float(out["pixel"]) and float(out["language"]) > 0
    assert torch.isfinite(out["loss"])


# ---------------------------------------------------------------------------------- real pairs
@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of four pairs; the follow-up is shifted by 4 pixels and has a larger blob."""
    folder = tmp_path_factory.mktemp("pairs")
    samples = []
    for k, change in enumerate(("worse", "better", "stable", None)):
        grey, mask = tiny.head(40 + k, lesion=True)
        grown = ndimage.binary_dilation(mask, iterations=4)
        later = np.where(grown, 245, grey).astype(np.uint8)
        first, second = (later, grey) if change == "better" else (grey, later)
        second = ndimage.shift(second, (0, 4), order=1)
        for name, pixels in ((f"first{k}", first), (f"second{k}", second)):
            PILImage.fromarray(pixels).save(folder / f"{name}.png")
        told = dict(question=QUESTION[0], answer=QUESTION[1]) if k > 1 else {}
        samples.append(
            sample(f"second{k}", prior=f"first{k}.png", change=change, sequence="T1", **told)
        )
    info = TableInfo(name="table", licence="yours", ship=False, root=folder.as_posix())
    return write_samples(samples, folder / "table.parquet", info)


def test_real_pairs_lie_on_one_grid_and_turn_round_with_their_change(pairs: Path) -> None:
    real = render_pairs(split(str(pairs), "train"), tiny.SIDE, pairs.parent / "cache")
    assert isinstance(real, RealPairs) and len(real) == 4
    assert not real.refused
    for first, second in (np.load(file).astype(float) for file in real.files):
        moved = abs(np.roll(second, 2, 1) - first).mean()
        assert abs(second - first).mean() < 0.8 * moved  # the shift is gone, the blob is not
    rng = np.random.default_rng(0)
    seen: Counter = Counter()
    for _ in range(200):
        row = real.pair(rng)
        assert not row["known"] and not row["mask"].any()
        larger = row["followup"].mean() > row["image"].mean()
        seen[row["change"], bool(larger), row["dialogue"]] += 1
    assert seen["worse", True, None] > 20 and seen["better", False, None] > 20
    assert not seen["worse", False, None] and not seen["better", True, None]
    assert seen["stable", True, QUESTION] > 5 and not seen["stable", False, QUESTION]
    assert seen[None, True, QUESTION] > 20  # no label: only its question, in its own order
    batch = pair_batch([real.pair(rng) for _ in range(6)], torch.Generator().manual_seed(0))
    assert batch["known"] == [False] * 6 and len(batch["dialogue"]) == 6


def test_masks_that_nobody_drew_do_not_count() -> None:
    logits = torch.randn(2, 16, 16, requires_grad=True)
    out, none = CompareOutput(growth=logits, decline=-logits), torch.zeros(2, 16, 16)
    change_map_loss(out, none, none, torch.tensor([False, True])).backward()
    assert logits.grad is not None and not logits.grad[0].any() and logits.grad[1].any()


def test_compare_learns_from_a_table_of_pairs_alone(pairs: Path, tmp_path: Path) -> None:
    tiny.network().save_pretrained(tmp_path / "detect")
    tiny.processor().save_pretrained(tmp_path / "detect")
    out = compare.main(
        compare.CompareArguments(
            data=str(pairs),
            model=str(tmp_path / "detect"),
            out=str(tmp_path / "compare"),
            cache=str(pairs.parent / "cache"),
            steps=30,
            batch=4,
            workers=0,
            learning_rate=3e-3,
            bf16=False,
        )
    )
    record = json.loads((out / "compare.run.json").read_text())
    log = record["log"]
    assert record["pairs_left_out"] == {}
    assert all(row["map"] == 0 for row in log if "map" in row)
    labels = [row["label"] for row in log if "label" in row]
    assert labels and labels[-1] < 0.6 < np.log(3)  # of three answers, told from four pairs


def test_pairs_that_cannot_be_compared_are_left_out_counted_and_named(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    good = split(str(pairs), "train")
    PILImage.fromarray(np.zeros((96, 96), np.uint8)).save(tmp_path / "blank.png")
    blank = [replace(s, prior=str(tmp_path / "blank.png")) for s in good[:2]]
    real = render_pairs([*blank, *good], tiny.SIDE, tmp_path / "cache")
    assert real is not None and real.samples == good
    [(reason, count)] = real.refused.items()
    assert "no structure" in reason and count == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"2 of 6 pairs are left out: 2 because {reason}" in said
    with pytest.raises(DataError, match="none of 2 pairs can: 2 because .*no structure"):
        render_pairs(blank, tiny.SIDE, tmp_path / "cache")


def test_a_pair_is_aligned_once_for_all_its_questions(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *rest = split(str(pairs), "train")
    asked = [replace(first, question=f"Is it {k}?", answer="Yes.") for k in range(5)]
    render_pairs([*asked, *rest], tiny.SIDE, tmp_path)
    made = sorted((tmp_path / "pairs").iterdir())
    assert len(made) == 1 + len(rest) and {file.suffix for file in made} == {".npy"}
    made[0].unlink()  # as if the run had stopped before it
    times = {file: file.stat().st_mtime_ns for file in made[1:]}
    real = render_pairs([*asked, *rest], tiny.SIDE, tmp_path)
    assert real is not None and len(real) == 5 + len(rest) and len(set(real.files)) == len(made)
    assert made[0].is_file() and {f: f.stat().st_mtime_ns for f in made[1:]} == times


def test_a_table_without_masks_or_pairs_cannot_train_compare(tmp_path: Path) -> None:
    PILImage.fromarray(tiny.head(1, False)[0]).save(tmp_path / "a.png")
    info = TableInfo(name="table", licence="yours", ship=False, root=tmp_path.as_posix())
    data = write_samples([sample("a", label=0.0)], tmp_path / "t.parquet", info)
    tiny.network().save_pretrained(tmp_path / "detect")
    tiny.processor().save_pretrained(tmp_path / "detect")
    arguments = compare.CompareArguments(
        data=str(data), model=str(tmp_path / "detect"), out=str(tmp_path / "out")
    )
    with pytest.raises(DataError, match="priors with a change, found neither"):
        compare.main(arguments)
    assert not (tmp_path / "out").exists()


def test_the_mask_of_a_change_is_no_lesion(tmp_path: Path) -> None:
    info = TableInfo(name="table", licence="yours", ship=False, root=tmp_path.as_posix())
    samples = [
        sample("pair", prior="before.png", change="worse", mask="change.png"),
        sample("ill", prior="before.png", label=1.0, mask="lesion.png"),
    ]
    read = split(str(write_samples(samples, tmp_path / "t.parquet", info)), "train")
    assert [s.mask for s in read] == [None, f"{tmp_path.as_posix()}/lesion.png"]
