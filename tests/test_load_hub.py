"""A model by its name on the Hub: read from its cache, and offline one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tiny
import torch
from PIL import Image as Picture

from medic_ad.batch.manifest import RUN
from medic_ad.errors import ModelError
from medic_ad.load import load_checkpoint, load_model
from medic_ad.models import weights_sha256

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SCRIPT = """
import json, sys
import torch
from medic_ad.batch.run import BatchArguments, run_batch
from medic_ad.errors import ModelError
from medic_ad.load import load_model
from medic_ad.memory import find_config
from medic_ad.models import checkpoint_folder
from medic_ad import read, read_study

def refused(call, *given):
    try:
        call(*given)
    except ModelError as error:
        return str(error)

there, absent = "someone/There-7B", "someone/Absent-7B"
model = load_model(there, "cpu")
row = model.network.lm_head.weight[7].tolist()
print(json.dumps({
    "sha256": model.weights_sha256,
    "row": row,
    "width": find_config(there).text_config.hidden_size,
    "load": refused(load_model, absent, "cpu"),
    "memory": refused(find_config, absent),
    "read": refused(read, read_study(sys.argv[1]), model),
    "fetch": refused(checkpoint_folder, absent),
    "batch": refused(run_batch, BatchArguments(sys.argv[1], sys.argv[2], model=there)),
}))
"""


def test_a_name_on_the_hub_loads_from_its_cache_and_offline_is_one_sentence(
    tmp_path: Path,
) -> None:
    picture = tmp_path / "picture.png"
    Picture.fromarray((255 * tiny.canvases(1)[0].numpy()).astype("uint8")).save(picture)
    cached = tmp_path / "models--someone--There-7B"
    folder = cached / "snapshots" / COMMIT
    tensors = tiny.published_checkpoint(folder)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(picture), str(tmp_path / "out")],
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["sha256"] == weights_sha256(folder)
    assert torch.equal(torch.tensor(said["row"]), tensors["lm_head.weight"][7])
    assert said["width"] == tiny.PUBLISHED_CONFIG["hidden_size"]
    neither = "expected a folder with config.json or a model of the Hub, got 'someone/Absent-7B': "
    starts = {
        "load": neither, "fetch": neither,
        "memory": "expected a checkpoint that loads in someone/Absent-7B, but: ",
    }  # fmt: skip
    for name, start in starts.items():
        assert said[name].startswith(start) and "\n" not in said[name]
    for name in ("read", "batch"):
        assert said[name].startswith("expected calibrated weights")
    kept = pq.read_schema(tmp_path / "out" / "manifest.parquet").metadata[RUN]
    assert json.loads(kept)["model"] == "someone/There-7B"  # a worker finds it by its name
    assert json.loads(kept)["weights_sha256"] == said["sha256"]


def test_flash_attention_is_refused_for_weights_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medic_ad.load.is_flash_attn_2_available", lambda: True)
    sentence = "expected weights in bfloat16 or float16 for flash_attention_2"
    with pytest.raises(ModelError, match=sentence):
        load_model("nano", "cpu", "flash_attention_2")
    tiny.published_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}))
    with pytest.raises(ModelError, match=sentence):  # as `train --no-bf16` asks for it
        load_checkpoint(tmp_path, "flash_attention_2", torch.float32)
