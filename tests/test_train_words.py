"""The words that the language model of `base` learns from, and what takes their place later."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from medic_ad import words
from medic_ad.errors import DataError
from medic_ad.processor import ANO, DIFF, IMAGE
from medic_ad.train import base
from medic_ad.train.losses import hint_ids, hint_loss


def test_templates_come_with_the_facts_that_stand_at_their_stage_tokens() -> None:
    processor, rng = tiny.processor(), np.random.default_rng(0)
    bare, own, told = 0, 0, 0
    for i in range(400):
        scans = [((0, 2), "T1")] * (1 + i % 2)
        text, facts = base.template(processor, scans, rng, tokens=16)
        assert text.count(IMAGE) == len(scans)
        if not facts:
            assert len(scans) == 1 and text.count(ANO) == text.count(DIFF) == 0
            bare += 1
            continue
        assert text.count(ANO) == len(scans) and text.count(DIFF) == 1
        assert [f.change for f in facts] == [False] * len(scans) + [True]
        change = set(facts[-1].words.split())
        assert change == {"unknown"} if len(scans) == 1 else change < {"worse", "stable", "better"}
        own += facts[0].words == " upper" * 8 + " right" * 8
        if len(scans) == 1 and "lower left" in text:  # told elsewhere: said and asked alike
            assert facts[0].words == " lower" * 8 + " left" * 8
            told += 1
        if len(scans) > 1 and "unchanged" in text:
            assert change == {"stable"}
    assert 8 <= bare <= 35 and 80 <= own <= 190 and told >= 3


def test_facts_are_said_firmly_enough_to_be_read() -> None:
    rng, nothing = np.random.default_rng(0), words.hint(None, 16)
    doubted = set()
    for _ in range(200):
        facts = base.scan_facts((1, 0), 16, rng)
        assert facts.words == " middle" * 8 + " left" * 8
        assert float(facts.weight.min()) > 0.5 and float(facts.weight.max()) <= 1
        doubted.add(facts.doubts)
        facts = base.scan_facts(None, 16, rng)
        assert facts.words == nothing and float(facts.weight.min()) > 0.5
    assert len(doubted) == 10


def test_facts_stand_between_their_words_and_the_doubts() -> None:
    network, processor = tiny.network(), base.make_processor(tiny.SIDE)
    stage = base.LanguagePretraining(network, processor)
    embedding, noise = network.get_input_embeddings(), torch.Generator().manual_seed(0)
    rows = embedding(hint_ids([" no left", " left no"], processor.tokenizer))
    for weight in (1.0, 0.25):
        fact = base.Facts(" no left", " left no", torch.full((2,), weight))
        with torch.no_grad():
            drawn = [stage.embed([fact], noise) for _ in range(400)]
        found = torch.cat([d for d in drawn if d is not None]).mean(0)
        expected = weight * rows[0] + (1 - weight) * rows[1]
        assert stage.embed([], noise) is None
        assert torch.allclose(found, expected.detach(), atol=0.1 * float(rows.detach().std()))


def test_hints_are_one_token_a_stage_token() -> None:
    tokenizer = base.make_processor(48).tokenizer
    hints = [words.hint((y, x), 5) for y in range(3) for x in range(3)]
    hints += [words.hint(None, 5)]
    hints += [words.change_hint(c, 5) for c in ("worse", "stable", "better", None)]
    assert hints[2] == " upper upper right right right" and len(set(hints)) == 14
    assert hint_ids(hints, tokenizer).shape == (14, 5)


def test_stage_tokens_are_pulled_to_the_words_in_their_place() -> None:
    embedding = torch.nn.Embedding(50, 8)
    ids = torch.tensor([[3, 4], [5, 6]])
    exact = embedding(ids).detach()
    known = torch.tensor([True, True])
    assert float(hint_loss(exact, ids, known, embedding)) == 0
    wrong = exact.clone()
    wrong[1] = 9.0
    assert float(hint_loss(wrong, ids, torch.tensor([True, False]), embedding)) == 0
    assert float(hint_loss(wrong, ids, known, embedding)) > 1
    assert float(hint_loss(wrong, ids, torch.tensor([False, False]), embedding)) == 0
    asked = torch.zeros(2, 2, 8, requires_grad=True)
    hint_loss(asked, ids, known, embedding).backward()
    assert asked.grad is not None and embedding.weight.grad is None
    assert torch.allclose(torch.sign(asked.grad), -torch.sign(exact))  # pulled towards them


def test_hints_that_a_tokenizer_cuts_otherwise_are_refused() -> None:
    tokenizer = base.make_processor(48).tokenizer
    hints = [words.change_hint("worse", 4), words.change_hint(None, 4)]
    assert hint_ids(hints, tokenizer).shape == (2, 4)
    with pytest.raises(DataError, match="one token a word .*--hint-weight at 0"):
        hint_ids([" worse zyxwvut"], tokenizer)


def test_a_sequence_without_a_name_of_its_own_is_not_asked_for() -> None:
    network, processor = tiny.network(), tiny.processor()
    stage = base.VisionPretraining(network, processor)
    image = tiny.canvases(3)
    mask = torch.zeros_like(image)
    with torch.no_grad():
        told = stage(image=image, mask=mask, sequence=["T1", "T2", None])
        only = stage(image=image[:1], mask=mask[:1], sequence=["T1"])
        none = stage(image=image, mask=mask, sequence=["T2", None, "DWI"])
    assert float(told["sequence"]) == pytest.approx(float(only["sequence"]), rel=1e-4)
    assert float(none["sequence"]) == 0 and torch.isfinite(none["loss"])
