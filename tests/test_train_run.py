"""What the stages share: resume, proof of freezing, reproducible draws, losses, drawn truth."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image as Picture
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from medic_ad.data.sample import Sample, read_samples
from medic_ad.errors import DataError, ModelError
from medic_ad.model.compare import CompareOutput
from medic_ad.model.detect import DetectOutput
from medic_ad.train import base, compare, detect
from medic_ad.train.compare import change_map_loss
from medic_ad.train.detect import system_token_loss
from medic_ad.train.draw import PAIR_KINDS, Slices, mask_cell, pair_batch, scan_batch
from medic_ad.train.losses import IGNORED, answer_labels, soft_dice
from medic_ad.train.render import Rendered, render
from medic_ad.train.run import (
    Draws,
    Stage,
    StageArguments,
    digest,
    fit,
    freeze,
    hash_tensors,
    source_weights,
    split,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.table(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def rendered(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    return render(split(str(data), "train"), tiny.SIDE, tmp_path_factory.mktemp("cache"), workers=1)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrained")
    tiny.network().save_pretrained(folder)
    tiny.processor().save_pretrained(folder)
    return folder


# ------------------------------------------------------------------------------ resume
class Killed(RuntimeError):
    pass


def killed_at(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, call: int) -> None:
    """The process dies in a draw: the n-th call of a module's function does not return."""
    real, calls = getattr(module, name), []

    def drawn(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise Killed
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, drawn)


def same_weights(first: Path, second: Path) -> int:
    a, b = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert set(a) == set(b)
    different = [k for k in a if not torch.equal(torch.nan_to_num(a[k]), torch.nan_to_num(b[k]))]
    assert not different, different[:3]
    return len(a)


def test_a_killed_detect_run_resumes_to_the_same_weights(
    data: Path, untrained: Path, rendered: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def arguments(name: str, **own: Any) -> detect.DetectArguments:
        common = tiny.arguments(data, tmp_path / "cache", batch=4, save_steps=4, steps=11)
        return detect.DetectArguments(
            **{**common, "model": str(untrained), "out": str(tmp_path / name), **own}
        )

    through = detect.main(arguments("through"))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at(patch, detect, "scan_batch", 10)
        detect.main(arguments("killed"))
    checkpoints = [p.name for p in (tmp_path / "killed" / "checkpoints").glob("checkpoint-*")]
    assert checkpoints == ["checkpoint-8"]
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    drawn: list[dict] = []
    real = detect.scan_batch
    monkeypatch.setattr(detect, "scan_batch", tiny.recorded(real, drawn))
    resumed = detect.main(arguments("killed"))
    assert same_weights(through, resumed) > 300
    assert 3 <= len(drawn) <= 4  # steps 9 to 11, and what the loader draws ahead
    other = detect.main(arguments("other", seed=1))
    with pytest.raises(AssertionError):
        same_weights(through, other)  # the comparison can fail
    log = [row["step"] for row in json.loads((resumed / "detect.run.json").read_text())["log"]]
    assert log[-1] == 11


def test_a_killed_base_run_resumes_to_the_same_weights(
    data: Path, rendered: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in its second half, it does not make the first again."""

    def arguments(name: str) -> base.BaseArguments:
        common = tiny.arguments(data, tmp_path / "cache", batch=4, save_steps=3, steps=5)
        return base.BaseArguments(**{**common, "language_steps": 7, "out": str(tmp_path / name)})

    through = base.main(arguments("through"), tiny.config())
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at(patch, base, "scan_batch", 12)
        base.main(arguments("killed"), tiny.config())
    drawn: list[dict] = []
    real = base.scan_batch
    monkeypatch.setattr(base, "scan_batch", tiny.recorded(real, drawn))
    resumed = base.main(arguments("killed"), tiny.config())
    assert same_weights(through, resumed) > 300
    assert len(drawn) <= 7


# ------------------------------------------------------------------------------ freezing
class Leaky(Stage):
    """A stage that writes into a tensor that should be frozen."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **_: Any) -> dict:
        with torch.no_grad():
            self.model.frozen.weight[0, 0] += 1e-7
        return {"loss": self.model.learned(torch.ones(1, 2)).sum()}


class Two(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.learned = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)


def test_a_frozen_tensor_that_changes_is_an_error(tmp_path: Path) -> None:
    model = Two()
    torch.nn.init.zeros_(model.frozen.weight)
    freeze(model, ("learned.",))
    assert [n for n, p in model.named_parameters() if p.requires_grad] == [
        "learned.weight", "learned.bias"
    ]  # fmt: skip
    arguments = StageArguments(**tiny.arguments(tmp_path, tmp_path, out=str(tmp_path), steps=2))
    with pytest.raises(ModelError, match="2 tensors frozen, but frozen.weight changed"):
        fit(Leaky(model), model, Draws(lambda *_: {"x": torch.ones(1)}, 0), arguments, "leaky")
    assert not (tmp_path / "leaky.run.json").exists()


def test_hashes_see_every_bit_name_and_dtype() -> None:
    tensor = torch.tensor([1.0, -0.0, math.nan])
    one = hash_tensors([("a", tensor), ("b", torch.zeros(()))])
    assert one == hash_tensors([("a", tensor.clone()), ("b", torch.zeros(()))])
    assert one["a"] != hash_tensors([("a", torch.tensor([1.0, 0.0, math.nan]))])["a"]
    # sha256 of the four zero bytes of a float32, as any tool gives it
    assert one["b"] == "df3f619804a92fdb4057192dc43dd748ea778adc52bc498ce80524c014b81119"
    assert len({digest(one), digest({"a": one["a"]}), digest({"a": one["b"], "b": one["a"]})}) == 3


# ------------------------------------------------------------------------------ draws
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_draws_are_a_function_of_seed_and_position(workers: int) -> None:
    def make(rng: np.random.Generator, generator: torch.Generator) -> dict:
        return {"a": float(rng.random()), "b": float(torch.rand(1, generator=generator))}

    def stream(seed: int, start: int, n: int) -> list[dict]:
        draws = Draws(make, seed)
        draws.start = start
        loader = DataLoader(draws, batch_size=1, collate_fn=lambda r: r[0], num_workers=workers)
        return [row for row, _ in zip(loader, range(n), strict=False)]

    first = stream(0, 0, 8)
    plain = Draws(make, 0)
    assert first == [row for row, _ in zip(plain, range(8), strict=False)]
    assert stream(0, 5, 3) == first[5:]
    assert stream(1, 0, 8) != first and len({row["a"] for row in first}) == 8


def test_splits_patients_and_weights_are_named(data: Path) -> None:
    train = split(str(data), "train")
    assert len(train) == 16 and all(Path(s.image).is_file() for s in train)
    left = split(str(data), "train", exclude="P0,P3")
    assert {s.patient for s in train} - {s.patient for s in left} == {"P0", "P3"}
    patients = ",".join(str(s.patient) for s in read_samples(data))
    with pytest.raises(DataError, match="expected samples of split 'train'"):
        split(str(data), "train", exclude=patients)

    def given(text: str) -> dict[str, float]:
        return source_weights(StageArguments(data="", out="", weights=text))

    assert given("a=0.25,b=0.5") == {"a": 0.25, "b": 0.5} and given("") == {}
    for wrong in ("a", "a=x", "a=1=2"):
        with pytest.raises(DataError, match="expected --weights as name=share"):
            given(wrong)


def test_rendering_is_kept_and_made_once(data: Path, rendered: Rendered, tmp_path: Path) -> None:
    train = split(str(data), "train")
    one = render(train[:4], tiny.SIDE, tmp_path, workers=1)
    [file] = tmp_path.iterdir()
    stamp = file.stat().st_mtime_ns
    again = render(train[:4], tiny.SIDE, tmp_path, workers=1)
    assert file.stat().st_mtime_ns == stamp and np.array_equal(one.clean, again.clean)
    render(train[:4], tiny.SIDE, tmp_path, seed=1, workers=1)
    assert len(list(tmp_path.iterdir())) == 2
    mended = tmp_path.parent / "mended.png"  # the same path, other pixels
    for side in (96, 80):
        Picture.fromarray(tiny.head(1, False, side)[0]).save(mended)
        render([replace(train[0], image=str(mended), mask=None)], tiny.SIDE, tmp_path, workers=1)
    assert len(list(tmp_path.iterdir())) == 4
    with pytest.raises(DataError, match="at least one sample"):
        render([], tiny.SIDE, tmp_path)


def test_twins_without_lesion_and_shams_with_it(rendered: Rendered) -> None:
    assert len(rendered) == 16 and rendered.labelled.all()
    assert np.array_equal(rendered.label, [1, 1, 0] * 5 + [1])
    lesions = np.flatnonzero(rendered.mask.any((1, 2)))
    assert len(lesions) == 11 and np.array_equal(rendered.label == 1, rendered.mask.any((1, 2)))
    for i in range(16):
        image, clean, sham = (
            x[i].astype(float) for x in (rendered.image, rendered.clean, rendered.sham)
        )
        mask = rendered.mask[i]
        if i not in lesions:
            assert np.array_equal(image, clean) and np.array_equal(image, sham)
            continue
        assert image[mask].mean() > 220 and clean[mask].mean() < 180  # the blob is gone
        assert abs(sham[mask] - image[mask]).mean() < 12  # and stays in the sham
        assert abs(clean - image)[~mask].mean() < 0.05 * abs(clean - image)[mask].mean()
        assert abs(sham - image).sum() > 0  # which was repaired elsewhere


def test_scans_carry_their_mask_with_them(rendered: Rendered) -> None:
    slices, rng = Slices(rendered), np.random.default_rng(0)
    rows = [slices.scan(rng) for _ in range(160)]
    batch = scan_batch(rows, torch.Generator().manual_seed(0))
    marked = 0
    for image, mask, cell in zip(batch["image"], batch["mask"].bool(), batch["cell"], strict=True):
        assert image.shape == (tiny.SIDE, tiny.SIDE) and image.min() >= 0 and image.max() <= 1
        assert (cell is None) == (not mask.any())
        if mask.sum() > 30:
            around = torch.nn.functional.max_pool2d(mask[None].float(), 9, 1, 4)[0].bool()
            assert (
                image[mask].mean() > image[around & ~mask].mean() + 0.05
            )  # a bright draw saturates
            marked += 1
    assert 45 <= marked <= 110  # real 0.28 and sham 0.14 of two thirds, transplants 0.14 of all
    own = [r for r in rows if r["mask"].any() and not np.array_equal(r["image"], r["clean"])]
    assert len(own) > 45
    brighter = [(r["image"] - r["clean"])[r["mask"]].mean() for r in own]
    assert np.mean(np.array(brighter) > 0.15) > 0.95


def test_pairs_carry_the_change_that_their_masks_show(rendered: Rendered) -> None:
    slices, rng = Slices(rendered), np.random.default_rng(0)
    rows = [slices.pair(rng) for _ in range(200)]
    counts = {"worse": 0, "stable": 0, "better": 0}
    factors = []
    for row in rows:
        first, second = int(row["mask"].sum()), int(row["mask_followup"].sum())
        counts[row["change"]] += 1
        if row["change"] == "stable":
            # pasted twice with sub-pixel jitter of its own: the same area, nearly the same place
            assert first == second
            both = int((row["mask"] & row["mask_followup"]).sum())
            assert both >= 0.75 * first
            continue
        assert (second > first) == (row["change"] == "worse") and second != first
        if min(first, second):
            factors.append(max(first, second) / min(first, second))
    share = PAIR_KINDS["sham"] + PAIR_KINDS["absent"]
    assert counts["stable"] == pytest.approx(200 * share, abs=25)
    assert abs(counts["worse"] - counts["better"]) < 30
    assert len(factors) > 40 and min(factors) > 1.1 and max(factors) < 3.4  # committed: 1.25 to 3
    batch = pair_batch(rows[:40], torch.Generator().manual_seed(0))
    for k, change in enumerate(batch["change"]):
        growth = float(batch["mask_followup"][k].sum() - batch["mask"][k].sum())
        if change == "stable":
            assert abs(growth) <= 0.2 * float(batch["mask"][k].sum()) + 4
        else:
            assert (growth > 0) == (change == "worse") or abs(growth) < 6


def test_sources_are_drawn_by_their_shares(rendered: Rendered) -> None:
    sources = ["rare"] * 2 + ["common"] * 14
    named = [replace(s, source=x) for s, x in zip(rendered.samples, sources, strict=True)]
    slices = Slices(replace(rendered, samples=named), {"rare": 0.4})
    rng = np.random.default_rng(0)
    drawn = np.array([slices._index(rng) for _ in range(1000)])
    assert (drawn < 2).mean() == pytest.approx(0.4, abs=0.05)
    assert set(drawn) == set(range(16))


def test_the_cell_is_that_of_the_largest_region() -> None:
    mask = torch.zeros(60, 60)
    assert mask_cell(mask) is None
    mask[2:6, 50:55] = 1
    assert mask_cell(mask) == (0, 2)
    mask[25:35, 25:35] = 1
    assert mask_cell(mask) == (1, 1)


# ------------------------------------------------------------------------------ losses
def test_soft_dice_by_hand() -> None:
    target = torch.tensor([[[1.0, 1, 0, 0]], [[0.0, 0, 0, 0]]])
    assert soft_dice(target, target) == 0
    assert soft_dice(1 - target, target) == pytest.approx(1 - 1 / 9)
    half = torch.full_like(target, 0.5)
    assert soft_dice(half, target) == pytest.approx(1 - 3 / 7)
    assert soft_dice(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)) == 0  # normals count


@pytest.mark.parametrize("images", [1, 2])
def test_labels_hold_the_answer_and_its_end_only(images: int) -> None:
    processor, config = tiny.processor(), tiny.config()
    questions = ["Where is the anomaly?", "Is the scan normal?"]
    answers = ["In the upper left of the image.", "Yes."]
    prompts = [
        processor.prompt(q, images, answer=a) for q, a in zip(questions, answers, strict=True)
    ]
    ids = processor.text(prompts, config, 16)["input_ids"]
    labels = answer_labels(ids, processor.tokenizer)
    for row, answer in zip(labels, answers, strict=True):
        assert processor.tokenizer.decode(row[row != IGNORED]) == f"{answer}<|im_end|>"
    assert torch.equal(labels[labels != IGNORED], ids[labels != IGNORED])


def stage_one(abnormal: torch.Tensor, normal: torch.Tensor) -> DetectOutput:
    return DetectOutput(abnormal=abnormal[:, None], normal=normal[:, None])


def test_system_tokens_are_pulled_to_the_lesion_and_away() -> None:
    mask = torch.zeros(1, 32, 32)
    mask[:, 8:16, 16:24] = 1  # one patch of a 4 x 4 grid
    sign = torch.full((1, 4, 4), -6.0)
    sign[0, 1, 2] = 6
    known = torch.ones(1, dtype=torch.bool)
    right, wrong, flat = (
        float(system_token_loss(stage_one(s, -s), mask, known)) for s in (sign, -sign, 0 * sign)
    )
    assert right < 0.05 < flat < wrong
    abnormal = (0 * sign).requires_grad_()
    normal = (0 * sign).requires_grad_()
    system_token_loss(stage_one(abnormal, normal), mask, known).backward()
    assert abnormal.grad is not None and normal.grad is not None
    pull = -abnormal.grad[0]
    assert pull[1, 2] > 0 and (pull.flatten()[torch.arange(16) != 6] < 0).all()
    assert torch.allclose(normal.grad, -abnormal.grad, atol=1e-6)


def test_change_map_loss_turns_round_with_the_dates() -> None:
    generator = torch.Generator().manual_seed(0)
    growth, decline = torch.randn(2, 3, 16, 16, generator=generator)
    masks = (torch.rand(2, 3, 16, 16, generator=generator) > 0.7).float()
    known = torch.ones(3, dtype=torch.bool)
    there = change_map_loss(
        CompareOutput(growth=growth, decline=decline), masks[0], masks[1], known
    )
    back = change_map_loss(CompareOutput(growth=decline, decline=growth), masks[1], masks[0], known)
    assert torch.allclose(there, back)
    grown, gone = (masks[1] - masks[0]).clamp(min=0), (masks[0] - masks[1]).clamp(min=0)
    right = CompareOutput(growth=16 * grown - 8, decline=16 * gone - 8)
    turned = CompareOutput(growth=right.decline, decline=right.growth)
    assert (
        change_map_loss(right, masks[0], masks[1], known)
        < 0.05
        < 5
        < change_map_loss(turned, masks[0], masks[1], known)
    )
    none = CompareOutput(growth=-8 + 0 * growth, decline=-8 + 0 * growth)
    assert change_map_loss(none, masks[0], masks[0], known) < 0.5  # stable: nothing is to be drawn


def test_compare_arguments_have_their_own_defaults() -> None:
    assert compare.CompareArguments(data="d", out="o").batch == 12
    assert StageArguments(data="d", out="o").batch == 16


def test_a_lesion_without_a_mask_counts_for_the_image_and_not_for_the_pixels() -> None:
    side, grey = 32, np.full((2, 32, 32), 90, np.uint8)
    samples = [
        Sample(image=f"{n}.png", group=n, split="train", source="s", label=float(n == "ill"))
        for n in ("ill", "well")
    ]
    rendered = Rendered(
        image=grey,
        clean=grey,
        sham=grey,
        mask=np.zeros((2, side, side), bool),
        labelled=np.array([False, True]),
        label=np.array([1.0, 0.0], np.float32),
        samples=samples,
    )
    rng = np.random.default_rng(0)
    slices = Slices(rendered, masked=False)
    batch = scan_batch([slices.scan(rng) for _ in range(40)], torch.Generator().manual_seed(0))
    assert 5 < int(batch["known"].sum()) < 35
    assert torch.equal(batch["label"], (~batch["known"]).float())
    assert Slices(rendered).usable.tolist() == [1]
    logits = torch.randn(2, 1, 4, 4, requires_grad=True)
    out = DetectOutput(logit=torch.zeros(2), abnormal=logits, normal=-logits)
    mask = torch.zeros(2, side, side)
    loss = system_token_loss(out, mask, torch.tensor([False, True]))
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[0].any() and logits.grad[1].any()
    assert float(system_token_loss(out, mask, torch.zeros(2, dtype=torch.bool))) == 0
