"""Save and load: bit for bit, by the Auto classes too, and nothing that does not fit gets in."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from medic_ad.errors import ModelError
from medic_ad.load import load_checkpoint, load_model, pick_device, save_checkpoint
from medic_ad.model.configuration import MedicADConfig
from medic_ad.model.modeling import HEADS, MedicADForConditionalGeneration
from medic_ad.models import MODELS, weights_sha256
from medic_ad.processor import MedicADProcessor
from medic_ad.sums import RECORD

SCOPE = ["brain MR T1", "brain MR FLAIR"]


def calibrated(dtype: torch.dtype = torch.float32) -> MedicADForConditionalGeneration:
    """A tiny network whose calibration holds numbers that bfloat16 cannot."""
    network = tiny.network(scope=SCOPE).to(dtype)
    network.calibration.float()
    generator = torch.Generator().manual_seed(0)
    for buffer in network.calibration.buffers():
        buffer.copy_(torch.rand(buffer.shape, generator=generator))
    return network


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("saved")
    network = calibrated()
    save_checkpoint(network, tiny.processor(), folder)
    return folder, {k: v.clone() for k, v in network.state_dict().items()}


def copy(saved: Path, folder: Path) -> Path:
    """A copy whose weights may be changed: without the record of their hashes."""
    return Path(shutil.copytree(saved, folder, ignore=lambda *_: {RECORD}))


def test_every_tensor_comes_back_bit_for_bit(saved) -> None:
    folder, before = saved
    network, processor = load_checkpoint(folder)
    after = network.state_dict()
    assert set(after) == set(before)
    compared = sum(torch.equal(after[name], before[name]) for name in before)
    assert compared == len(before) > 300
    buffers = [name for name in before if name.startswith("calibration.")]
    assert len(buffers) == len(list(network.calibration.buffers())) >= 11
    assert network.lm_head.weight is network.get_input_embeddings().weight  # tied, saved once
    assert network.config.scope == SCOPE and network.config.taps == (1, 3)
    assert isinstance(processor, MedicADProcessor)
    assert processor.tokenizer.get_vocab() == tiny.processor().tokenizer.get_vocab()
    assert processor.chat_template == tiny.processor().chat_template
    assert processor.image_processor.to_dict() == tiny.processor().image_processor.to_dict()


def test_a_second_save_writes_the_same_bytes(saved, tmp_path: Path) -> None:
    network, processor = load_checkpoint(saved[0])
    network.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert weights_sha256(tmp_path) == weights_sha256(saved[0])
    for name in ("tokenizer.json", "processor_config.json", "chat_template.jinja"):
        assert (tmp_path / name).read_bytes() == (saved[0] / name).read_bytes()


def test_shards_load_as_one_file_does(saved, tmp_path: Path) -> None:
    network, processor = load_checkpoint(saved[0])
    network.save_pretrained(tmp_path, max_shard_size="100KB")
    processor.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    again = load_checkpoint(tmp_path)[0].state_dict()
    assert all(torch.equal(again[k], v) for k, v in saved[1].items())


def test_bfloat16_weights_keep_their_calibration(tmp_path: Path) -> None:
    network = calibrated(torch.bfloat16)
    network.save_pretrained(tmp_path)
    tiny.processor().save_pretrained(tmp_path)
    again, _ = load_checkpoint(tmp_path)
    assert again.model.visual.blocks[0].attn.qkv.weight.dtype == torch.bfloat16
    for name, buffer in network.calibration.named_buffers():
        found = getattr(again.calibration, name)
        assert found.dtype == torch.float32 and torch.equal(found, buffer), name
        assert not torch.equal(found, found.bfloat16().float())


def test_nan_until_fitted_survives_a_save(tmp_path: Path) -> None:
    network = tiny.network(scope=SCOPE)
    network.save_pretrained(tmp_path)
    tiny.processor().save_pretrained(tmp_path)
    again, _ = load_checkpoint(tmp_path)
    assert all(buffer.isnan().all() for buffer in again.calibration.buffers())


def test_the_auto_classes_load_it(saved) -> None:
    folder, before = saved
    config = AutoConfig.from_pretrained(folder)
    network = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    assert type(config) is MedicADConfig and config.model_type == "medic_ad"
    assert type(network) is MedicADForConditionalGeneration
    assert type(processor) is MedicADProcessor
    assert all(torch.equal(network.state_dict()[k], v) for k, v in before.items())


def test_outputs_are_the_same_before_and_after(saved) -> None:
    network, _ = load_checkpoint(saved[0])
    for parameter in network.parameters():  # as mapped from the file they are not aligned, and
        parameter.data = parameter.data.clone()  # matrix products differ in the last bit
    images = tiny.packed([(8, 8), (6, 10)], network.config.vision_config)
    with torch.no_grad():
        outs = []
        for one in (calibrated(), network.eval()):
            vision = one.encode(**images)
            detected = one.detect(vision)
            outs.append((detected, one.explain(vision, detected)))
    (mine, my_maps), (theirs, their_maps) = outs
    for k in range(2):
        for name in mine[k]:
            assert torch.equal(mine[k][name], theirs[k][name]), name
        assert torch.equal(my_maps[k], their_maps[k])


@pytest.mark.parametrize(
    "name",
    ["detector.bias", "comparer.no_prior", "explainer.logit.weight", "calibration.threshold",
     "model.visual.merger.ln_q.weight"],
)  # fmt: skip
@pytest.mark.parametrize("fault", ["is missing", "is not known", "has another shape"])
def test_weights_that_do_not_fit_are_refused(saved, tmp_path: Path, name: str, fault: str) -> None:
    folder = copy(saved[0], tmp_path / "unfit")
    tensors = load_file(folder / "model.safetensors")
    key = next(k for k in tensors if k.endswith(name.removeprefix("model.")))
    named = name
    if fault == "is missing":
        del tensors[key]
    elif fault == "is not known":
        tensors[key + "_extra"], named = torch.zeros(1), name + "_extra"
    else:
        tensors[key] = torch.zeros(*tensors[key].shape[:-1], tensors[key].shape[-1] + 1)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=rf"'{named}' {fault}.*\(1 such keys\)"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "key"),
    [({"pooled_size": 3}, "comparer.no_prior"), ({"system_dim": 25}, "detector"),
     ({"scope": ["one"]}, "calibration"), ({"heatmap_channels": 20}, "explainer")],
)  # fmt: skip
def test_a_configuration_of_other_weights_is_refused(
    saved, tmp_path: Path, change: dict, key: str
) -> None:
    folder = copy(saved[0], tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match=f"'{key}.*has another shape"):
        load_checkpoint(folder)


@pytest.mark.parametrize("fault", ["empty", "truncated", "no weights", "no config", "no json"])
def test_what_is_no_checkpoint_is_refused(saved, tmp_path: Path, fault: str) -> None:
    folder = copy(saved[0], tmp_path / "broken")
    weights = folder / "model.safetensors"
    if fault == "empty":
        weights.write_bytes(b"")
    elif fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif fault == "no weights":
        weights.unlink()
    elif fault == "no config":
        (folder / "config.json").unlink()
    else:
        (folder / "config.json").write_text("{")
    for load in (load_checkpoint, lambda path: load_model(str(path), "cpu")):
        with pytest.raises(ModelError, match="expected"):
            load(folder)


def test_one_damaged_byte_in_saved_weights_is_refused(saved, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved[0], tmp_path / "damaged"))
    checked = subprocess.run(["sha256sum", "--check", "--quiet", RECORD], cwd=folder)
    assert checked.returncode == 0
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1  # the lowest bit of a number's second byte
    file.write_bytes(content)
    with pytest.raises(ModelError, match="expected the model.safetensors that .* got another file"):
        load_checkpoint(folder)
    (folder / RECORD).unlink()  # a plain checkpoint has none
    load_checkpoint(folder)
    shutil.copy(saved[0] / RECORD, folder)
    file.unlink()
    with pytest.raises(ModelError, match="expected the model.safetensors that .* got none"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["processor_config.json", "config.json", "chat_template.jinja"])
def test_one_damaged_byte_beside_saved_weights_is_refused(saved, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(saved[0], tmp_path / "damaged"))
    (folder / "detect.run.json").write_text("{}")  # a record of training comes later, and goes on
    load_checkpoint(folder)
    content = bytearray((folder / name).read_bytes())
    content[-5] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"expected the {name} that .* got another file"):
        load_checkpoint(folder)


def test_the_hash_of_the_weights_is_of_the_weights_alone(saved, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved[0], tmp_path / "other"))
    (folder / "processor_config.json").write_text("{}")
    assert weights_sha256(folder) == weights_sha256(saved[0])


def test_the_bundled_files_are_the_ones_that_were_recorded() -> None:
    folder = MODELS["nano"].path
    lines = (folder / RECORD).read_text().splitlines()
    files = [f for f in sorted(folder.iterdir()) if f.name != RECORD and ".run" not in f.name]
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert lines == [f"{d}  {f.name}" for d, f in zip(digests, files, strict=True)]
    assert len(lines) == 7


def test_load_model_gives_name_hash_and_frozen_eval_network(saved, tmp_path: Path) -> None:
    model = load_model(str(saved[0]), "cpu")
    assert (model.name, model.licence, str(model.device)) == (str(saved[0]), "unknown", "cpu")
    assert not model.network.training
    assert not any(p.requires_grad for p in model.network.parameters())
    changed = copy(saved[0], tmp_path / "changed")
    tensors = load_file(changed / "model.safetensors")
    tensors["detector.gain"] = tensors["detector.gain"] + 1e-6
    save_file(tensors, changed / "model.safetensors", {"format": "pt"})
    assert len(model.weights_sha256) == 64
    assert load_model(str(changed), "cpu").weights_sha256 != model.weights_sha256


def test_unknown_names_and_devices_are_named() -> None:
    with pytest.raises(ModelError, match="'nanno'; did you mean nano"):
        load_model("nanno", "cpu")
    with pytest.raises(ModelError, match="known names: .*nano"):
        load_model("/nowhere/at/all", "cpu")
    for device in ("cuda:97", "toaster"):
        with pytest.raises(ModelError, match=f"expected a device .* got '{device}'"):
            pick_device(device)


def test_heads_are_named_once() -> None:
    network = tiny.model().network
    own = {name.split(".")[0] for name, _ in network.named_parameters()} | {"calibration"}
    assert own == {"model", *HEADS}  # lm_head is tied
