"""Step 4: names, folders and devices that are no model get one sentence."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from medic_ad.errors import MedicADError, ModelError
from medic_ad.load import load_checkpoint, load_model
from medic_ad.models import MODELS, find_checkpoint
from medic_ad.sums import RECORD
from medic_ad.train.settings import StageArguments


def plain_copy(tmp_path: Path) -> Path:
    """A copy of nano without the record of its hashes, which would be the first to object."""
    folder = tmp_path / "model"
    return Path(shutil.copytree(MODELS["nano"].path, folder, ignore=lambda *_: {RECORD}))


def test_a_name_a_folder_and_a_hub_name_are_found(tmp_path: Path) -> None:
    assert find_checkpoint("nano") == MODELS["nano"].path
    (tmp_path / "config.json").write_text("{}")
    assert find_checkpoint(tmp_path) == tmp_path
    hub = "lingshu-medical-mllm/Lingshu-7B"
    assert find_checkpoint(hub) == hub
    with pytest.raises(ModelError, match="expected the name of a model"):
        find_checkpoint(tmp_path / "detect")  # a folder of ours with a spelling of its own
    with pytest.raises(ModelError, match="did you mean nano"):
        find_checkpoint("nanno")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_type": "bert"}, "is 'bert'"),
        ({"text_config": None}, "expected text_config"),
        ({"image_size": 0}, "multiple of 24"),
        ({"image_size": 100}, "multiple of 24"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused_at_once(
    tmp_path: Path, change: dict, sentence: str
) -> None:
    config = json.loads((MODELS["nano"].path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match=sentence):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, wrong: float) -> None:
    folder = plain_copy(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["detector.score.weight"].view(-1)[3] = wrong
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="NaN or infinity in detector.score.weight"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("file", "text"),
    [("tokenizer.json", "{}"), ("processor_config.json", "[]"), ("chat_template.jinja", None)],
)
def test_a_broken_processor_is_one_sentence(tmp_path: Path, file: str, text: str | None) -> None:
    folder = plain_copy(tmp_path)
    if text is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(text)
    with pytest.raises(ModelError, match="expected a checkpoint that loads"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("was", "now", "sentence"),
    [
        ("<|image_pad|>", "", "writes '<|image_pad|>' 0 times"),
        ("<|vision_end|>", "", "writes '<|ano|>' 0 times"),
        ("{%", "{", "expected a checkpoint that loads"),
    ],
)
def test_a_chat_template_that_loses_the_image_is_refused_at_once(
    tmp_path: Path, was: str, now: str, sentence: str
) -> None:
    folder = plain_copy(tmp_path)
    template = (folder / "chat_template.jinja").read_text()
    assert was in template
    (folder / "chat_template.jinja").write_text(template.replace(was, now))
    with pytest.raises(ModelError, match=re.escape(sentence)):
        load_checkpoint(folder)


def test_layers_that_their_configuration_contradicts_are_one_sentence(tmp_path: Path) -> None:
    folder = plain_copy(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] += 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="expected a checkpoint that loads"):
        load_checkpoint(folder)


@pytest.mark.parametrize("device", ["meta", "cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(ModelError, match="expected a device"):
        load_model("nano", device)


@pytest.mark.parametrize("name", ["steps", "batch", "learning_rate", "save_steps"])
@pytest.mark.parametrize("value", [0, -3, float("nan")])
def test_numbers_of_a_training_run_are_above_zero(name: str, value: float) -> None:
    with pytest.raises(MedicADError, match=f"--{name.replace('_', '-')} above 0"):
        StageArguments(data="x", out="y", **{name: value})  # type: ignore[arg-type]
