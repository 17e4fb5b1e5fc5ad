"""A checkpoint as the Hub publishes Qwen2.5-VL-7B and Lingshu-7B: every weight arrives, or none."""

from __future__ import annotations

import json
import logging
from logging.handlers import BufferingHandler
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLForConditionalGeneration

from medic_ad.errors import ModelError
from medic_ad.load import load_checkpoint, processor_from_base
from medic_ad.model.modeling import HEADS, MedicADForConditionalGeneration
from medic_ad.processor import ANO, DIFF, IMAGE

BACKBONE = 81  # tensors: 4 vision blocks of 14, 2 language layers of 12, and 9 around them


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("published")
    return folder, tiny.published_checkpoint(folder)


def from_base(folder: Path, **kwargs) -> MedicADForConditionalGeneration:
    ids = {"ano_token_id": 500, "diff_token_id": 501}
    return MedicADForConditionalGeneration.from_base(folder, **{**tiny.TINY_HEADS, **ids, **kwargs})


def rewritten(folder: Path, published: Path, **changes: torch.Tensor | None) -> Path:
    """A copy of a checkpoint with tensors left out (None), added or exchanged."""
    folder.mkdir()
    tensors: dict[str, torch.Tensor] = {}
    for file in published.iterdir():
        if file.suffix == ".safetensors":
            tensors |= load_file(file)
        elif not file.name.endswith("index.json"):
            (folder / file.name).write_bytes(file.read_bytes())
    for name, tensor in changes.items():
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    tiny.write_shards(folder, tensors, 2)
    return folder


def test_the_fixture_is_laid_out_as_on_the_hub(published) -> None:
    folder, tensors = published
    assert {p.name for p in folder.glob("model*")} == {
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model.safetensors.index.json",
    }
    config = json.loads((folder / "config.json").read_text())
    assert "text_config" not in config and config["vision_config"]["in_chans"] == 3
    prefixes = {name.split(".")[0] for name in tensors}
    assert prefixes == {"visual", "model", "lm_head"}
    assert {"visual.blocks.0.attn.qkv.weight", "visual.merger.ln_q.weight", "lm_head.weight",
            "model.layers.0.self_attn.q_proj.bias", "model.embed_tokens.weight",
            "visual.patch_embed.proj.weight", "model.norm.weight"} <= set(tensors)  # fmt: skip
    assert len(tensors) == BACKBONE


def test_every_backbone_tensor_equals_the_file(published) -> None:
    folder, tensors = published
    network = from_base(folder)
    loaded = {
        tiny.published_name(name): tensor
        for name, tensor in network.state_dict().items()
        if name.split(".")[0] not in HEADS
    }
    assert set(loaded) == set(tensors)
    compared = sum(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert compared == BACKBONE
    text, vision = network.config.text_config, network.config.vision_config
    assert (text.rms_norm_eps, text.rope_parameters["rope_theta"]) == (1e-6, 1e6)
    assert text.rope_parameters["mrope_section"] == [2, 3, 3] and text.vocab_size == tiny.ROWS
    assert (vision.window_size, vision.patch_size, vision.in_channels) == (56, 14, 3)
    assert network.config.taps == (1, 3)


def test_the_heads_are_new_and_the_calibration_is_nan(published) -> None:
    """What a checkpoint lacks, transformers leaves as uninitialised memory: not here."""
    torch.manual_seed(0)
    network = from_base(published[0])
    fresh = MedicADForConditionalGeneration(network.config).state_dict()
    assert torch.equal(network.detector.bias, torch.tensor([[-2.0, 2.0]] * 2))
    assert network.detector.gain == 0.5 and network.comparer.map_weight == 1.0
    assert torch.equal(network.explainer.logit.bias, torch.full((4,), -4.0))
    assert torch.equal(network.comparer.change_map.logit.bias, torch.full((4,), -4.0))
    assert 0.01 < network.comparer.no_prior.std() < 0.03
    checked = 0
    for name, tensor in network.state_dict().items():
        head = name.split(".")[0]
        if head == "calibration":
            assert tensor.isnan().all()
        elif head in HEADS:
            assert tensor.isfinite().all(), name
            assert tensor.abs().max() < 4.1, name
            if tensor.numel() > 50:
                assert tensor.std() == pytest.approx(float(fresh[name].std()), rel=0.5, abs=1e-6)
        else:
            continue
        checked += 1
    assert checked == len(fresh) - BACKBONE > 200
    loads = [from_base(published[0]).detector.system_tokens for _ in range(2)]
    assert not torch.equal(*loads)


def test_it_speaks_as_the_stock_class_does(published) -> None:
    folder, _ = published
    ours = from_base(folder).eval()
    stock = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder).eval()
    grids = [(8, 8), (6, 10)]
    inputs = {
        **tiny.prompt(ours.config, grids), **tiny.packed(grids, ours.config.vision_config)
    }  # fmt: skip
    with torch.no_grad():
        assert torch.equal(ours(**inputs).logits, stock(**inputs).logits)


def test_bfloat16_holds_for_all_but_the_calibration(published) -> None:
    network = from_base(published[0], dtype=torch.bfloat16)
    kinds = {name.split(".")[0]: t.dtype for name, t in network.state_dict().items()}
    assert kinds == {
        **dict.fromkeys(("model", "lm_head", "detector", "comparer", "explainer"), torch.bfloat16),
        "calibration": torch.float32,
    }


def test_tied_embeddings_need_no_lm_head(published, tmp_path: Path) -> None:
    """Qwen2.5-VL-3B has no `lm_head.weight` in its files."""
    folder = rewritten(tmp_path / "tied", published[0], **{"lm_head.weight": None})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    network = from_base(folder)
    embeddings = published[1]["model.embed_tokens.weight"]
    assert torch.equal(network.lm_head.weight, embeddings)
    assert network.lm_head.weight is network.get_input_embeddings().weight


def test_a_single_file_loads_too(published, tmp_path: Path) -> None:
    folder = rewritten(tmp_path / "single", published[0])
    for file in folder.glob("model*"):
        file.unlink()
    save_file(published[1], folder / "model.safetensors", {"format": "pt"})
    loaded = from_base(folder).model.visual.blocks[2].attn.qkv.weight
    assert torch.equal(loaded, published[1]["visual.blocks.2.attn.qkv.weight"])


@pytest.mark.parametrize(
    "name",
    [
        "visual.blocks.3.mlp.down_proj.bias",
        "visual.merger.mlp.0.weight",
        "model.layers.1.self_attn.k_proj.weight",
        "model.embed_tokens.weight",
        "lm_head.weight",
    ],
)
def test_a_missing_key_is_named(published, tmp_path: Path, name: str) -> None:
    folder = rewritten(tmp_path / "less", published[0], **{name: None})
    today = name.replace("visual.", "model.visual.", 1)
    if name.startswith("model."):
        today = name.replace("model.", "model.language_model.", 1)
    with pytest.raises(ModelError, match=rf"'{today}' is missing \(1 such keys\)"):
        from_base(folder)
    with pytest.raises(ModelError, match=today):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["visual.blocks.4.norm1.weight", "model.layers.2.mlp.extra"])
def test_an_extra_key_is_named(published, tmp_path: Path, name: str) -> None:
    folder = rewritten(tmp_path / "more", published[0], **{name: torch.zeros(32)})
    with pytest.raises(ModelError, match=f"{name.split('.', 1)[1]}' is not known to this model"):
        from_base(folder)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("visual.blocks.0.norm1.weight", (33,)), ("model.embed_tokens.weight", (tiny.ROWS - 1, 48))],
)
def test_another_shape_is_named(published, tmp_path: Path, name: str, shape: tuple) -> None:
    folder = rewritten(tmp_path / "wide", published[0], **{name: torch.zeros(shape)})
    for load in (from_base, load_checkpoint):
        with pytest.raises(ModelError, match=name.split(".", 1)[1]):
            load(folder)


def test_what_is_no_base_is_refused(published, tmp_path: Path) -> None:
    folder = rewritten(tmp_path / "other", published[0])
    (folder / "config.json").write_text('{"model_type": "qwen2", "hidden_size": 8}')
    with pytest.raises(ModelError, match="expected a Qwen2.5-VL checkpoint .* is 'qwen2'"):
        from_base(folder)
    with pytest.raises(ModelError, match=r"spare rows .* 512 rows .* reach 512"):
        from_base(published[0], diff_token_id=512)
    missing = rewritten(tmp_path / "shard", published[0])
    (missing / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match="model-00002-of-00002.safetensors"):
        load_checkpoint(missing)


def test_the_stage_tokens_stand_on_spare_rows(published) -> None:
    folder, tensors = published
    before = tiny.published_tokenizer()
    processor = processor_from_base(folder)
    tokenizer = processor.tokenizer
    ids = tokenizer.convert_tokens_to_ids([ANO, DIFF])
    assert ids == [len(before), len(before) + 1] and len(tokenizer) == len(before) + 2 < tiny.ROWS
    assert before.convert_tokens_to_ids(ANO) not in ids  # unknown to the backbone
    text = f"user\n<|vision_start|>{IMAGE}<|vision_end|>{ANO}{DIFF}Is there an anomaly?<|im_end|>"
    assert tokenizer(text)["input_ids"].count(ids[0]) == 1
    plain = text.replace(ANO + DIFF, "")
    assert tokenizer(plain)["input_ids"] == before(plain)["input_ids"]
    assert set(before.all_special_tokens) <= set(tokenizer.all_special_tokens)
    assert processor.chat_template == before.chat_template
    own = processor.image_processor
    assert list(own.image_mean) == tiny.PUBLISHED_MEAN
    assert list(own.image_std) == tiny.PUBLISHED_STD


def test_load_checkpoint_takes_the_ids_of_the_tokenizer(published) -> None:
    """The published tokenizer gives 151665 and 151666, another one others; nothing is resized."""
    network, processor = load_checkpoint(published[0])
    ids = processor.tokenizer.convert_tokens_to_ids([ANO, DIFF])
    assert [network.config.ano_token_id, network.config.diff_token_id] == ids
    assert network.get_input_embeddings().weight.shape == (tiny.ROWS, 48)
    assert network.lm_head.weight.shape == (tiny.ROWS, 48)
    assert torch.equal(network.lm_head.weight, published[1]["lm_head.weight"])
    assert MedicADForConditionalGeneration.config_class().ano_token_id == 151665


def test_loading_a_base_says_nothing(published, capfd: pytest.CaptureFixture[str]) -> None:
    """The heads are new, which transformers reports as missing; other warnings still arrive."""
    handler = BufferingHandler(1000)
    of_transformers = logging.getLogger("transformers")
    level = of_transformers.level  # the command line lowers it
    of_transformers.setLevel(logging.WARNING)
    of_transformers.addHandler(handler)
    try:
        load_checkpoint(published[0])
        assert handler.buffer == [] and capfd.readouterr().err == ""
        from_base(published[0])
        assert any("LOAD REPORT" in r.getMessage() for r in handler.buffer)
    finally:
        of_transformers.removeHandler(handler)
        of_transformers.setLevel(level)
