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
