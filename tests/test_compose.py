"""compose.yaml: what its node runs is what lies in the checkout, after an update too."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import yaml

COMPOSE = Path(__file__).parents[1] / "compose.yaml"
# Stands in for python: makes a folder whose programs write down how they were called.
PYTHON = """#!/bin/bash
mkdir -p "$3/bin"
for name in pip medic-ad; do
  printf '#!/bin/bash\\necho %s "$@" >> "{log}"\\n' $name > "$3/bin/$name"
  chmod +x "$3/bin/$name"
done
"""


def test_the_nodes_package_is_installed_once_and_again_after_an_update(tmp_path: Path) -> None:
    node = yaml.safe_load(COMPOSE.read_text())["services"]["node"]
    assert node["working_dir"] == "/source" and ".:/source:ro" in node["volumes"]
    source, log, programs = tmp_path / "source", tmp_path / "log", tmp_path / "programs"
    (source / "src" / "medic_ad" / "__pycache__").mkdir(parents=True)
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "src/medic_ad/a.py"):
        (source / name).write_text(name)
    programs.mkdir()
    (programs / "python").write_text(PYTHON.format(log=log))
    (programs / "python").chmod(0o755)
    command = node["command"].replace("/tmp/", f"{tmp_path}/").replace("/venv", f"{tmp_path}/venv")

    def start() -> list[str]:
        log.write_text("")
        path = f"{programs}:{os.environ['PATH']}"
        subprocess.run(shlex.split(command), cwd=source, env={"PATH": path}, check=True)
        return [" ".join(line.split()[:2]) for line in log.read_text().splitlines()]

    installed, only_started = ["pip install", "pip install", "medic-ad node"], ["medic-ad node"]
    assert start() == installed and start() == only_started
    (source / "src" / "medic_ad" / "__pycache__" / "a.pyc").write_text("made by a run")
    assert start() == only_started
    (source / "src" / "medic_ad" / "a.py").write_text("after git pull")
    assert start() == installed and start() == only_started
    assert (tmp_path / "medic-ad" / "src" / "medic_ad" / "a.py").read_text() == "after git pull"
