"""What the stages share: resume, proof of freezing, losses."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file
from transformers.utils import logging as hf_logging

from medic_ad.data.sample import Sample
from medic_ad.errors import ModelError
from medic_ad.model.compare import CompareOutput
from medic_ad.model.detect import DetectOutput
from medic_ad.models import MODELS
from medic_ad.train import base, compare, detect
from medic_ad.train.compare import change_map_loss
from medic_ad.train.detect import system_token_loss
from medic_ad.train.draw import Slices, scan_batch
from medic_ad.train.frozen import digest, freeze, hash_frozen, hash_tensors
from medic_ad.train.losses import IGNORED, answer_labels, soft_dice
from medic_ad.train.render import Rendered
from medic_ad.train.run import Draws, Stage, finish, fit
from medic_ad.train.settings import StageArguments


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrained")
    tiny.network().save_pretrained(folder)
    tiny.processor().save_pretrained(folder)
    return folder


# ------------------------------------------------------------------------------ records
def test_a_stage_trained_once_more_keeps_its_own_record_and_no_stale_ones(tmp_path: Path) -> None:
    before, out = tmp_path / "before", tmp_path / "out"
    for folder, steps in ((before, 1), (out, 2)):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "explain.run.json").write_text(json.dumps({"steps": steps}))
    (before / "detect.run.json").write_text(json.dumps({"steps": 3}))
    (out / "detect.run.json").write_text(json.dumps({"steps": 4}))  # of weights that it replaces
    arguments = StageArguments(data="", out=str(out), model=str(before))
    finish(tiny.network(), tiny.processor(), arguments, "explain")
    assert json.loads((out / "explain.run.json").read_text()) == {"steps": 2}
    assert json.loads((out / "detect.run.json").read_text()) == {"steps": 3}
    again = dataclasses.replace(arguments, model=str(out))  # in its own place
    finish(tiny.network(), tiny.processor(), again, "explain")
    assert json.loads((out / "detect.run.json").read_text()) == {"steps": 3}


def test_the_records_of_a_named_model_come_along(tmp_path: Path) -> None:
    """Without them, whom `nano` was trained on would count as never seen."""
    arguments = StageArguments(data="", out=str(tmp_path), model="nano")
    finish(tiny.network(), tiny.processor(), arguments, "detect")
    kept = {path.name for path in MODELS["nano"].path.glob("*.run.json")} - {"detect.run.json"}
    assert {path.name for path in tmp_path.glob("*.run.json")} == kept
    assert "compare.run.json" in kept


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
    with monkeypatch.context() as patch:
        killed_at(patch, detect, "scan_batch", 1)  # nothing is to be drawn
        record = (resumed / "detect.run.json").read_bytes()
        assert same_weights(through, detect.main(arguments("killed"))) > 300
        assert (resumed / "detect.run.json").read_bytes() == record
        (resumed / "detect.run.json").unlink()  # killed between its last checkpoint and the record
        assert same_weights(through, detect.main(arguments("killed"))) > 300
    made = json.loads((resumed / "detect.run.json").read_text())
    assert made["steps"] == 11 and made["final_loss"] is None
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


@pytest.mark.parametrize("verbosity", [logging.WARNING, logging.ERROR])
def test_training_shows_one_bar_with_its_losses_and_no_raw_log(
    verbosity: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hf_logging.get_verbosity()
    hf_logging.set_verbosity(verbosity)  # of transformers, which logs otherwise by it
    model = Two()
    freeze(model, ("learned.",))
    # 25 steps are a line of the log
    arguments = StageArguments(**tiny.arguments(tmp_path, tmp_path, out=str(tmp_path), steps=25))
    with pytest.raises(ModelError, match="frozen.weight changed"):
        fit(Leaky(model), model, Draws(lambda *_: {"x": torch.ones(1)}, 0), arguments, "leaky")
    hf_logging.set_verbosity(before)
    said = capsys.readouterr()
    assert "25/25" in said.err and "loss=" in said.err
    assert "{'" not in said.err + said.out and "grad_norm" not in said.err


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


def test_a_calibration_is_frozen_and_the_statistics_of_a_trained_layer_are_not() -> None:
    network = tiny.network()
    freeze(network, ("detector.",))
    before = hash_frozen(network)
    saved = {n for n, _ in network.calibration.named_buffers()}
    assert saved and {f"calibration.{n}" for n in saved} <= set(before)
    assert not any("inv_freq" in name for name in before)  # is not saved with the weights
    network.calibration.change_temperature.fill_(2.0)
    after = hash_frozen(network)
    assert [n for n in before if before[n] != after[n]] == ["calibration.change_temperature"]

    norms = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2))
    freeze(norms, ("0.",))
    frozen = {f"1.{n}" for n in norms[1].state_dict()}
    assert set(hash_frozen(norms)) == frozen and "1.running_mean" in frozen


def test_hashes_see_every_bit_name_and_dtype() -> None:
    tensor = torch.tensor([1.0, -0.0, math.nan])
    one = hash_tensors([("a", tensor), ("b", torch.zeros(()))])
    assert one == hash_tensors([("a", tensor.clone()), ("b", torch.zeros(()))])
    assert one["a"] != hash_tensors([("a", torch.tensor([1.0, 0.0, math.nan]))])["a"]
    # sha256 of the four zero bytes of a float32, as any tool gives it
    assert one["b"] == "df3f619804a92fdb4057192dc43dd748ea778adc52bc498ce80524c014b81119"
    assert len({digest(one), digest({"a": one["a"]}), digest({"a": one["b"], "b": one["a"]})}) == 3


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
