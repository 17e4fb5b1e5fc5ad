"""Evaluation: which source files some code depends on, so that what is kept goes with the code."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

PACKAGE = Path(__file__).parents[2]


def reachable(*modules: str) -> list[Path]:
    """Files of this package that modules import, they themselves included, in alphabetical order.

    Imports are read from the text, those within functions too; what only a type checker sees is
    left out.

    Raises:
        ValueError: there is no such module; what goes without saying would go without its code.
    """
    if unknown := [name for name in modules if file_of(name) is None]:
        raise ValueError(f"no module of this package: {', '.join(unknown)}")
    todo, found = list(modules), set[Path]()
    while todo:
        path = file_of(todo.pop())
        if path is not None and path not in found:
            found.add(path)
            todo += imports(ast.parse(path.read_text(encoding="utf-8")))
    return sorted(found)


def file_of(module: str) -> Path | None:
    """The file of a module of this package, `None` of any other name."""
    name, *parts = module.split(".")
    if name != PACKAGE.name:
        return None
    path = PACKAGE.joinpath(*parts)
    files = (path.with_name(f"{path.name}.py"), path / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def imports(tree: ast.AST) -> Iterator[str]:
    """Names of modules that a module imports, and of what it takes from them."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imports(node)


def source_of(make: Callable) -> str:
    """Text of the file that a function, wrapped in `partial` or not, is written in."""
    while isinstance(make, partial):
        make = make.func
    return Path(str(inspect.getsourcefile(make))).read_text(encoding="utf-8")
