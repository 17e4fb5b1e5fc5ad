"""`medic-ad train base`: the small backbone that `nano` stands on; not needed for a 7B checkpoint.

Tokenizer from our own sentences, vision pre-training on masks and sequences of the train split,
then image-text templates: the language model learns to answer from facts given in words, whose
place `<Ano>` and `<Diff>` take later.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, pixel_shuffle
from transformers import PreTrainedTokenizerFast, Qwen2VLImageProcessorPil
from transformers.modeling_outputs import BaseModelOutputWithPooling

from medic_ad import words
from medic_ad.load import save_checkpoint
from medic_ad.model.configuration import MedicADConfig
from medic_ad.model.modeling import MedicADForConditionalGeneration
from medic_ad.model.presets import NANO_VOCABULARY, nano_config
from medic_ad.processor import ANO, DIFF, MedicADProcessor
from medic_ad.train.draw import scan_batch
from medic_ad.train.frozen import freeze
from medic_ad.train.losses import answer_labels, hint_ids, soft_dice
from medic_ad.train.run import Draws, Stage, fit, training_slices
from medic_ad.train.settings import BaseArguments, StageArguments

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    ANO,
    DIFF,
)  # ids 0 to 8, as in `nano_config`
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS_AN_IMAGE = 4  # with other facts each, so that the tower runs less often
NOISE = 0.3  # on the facts' embeddings, in units of the embeddings' spread
ELSEWHERE = 0.7  # share of the lesions that are told at a place drawn evenly
SUB = 4  # the pre-training head predicts SUB x SUB mask cells a patch


def corpus(rng: np.random.Generator, n: int = 4000) -> list[str]:
    """Sentences that the tokenizer is trained on; all from `medic_ad.words`."""
    lines = [words.hint((row, column), 2) for row in range(3) for column in range(3)] * (n // 9)
    lines += [words.hint(None, 2), words.change_hint(None, 2)] * n
    for _ in range(n):
        cell = None if rng.random() < 0.3 else (int(rng.integers(3)), int(rng.integers(3)))
        change = list(words.CHANGE_SENTENCES)[rng.integers(3)]
        sequence = list(words.SEQUENCES)[rng.integers(3)]
        lines += [*words.detect_dialogue(cell, sequence, rng)]
        lines += [*words.compare_dialogue(change, rng), words.change_hint(change, 2)]
    return lines + ["user\n", "assistant\n"] * 50


def make_processor(side: int, seed: int = 0) -> MedicADProcessor:
    """The nano processor: byte-level BPE on our own sentences, ChatML, grey images."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=NANO_VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(np.random.default_rng(seed)), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[3:]),
    )
    images = Qwen2VLImageProcessorPil(
        patch_size=12,
        temporal_patch_size=1,
        merge_size=2,
        image_mean=[0.25] * 3,
        image_std=[0.25] * 3,
        size={"shortest_edge": side * side, "longest_edge": side * side},
    )
    return MedicADProcessor(images, fast, chat_template=CHAT_TEMPLATE)


class VisionPretraining(Stage):
    """Mask cells from every tap, the sequence from the last; the head is thrown away."""

    def __init__(self, model: MedicADForConditionalGeneration, processor: MedicADProcessor) -> None:
        super().__init__()
        self.model, self.processor = model, processor
        width = model.config.vision_config.hidden_size
        taps = len(model.config.taps)
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for _ in range(taps))
        self.dense = nn.ModuleList(nn.Conv2d(width, SUB * SUB, 1) for _ in range(taps))
        for head in self.dense:
            nn.init.constant_(head.bias, -3.0)
        self.sequence = nn.Linear(width, len(words.SEQUENCES))

    def forward(
        self, image: torch.Tensor, mask: torch.Tensor, sequence: list[str | None], **_
    ) -> dict:
        vision = self.model.encode(**self.processor.images(image, self.model.config))
        taps = torch.stack(vision.taps).contiguous()  # (B, L, Dv, h, w)
        logits = torch.stack(
            [
                pixel_shuffle(dense(norm(taps[:, level])), SUB).squeeze(1)
                for level, (norm, dense) in enumerate(zip(self.norms, self.dense, strict=True))
            ],
            1,
        )  # (B, L, SUB * h, SUB * w)
        side = image.shape[-1] // logits.shape[-1]
        target = nn.functional.avg_pool2d(mask[:, None], side).expand_as(logits)
        weights = logits.new_tensor([0.25, 0.5, 1.0, 1.0])[-logits.shape[1] :, None, None]
        dense = (
            binary_cross_entropy_with_logits(logits, target, reduction="none") * weights
        ).mean()
        dice = soft_dice(logits[:, -1].sigmoid(), target[:, -1])
        names = list(words.SEQUENCES)
        told = [(i, names.index(name)) for i, name in enumerate(sequence) if name in names]
        kind = logits.new_zeros(())  # other sequences, or none, are not asked for
        if told:
            rows, kinds = torch.tensor(told, device=image.device).unbind(1)
            kind = cross_entropy(self.sequence(taps[rows, -1].mean((-2, -1))), kinds)
        return {
            "loss": 4 * dense + dice + 0.1 * kind,
            "dense": dense,
            "dice": dice,
            "sequence": kind,
        }


class LanguagePretraining(Stage):
    """Image-text templates with the facts in words where stage tokens will stand."""

    def __init__(self, model: MedicADForConditionalGeneration, processor: MedicADProcessor) -> None:
        super().__init__()
        self.model, self.processor = model, processor

    def forward(
        self,
        image: torch.Tensor,
        shown: list[int],
        prompts: list[str],
        facts: list[Facts],
        merged: int,
        seed: int,
        **_,
    ) -> dict:
        """`shown` are the indexes of the images in the order in which the prompts hold them."""
        noise = torch.Generator().manual_seed(seed)  # a resumed run draws the same
        config = self.model.config
        text = self.processor.text(prompts, config, merged).to(image.device)
        images = self.processor.images(image, config)
        tokens = self.model.encode(**images).encoder.pooler_output
        return {
            "loss": self.model(
                **text,
                image_grid_thw=images["image_grid_thw"][shown],
                mm_encoder_outputs={
                    "image": BaseModelOutputWithPooling(
                        pooler_output=tuple(tokens[i] for i in shown)
                    )
                },
                ano_embeds=self.embed([f for f in facts if not f.change], noise),
                diff_embeds=self.embed([f for f in facts if f.change], noise),
                labels=answer_labels(text["input_ids"], self.processor.tokenizer),
            ).loss
        }

    def embed(self, facts: list[Facts], generator: torch.Generator) -> torch.Tensor | None:
        """What stands at the stage tokens: `(n, P * P, D)`; `None` where there are none."""
        if not facts:
            return None
        embedding, tokenizer = self.model.get_input_embeddings(), self.processor.tokenizer
        device = embedding.weight.device
        said, doubted = (
            embedding(hint_ids([getattr(f, name) for f in facts], tokenizer).to(device))
            for name in ("words", "doubts")
        )
        weight = torch.stack([f.weight for f in facts]).to(device)[..., None]
        mixed = weight * said + (1 - weight) * doubted
        noise = torch.randn(mixed.shape, generator=generator).to(mixed)
        return mixed + NOISE * embedding.weight.detach().std() * noise


@dataclass(frozen=True)
class Facts:
    """Words at the place of one image's `<Ano>`, or of a `<Diff>`, and how firmly they are said.

    Stage tokens will never be words: the model has to read mixtures too.

    Attributes:
        words, doubts: hints of T words.
        weight: `(T,)` in [0, 1], of `words`; the rest is that of `doubts`.
        change: whether it is a `<Diff>`.
    """

    words: str
    doubts: str
    weight: torch.Tensor
    change: bool = False


def scan_facts(cell: tuple[int, int] | None, tokens: int, rng: np.random.Generator) -> Facts:
    """What is so is said at half of the weight or more: doubt falls on the likelier side."""
    place = (int(rng.integers(3)), int(rng.integers(3)))
    doubt = None if cell is not None and rng.random() < 0.5 else place
    weight = rng.uniform(0.55, 1.0) * rng.uniform(0.95, 1.0, tokens)
    return Facts(
        words.hint(cell, tokens),
        words.hint(doubt, tokens),
        torch.tensor(weight, dtype=torch.float32),
    )


def change_facts(change: str | None, tokens: int, rng: np.random.Generator) -> Facts:
    """A change is said at half of the weight or more, beside "stable" or "worse"."""
    doubt = words.change_hint("worse" if change == "stable" else "stable", tokens)
    weight = torch.full((tokens,), float(rng.uniform(0.55, 1.0)))
    return Facts(words.change_hint(change, tokens), doubt, weight, change=True)


def template(
    processor: MedicADProcessor,
    scans: Sequence[tuple[tuple[int, int] | None, str | None]],
    rng: np.random.Generator,
    tokens: int,
) -> tuple[str, list[Facts]]:
    """One training text about one scan, or about a pair of two, and the facts in it.

    A tenth of the texts about one scan go without facts, so that the model also answers from the
    image tokens. Most lesions are told at a cell drawn evenly: the facts are to be believed, not
    the image, and most lesions of the images lie in the middle.

    Args:
        scans: one or two of (cell, sequence); a question is about the last.
        tokens: embeddings that a stage token stands for.
    """
    pair, change = len(scans) > 1, None
    bare = not pair and rng.random() < 0.1
    cells = [
        (int(rng.integers(3)), int(rng.integers(3)))
        if cell is not None and not bare and rng.random() < ELSEWHERE
        else cell
        for cell, _ in scans
    ]
    if pair:
        change = list(words.CHANGE_SENTENCES)[rng.integers(3)]
        question, answer = words.compare_dialogue(change, rng)
    else:
        question, answer = words.detect_dialogue(cells[0], scans[0][1], rng)
    text = processor.prompt(question, len(scans), stages=not bare, answer=answer)
    if bare:
        return text, []
    facts = [scan_facts(cell, tokens, rng) for cell in cells]
    return text, [*facts, change_facts(change, tokens, rng)]


def main(arguments: BaseArguments, config: MedicADConfig | None = None) -> Path:
    """Train the backbone; the folder that comes out has the layout of a Hub checkpoint.

    Args:
        arguments: of the command line.
        config: the backbone's size; `nano_config()` when absent.
    """
    out = Path(arguments.out)
    torch.manual_seed(arguments.seed)
    config = config or nano_config()
    processor = make_processor(config.image_size, arguments.seed)
    model = MedicADForConditionalGeneration(config)
    slices = training_slices(arguments, config.image_size)
    size = arguments.batch

    def scans(rng, generator):
        return scan_batch([slices.scan(rng) for _ in range(size)], generator)

    freeze(model, ("model.visual",))
    vision_out = StageArguments(**{**_shared(arguments), "out": str(out / "vision")})
    fit(
        VisionPretraining(model, processor),
        model,
        Draws(scans, arguments.seed),
        vision_out,
        "base-vision",
    )

    merged = (config.image_size // config.vision_config.patch_size // 2) ** 2

    def texts(rng, generator):
        scans = [slices.scan(rng) for _ in range(max(1, size // TEXTS_AN_IMAGE))]
        batch = scan_batch(scans, generator)
        rows = list(zip(batch["cell"], batch["sequence"], strict=True))
        out: dict = {"image": batch["image"], "shown": [], "prompts": [], "facts": []}
        for i in range(size):
            own = i % len(rows)
            seen = [int(rng.integers(len(rows))), own] if rng.random() < 0.4 else [own]
            prompt, facts = template(processor, [rows[k] for k in seen], rng, config.pooled_size**2)
            out["prompts"].append(prompt)
            out["facts"] += facts
            out["shown"] += seen
        return {**out, "merged": merged, "seed": int(rng.integers(2**62))}

    freeze(model, ("model.language_model", "model.visual.merger", "lm_head"))
    language = StageArguments(
        **{**_shared(arguments), "out": str(out / "language"), "steps": arguments.language_steps}
    )
    fit(
        LanguagePretraining(model, processor),
        model,
        Draws(texts, arguments.seed + 1),
        language,
        "base-language",
    )
    for part in ("vision", "language"):
        shutil.copy(out / part / f"base-{part}.run.json", out)
    save_checkpoint(model, processor, out)
    return out


def _shared(arguments: BaseArguments) -> dict:
    return {k: v for k, v in vars(arguments).items() if k in StageArguments.__dataclass_fields__}
