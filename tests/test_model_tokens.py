"""Stage tokens: embeddings where their ids stand, prompts whole, text from the language model."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from stage_cases import looks
from transformers import GenerationConfig

from medic_ad import look as looking
from medic_ad.errors import ModelError
from medic_ad.look import compare, describe, describe_change, say
from medic_ad.processor import ANO, DIFF, MedicADProcessor


def staged(questions: int = 1, images: int = 1) -> dict[str, Any]:
    """Inputs of `forward` with `<|ano|>` after every image and `<|diff|>` after the last."""
    model, processor = tiny.model(), tiny.processor()
    prompts = [processor.prompt("Where?", images) for _ in range(questions)]
    text = processor.text(prompts, model.config, 16)
    pictures = processor.images(tiny.canvases(questions * images), model.config)
    last = [[-1 if images == 1 else k * images + images - 2, k * images + images - 1]
            for k in range(questions)]  # fmt: skip
    return {**text, **pictures, "diff_pairs": torch.tensor(last)}


@torch.no_grad()
def test_embeddings_stand_where_their_ids_stand() -> None:
    """Against the stock class given the same embeddings by hand, for pairs and batches."""
    network, seen = tiny.model().network, {}
    cases = 0
    for questions, images in ((1, 1), (1, 2), (3, 1), (2, 2), (1, 3)):
        inputs = staged(questions, images)
        hook = network.model.language_model.register_forward_pre_hook(
            lambda m, a, k: seen.update(k), with_kwargs=True
        )
        network(**inputs)
        hook.remove()
        vision = network.encode(inputs["pixel_values"], inputs["image_grid_thw"])
        detected = network.detect(vision)
        ids, embeds = inputs["input_ids"], seen["inputs_embeds"]
        assert torch.allclose(
            embeds[ids == network.config.ano_token_id].view(-1, 16, 48),
            torch.stack([d.embeds for d in detected]),
            atol=1e-5,
        )
        diffs = embeds[ids == network.config.diff_token_id].view(-1, 16, 48)
        for (b, f), found in zip(inputs["diff_pairs"].tolist(), diffs, strict=True):
            if b < 0:
                assert torch.equal(found, network.comparer.no_prior)
            else:
                [right] = network.compare(vision, detected, [(b, f)])
                assert torch.allclose(found, right.embeds, atol=1e-5)
            cases += 1
        others = torch.ones_like(ids, dtype=torch.bool)
        for token in ("ano_token_id", "diff_token_id", "image_token_id"):
            others &= ids != getattr(network.config, token)
        assert torch.equal(embeds[others], network.get_input_embeddings()(ids)[others])
    assert cases == 8


def test_no_prior_is_learned_and_no_zero() -> None:
    network = tiny.network(shaken=False)
    assert isinstance(network.comparer.no_prior, torch.nn.Parameter)
    assert network.comparer.no_prior.shape == (16, 48)
    assert (network.comparer.no_prior != 0).all()
    assert 0.01 < network.comparer.no_prior.std() < 0.03
    inputs = staged()
    network(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert network.comparer.no_prior.grad is not None
    assert (network.comparer.no_prior.grad != 0).all()
    # of stage 2 nothing else was called: a single study has no change
    rest = [p.grad for n, p in network.comparer.named_parameters() if n != "no_prior"]
    assert len(rest) > 40 and all(grad is None for grad in rest)


@pytest.mark.parametrize("token", ["ano_token_id", "diff_token_id", "image_token_id"])
@pytest.mark.parametrize("cut", [1, 16])
def test_a_truncated_prompt_is_refused(token: str, cut: int) -> None:
    network, inputs = tiny.model().network, staged()
    ids = inputs["input_ids"][0]
    places = (ids == getattr(network.config, token)).nonzero().flatten()
    keep = torch.ones_like(ids, dtype=torch.bool)
    keep[places[-cut:]] = False
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        inputs[name] = inputs[name][:, keep]
    with pytest.raises(ModelError, match=rf"expected 16 places for .*, found {16 - cut} in"):
        network(**inputs)


def test_a_prompt_with_more_stage_tokens_than_images_is_refused() -> None:
    network, inputs = tiny.model().network, staged(images=2)
    one = staged(images=1)
    mixed = {**inputs, "pixel_values": one["pixel_values"], "image_grid_thw": one["image_grid_thw"]}
    with pytest.raises(ModelError, match="expected 16 places for image tokens, found 32"):
        network(**mixed)
    del inputs["diff_pairs"]
    with pytest.raises(ModelError, match=r"expected 0 places .* found 16"):
        network(**inputs)


def eager_for(model: Any, *ids: int) -> Any:
    """Make the language model want these tokens above all others."""
    wish = torch.zeros(tiny.ROWS)
    wish[list(ids)] = 1e4
    return model.network.lm_head.register_forward_hook(lambda m, i, out: out + wish)


def test_stage_tokens_are_never_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    model, scan = tiny.model(), looks(1)
    config, made = model.config, list[torch.Tensor]()
    real = model.network.generate
    monkeypatch.setattr(model.network, "generate", tiny.recorded(real, made))
    monkeypatch.setattr(looking, "NEW_TOKENS", 5)
    hook = eager_for(model, config.ano_token_id, config.diff_token_id)
    prompt = tiny.processor().text(
        [tiny.processor().prompt("Is there an anomaly, and where?")], config, 16
    )
    try:
        describe(model, scan[0])
        new = made[0][0, prompt["input_ids"].shape[1] :]
        stages = torch.tensor([config.ano_token_id, config.diff_token_id])
        assert len(new) >= 1 and not torch.isin(new, stages).any()
        looking.say(model, "Is there an anomaly, and where?", scan, stages=False)  # stock prompt
        assert len(made) == 2 and not torch.isin(made[1], stages).any()
    finally:
        hook.remove()


@pytest.mark.parametrize("where", ["the call", "its configuration", "the model"])
def test_what_a_caller_suppresses_stays_suppressed_wherever_it_was_said(where: str) -> None:
    model = tiny.model()
    network, stages = model.network, [model.config.ano_token_id, model.config.diff_token_id]
    inputs = staged()
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    if where == "the call":
        options["suppress_tokens"] = [2]
    elif where == "its configuration":
        options = {"generation_config": GenerationConfig(**options, suppress_tokens=[2])}
    else:
        network.generation_config.suppress_tokens = [2]
    hook = eager_for(model, 2, *stages)
    try:
        out = network.generate(**inputs, **options)
    finally:
        hook.remove()
    new = out[0, inputs["input_ids"].shape[1] :]
    assert len(new) == 4 and not torch.isin(new, torch.tensor([*stages, 2])).any()
    assert network.generation_config.suppress_tokens == ([2] if where == "the model" else None)


@torch.no_grad()
def test_one_vision_pass_serves_score_map_and_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """`say` from looks generates what the network generates from the pixels, without a new pass."""
    monkeypatch.setattr(looking, "NEW_TOKENS", 6)
    model, processor = tiny.model(), tiny.processor()
    passes: list[int] = []
    hook = model.network.model.visual.register_forward_hook(lambda m, i, o: passes.append(1))
    made: list[torch.Tensor] = []
    real = model.network.generate
    monkeypatch.setattr(model.network, "generate", tiny.recorded(real, made))
    cases = 0
    for images, question in ((1, "Where is it?"), (2, "Is it worse than before?")):
        dates = looks(images)
        passes.clear()
        change = compare(model, *dates) if images == 2 else None
        say(model, question, dates, change)
        assert not passes
        text = processor.text([processor.prompt(question, images)], model.config, 16)
        pictures = processor.images(tiny.canvases(images), model.config)
        pairs = torch.tensor([[images - 2, images - 1]])
        direct = real(
            **text, **pictures, diff_pairs=pairs, max_new_tokens=6, do_sample=False,
            eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
        assert len(passes) == 1
        assert torch.equal(made[-1], direct)
        cases += 1
    hook.remove()
    assert cases == 2


def test_answers_come_from_the_language_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "NEW_TOKENS", 6)
    model, (a, b) = tiny.model(), looks(2)
    word = model.processor.tokenizer("anomaly", add_special_tokens=False)["input_ids"][0]
    hook = eager_for(model, word)
    try:
        said = describe(model, a)
        assert said == describe_change(model, a, b, compare(model, a, b))
        assert said == model.processor.tokenizer.decode([word] * 6).strip()
    finally:
        hook.remove()


def test_prompts_hold_the_stage_tokens_of_the_road() -> None:
    processor: MedicADProcessor = tiny.processor()
    assert processor.prompt("Where?", 3).count(ANO) == 3
    assert processor.prompt("Where?", 3).count(DIFF) == 1
