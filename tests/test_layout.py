"""The road is the layout: imports point upstream, files stay small, registries stay light."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from medic_ad.cli_stages import EVALUATE

SOURCE = Path(__file__).parents[1] / "src"
ROAD = (  # upstream first; a package counts as one
    "errors",
    "option",
    "sums",
    "models",
    "words",
    "image",
    "readers",
    "deidentify",
    "study",
    "registration",
    "align",
    "model",
    "processor",
    "load",
    "look",
    "finding",
    "links",
    "lesions",
    "course",
    "change",
    "report",
    "dicom",
    "fhir",
    "road",
    "batch",
    "node",
    "data",
    "train",
    "calibrate",
    "evaluate",
    "demo_figure",
    "demo",
    "info",
    "memory",
    "cli_usage",
    "cli_stages",
    "cli_show",
    "cli",
)
GROUPS = (  # of the package evaluate, upstream first; what is none of them is a command
    "figures",
    "predictions",
    "material",
    "output",
    "baselines",
    "parts",
)
MAY_IMPORT = {  # narrower than the order: what each of these may know of the package
    "errors": set(),
    "option": {"errors"},
    "deidentify": {"errors", "readers"},
    "sums": {"errors"},
    "models": {"errors", "sums"},
    "words": set(),
    "model": {"errors", "sums"},  # tensors only
    "image": {"errors"},
    "readers": {"errors", "image"},
    "registration": set(),
    "finding": {"errors", "image", "words"},
    "links": set(),
    "lesions": {"errors", "finding", "links"},
    "course": {"errors", "finding", "image", "lesions", "links", "study"},
    "report": {"course", "errors", "finding", "image", "lesions", "study", "words"},
    "dicom": {"errors", "finding", "image", "readers", "report"},
    "fhir": {"dicom", "finding", "report"},
    "data": {"errors", "readers", "words"},
}
NO_TORCH = ("image", "readers", "study", "registration", "align", "finding", "links", "lesions",
            "course", "report", "dicom", "fhir", "data")  # fmt: skip
HEAVY = {"torch", "transformers", "numpy", "scipy", "SimpleITK", "pydicom", "nibabel", "matplotlib",
         "PIL", "pyarrow", "skimage", "sklearn", "pandas", "monai"}  # fmt: skip


@cache
def trees() -> dict[str, ast.Module]:
    """Module name -> its tree."""
    out = {}
    for file in sorted(SOURCE.rglob("*.py")):
        name = ".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        out[name] = ast.parse(file.read_text(encoding="utf-8"))
    return out


def at_work(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from at_work(node)


def imports(name: str) -> set[str]:
    """Modules that a module imports anywhere, within functions too."""
    found = set()
    for node in at_work(trees()[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{name} imports relatively"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in trees() else node.module)
    return found


def unit(name: str) -> str:
    return name.split(".")[1] if "." in name else name


@cache
def edges() -> dict[str, set[str]]:
    """Unit of the road -> units that it imports."""
    out: dict[str, set[str]] = defaultdict(set)
    for name in trees():
        for other in imports(name):
            if other.startswith("medic_ad.") and unit(other) != unit(name):
                out[unit(name)].add(unit(other))
    return dict(out)


def test_every_module_stands_on_the_road() -> None:
    units = {unit(name) for name in trees() if name != "medic_ad"}
    assert units == set(ROAD)
    assert len(trees()) > 80 and sum(map(len, edges().values())) > 60


@pytest.mark.parametrize("name", ROAD)
def test_imports_point_upstream(name: str) -> None:
    downstream = set(ROAD[ROAD.index(name) :])
    assert not edges().get(name, set()) & downstream
    if name in MAY_IMPORT:
        assert edges().get(name, set()) <= MAY_IMPORT[name]


def group(name: str) -> str | None:
    """Group or command that a module of the package evaluate lies in."""
    return name.split(".")[2] if name.startswith("medic_ad.evaluate.") else None


def test_at_the_top_of_evaluate_stand_its_commands_and_its_groups() -> None:
    commands = {stage.module: name for name, stage in EVALUATE.items()}
    for module, name in commands.items():
        assert module in (f"medic_ad.evaluate.{name}", f"medic_ad.evaluate.{name}.{name}")
    assert {group(name) for name in trees()} - {None} == set(GROUPS) | set(commands.values())


def test_groups_of_evaluate_know_what_is_upstream_and_no_command() -> None:
    checked = 0
    for name in trees():
        if group(name) in GROUPS:
            upstream = {None, *GROUPS[: GROUPS.index(str(group(name))) + 1]}
            assert {group(other) for other in imports(name)} <= upstream, name
            checked += 1
    assert checked > 30


def test_no_module_imports_itself_round_a_corner() -> None:
    graph = {
        name: {i for i in imports(name) if i in trees() and i not in ("medic_ad", name)}
        for name in trees()
    }
    order = list(TopologicalSorter(graph).static_order())  # CycleError names the cycle
    assert len(order) >= len(trees()) - 1


def test_the_package_itself_imports_nothing_of_its_own() -> None:
    assert not {i for i in imports("medic_ad") if i.startswith("medic_ad")}


def test_files_and_pixels_know_no_network() -> None:
    checked = 0
    for name in trees():
        if unit(name) in NO_TORCH:
            roots = {i.split(".")[0] for i in imports(name)}
            assert not roots & {"torch", "transformers", "monai"}, name
            checked += 1
    assert checked > 30


def test_every_folder_is_a_package() -> None:
    """A folder without `__init__.py` is left out of the wheel."""
    folders = {file.parent for file in SOURCE.rglob("*.py")}
    assert len(folders) >= 8
    assert [f.name for f in folders if not (f / "__init__.py").is_file()] == []


def test_files_are_small_and_say_what_they_are() -> None:
    checked = 0
    for file in SOURCE.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 400, file
        assert not text.strip() or ast.get_docstring(ast.parse(text)), file
        checked += 1
    assert checked == len(trees())


def test_no_assert_no_print_no_exit() -> None:
    """Bad input raises a `MedicADError`; asserts vanish under `python -O`."""
    found = []
    for name, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                found.append(f"{name}:{node.lineno} assert")
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in ("print", "exit", "quit", "sys.exit", "os._exit"):
                    found.append(f"{name}:{node.lineno} {called}")
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                found.append(f"{name}:{node.lineno} bare except")
    assert found == []


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ("medic_ad.models, medic_ad.data.registry, medic_ad.errors", HEAVY),
        ("medic_ad, medic_ad.cli", {"torch", "transformers", "SimpleITK", "monai", "matplotlib"}),
    ],
    ids=["registries", "command line"],
)
def test_what_help_needs_imports_nothing_heavy(modules: str, unwanted: set[str]) -> None:
    code = f"import sys, {modules}; sys.stdout.write(' '.join(sys.modules))"
    path = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    loaded = {name.split(".")[0] for name in run.stdout.split()}
    assert "medic_ad" in loaded and not loaded & unwanted
