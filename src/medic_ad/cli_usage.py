"""Command line: bad input and wrong usage become one sentence on stderr and exit status 2."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from medic_ad.errors import MedicADError
from medic_ad.option import try_writing

BAD_INPUT = 2
# typer's words -> ours
_SAID = (
    (r"Option '(.+)' requires an argument\.?", "expected a value after {0}, got none"),
    (r"Option '(.+)' does not take a value\.?", "expected no value after {0}, got one"),
    (r"Got unexpected extra argument\(s\) \((.*)\)", "expected no further argument, got {0!r}"),
)


class Root(TyperGroup):
    """The outermost command; every other one runs inside it, so this place serves them all."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with one_sentence():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with one_sentence():
            return super().invoke(ctx)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Say a refusal in one line and leave with BAD_INPUT; anything else keeps its traceback."""
    try:
        yield
    except MedicADError as error:
        sentence = str(error)
        cause: Exception = error
    except typer.TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # nothing was asked: the help is shown
            raise
        sentence = usage_sentence(error)
        cause = error
    except OSError as error:
        # a path of the user's, such as an output folder that cannot be written to
        if error.filename is None or isinstance(error, BrokenPipeError):
            raise
        sentence = f"expected a path that can be used, got {str(error.filename)!r} "
        sentence += f"({error.strerror}); give another"
        cause = error
    else:
        return
    typer.echo(f"medic-ad: {' '.join(sentence.split())}", err=True)
    raise typer.Exit(BAD_INPUT) from cause


def given_path(text: str) -> Path:
    """The path of an option; without this an empty text means the current folder."""
    if not str(text).strip():
        raise ValueError("expected a path, got an empty text")
    return Path(text)


def out_folder(text: str) -> Path:
    """The path of a folder that is written to, refused before the work where it cannot be."""
    path = given_path(text)
    try_writing(path)
    return path


def out_file(text: str) -> Path:
    """The path of a file that is written, or of a folder that gets it, refused as early."""
    path = given_path(text)
    try_writing(path if path.is_dir() else path.parent)
    return path


def usage_sentence(error: typer.TyperException) -> str:
    """What a command expected, what came and what to do, from what typer says of its usage."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "medic-ad"
    see = f"see `{command} --help`" if context else "see its --help"
    message = " ".join(error.message.split())
    if hasattr(error, "possibilities"):  # an unknown option
        return (
            f"expected an option of `{command}`, got {error.option_name!r}; "  # type: ignore[attr-defined]
            f"{_meant(error.possibilities or []) or see}"
        )
    if isinstance(error, typer.BadParameter):
        return _value_sentence(error, command, message)
    if (match := re.match(r"No such command '(.*?)'", message)) and context:
        known = [n for n in context.command.list_commands(context)]
        near = difflib.get_close_matches(match[1], known)
        hint = _meant(near) or f"choose one of {', '.join(known)}"
        return f"expected a command of `{command}`, got {match[1]!r}; {hint}"
    for pattern, words in _SAID:
        if match := re.fullmatch(pattern, message):
            return f"{words.format(match[1])}; {see}"
    return f"{message.rstrip('.')}; {see}"


def _value_sentence(error: typer.BadParameter, command: str, message: str) -> str:
    """The same of one option or argument that is missing or does not fit."""
    hint = error.param_hint or (error.param.get_error_hint() if error.param else "the command")
    name = str(hint).replace("'", "")
    see = f"see `{command} --help`"
    if hasattr(error, "param_type"):  # missing
        kind = getattr(error.param, "param_type_name", "option")
        return f"expected the {kind} {name} of `{command}`, got none; give it, or {see}"
    details = getattr(error.__cause__, "errors", None)  # of pydantic, which knows what came
    if details is not None and message.startswith("Input should be "):
        wish = message.removeprefix("Input should be ").split(", unable")[0]
        return f"expected {wish} for {name}, got {details()[0]['input']!r}; {see}"
    message = message.removeprefix("Value error, ").rstrip(".")
    return f"{name}: {message}" if ";" in message else f"{name}: {message}; {see}"


def _meant(near: list[str]) -> str:
    return f"did you mean {' or '.join(near)}?" if near else ""
