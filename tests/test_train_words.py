"""The words that the language model of `base` learns from, and what takes their place later."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch

from medic_ad import words
from medic_ad.errors import DataError
from medic_ad.processor import ANO, DIFF, IMAGE
from medic_ad.train import base
from medic_ad.train.losses import hint_ids, hint_loss


def lesion_scan(cell: tuple[int, int] = (0, 2)) -> dict[str, Any]:
    mask = torch.zeros(48, 48)
    mask[2:8, 38:46] = 1  # within the upper right of 4 x 4 cells
    mask[30, 30] = 1  # a smaller region, which the answer is not about
    return {"cell": cell, "sequence": "T1", "mask": mask}


def test_templates_come_with_the_facts_that_stand_at_their_stage_tokens() -> None:
    processor, rng = tiny.processor(), np.random.default_rng(0)
    bare, own = 0, 0
    for i in range(300):
        scans = [lesion_scan()] * (1 + i % 2)
        text, facts = base.template(processor, scans, rng, pooled=4)
        assert text.count(IMAGE) == len(scans)
        if not facts:
            assert len(scans) == 1 and text.count(ANO) == text.count(DIFF) == 0
            bare += 1
            continue
        assert text.count(ANO) == len(scans) and text.count(DIFF) == 1
        assert [f.change for f in facts] == [False] * len(scans) + [True]
        change = set(facts[-1].words.split())
        assert change == {"unknown"} if len(scans) == 1 else change < {"worse", "stable", "better"}
        own += facts[0].words == " no no no most" + " no" * 12
        if len(scans) == 1 and "lower left" in text:  # told elsewhere: said and asked alike
            cells = np.array(facts[0].words.split()).reshape(4, 4) != "no"
            assert cells[2:, :2].any() and not cells[:2, 2:].any()
        if len(scans) > 1 and "unchanged" in text:
            assert change == {"stable"}
    assert 5 <= bare <= 30 and 60 <= own <= 130


def test_a_lesion_is_said_more_firmly_than_nothing_is_doubted() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        facts = base.scan_facts(lesion_scan()["mask"], 4, rng)
        lesion = np.array(facts.words.split()) != "no"
        assert lesion.nonzero()[0].tolist() == [3]
        assert (facts.weight[lesion] > 0.23).all() and (facts.weight[~lesion] >= 0.8).all()
        doubts = np.array(facts.doubts.split())
        assert (doubts[lesion] == "no").all() and (doubts[~lesion] == "some").all()


def test_facts_stand_between_their_words_and_the_doubts() -> None:
    network, processor = tiny.network(), base.make_processor(tiny.SIDE)
    stage = base.LanguagePretraining(network, processor)
    embedding = network.get_input_embeddings()
    rows = embedding(hint_ids([" no some", " some no"], processor.tokenizer))
    for weight in (1.0, 0.25):
        fact = base.Facts(" no some", " some no", torch.full((2,), weight))
        with torch.no_grad():
            found = torch.stack([stage.embed([fact])[0] for _ in range(400)]).mean(0)
        expected = weight * rows[0] + (1 - weight) * rows[1]
        assert torch.allclose(found, expected.detach(), atol=0.1 * float(rows.detach().std()))


def test_most_lesions_are_told_at_places_drawn_evenly() -> None:
    rng = np.random.default_rng(0)
    cells = [base.told_elsewhere(lesion_scan(), rng)["cell"] for _ in range(450)]
    counts = np.array([cells.count((y, x)) for y in range(3) for x in range(3)])
    assert counts.sum() == 450 and counts.min() >= 25 and counts.max() <= 80


def test_hints_are_one_token_a_stage_token() -> None:
    tokenizer = base.make_processor(48).tokenizer
    shares = np.array([[0.9, 0.02], [0.2, 0.0]])
    assert words.hint(shares) == " most little some no"
    for text, n in ((words.hint(shares), 4), (words.change_hint("worse", 3), 3)):
        assert len(tokenizer(text)["input_ids"]) == n
    assert len(tokenizer(words.change_hint(None, 3))["input_ids"]) == 3


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
