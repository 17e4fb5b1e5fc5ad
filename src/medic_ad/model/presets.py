"""Step 4, model: the small configuration that a laptop CPU carries."""

from __future__ import annotations

from medic_ad.model.configuration import MedicADConfig

NANO_VOCABULARY = 1024


def nano_config(**overrides) -> MedicADConfig:
    """The bundled `nano`: Qwen2.5-VL's architecture at 192 px, about 6 M parameters.

    Its special tokens take ids 0 to 8 (`medic_ad.train.base` trains the tokenizer to match).
    """
    values: dict = dict(
        vision_config=dict(
            depth=8,
            hidden_size=128,
            intermediate_size=352,
            num_heads=4,
            in_channels=1,
            patch_size=12,
            temporal_patch_size=1,
            window_size=96,
            out_hidden_size=192,
            fullatt_block_indexes=[1, 3, 5, 7],
        ),
        text_config=dict(
            vocab_size=NANO_VOCABULARY,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [4, 6, 6],
            },
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=0,
        ),
        tie_word_embeddings=True,
        vision_start_token_id=3,
        vision_end_token_id=4,
        image_token_id=5,
        video_token_id=6,
        ano_token_id=7,
        diff_token_id=8,
        system_dim=128,
        qformer_hidden_size=128,
        qformer_heads=4,
        heatmap_channels=96,
        pixel_channels=[16, 32, 64, 128],
        image_size=192,
    )
    return MedicADConfig(**{**values, **overrides})


_TOWER = dict(
    depth=32,
    hidden_size=1280,
    intermediate_size=3420,
    num_heads=16,
    in_channels=3,
    patch_size=14,
    temporal_patch_size=2,
    spatial_merge_size=2,
    window_size=112,
    fullatt_block_indexes=[7, 15, 23, 31],
)
_WIDE_TOWER = {**_TOWER, "intermediate_size": 3456}
# Width, width of the MLP, layers, heads, key-value heads, rows of the vocabulary, tied embeddings,
# tower: the config.json files that Qwen published with Qwen2.5-VL.
_BACKBONES: dict[str, tuple] = {
    "qwen2.5-vl-3b": (2048, 11008, 36, 16, 2, 151936, True, _TOWER),
    "qwen2.5-vl-7b": (3584, 18944, 28, 28, 4, 152064, False, _TOWER),
    "qwen2.5-vl-32b": (5120, 27648, 64, 40, 8, 152064, False, _WIDE_TOWER),
    "qwen2.5-vl-72b": (8192, 29568, 80, 64, 8, 152064, False, _WIDE_TOWER),
}
_SAME = {"lingshu-7b": "qwen2.5-vl-7b", "lingshu-32b": "qwen2.5-vl-32b"}
PRESETS = (*_SAME, *_BACKBONES)  # names of sizes, of which no weights are needed


def preset_config(name: str) -> MedicADConfig:
    """The configuration of a name of `PRESETS`, heads included."""
    width, mlp, layers, heads, shared, rows, tied, tower = _BACKBONES[_SAME.get(name, name)]
    return MedicADConfig(
        vision_config={**tower, "out_hidden_size": width},
        text_config=dict(
            hidden_size=width,
            intermediate_size=mlp,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=shared,
            vocab_size=rows,
            max_position_embeddings=128000,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 1000000.0,
                "mrope_section": [16, 24, 24],
            },
            tie_word_embeddings=tied,
        ),
        tie_word_embeddings=tied,
        dtype="bfloat16",
    )
