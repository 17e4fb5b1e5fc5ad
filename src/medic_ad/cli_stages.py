"""Command line of the stages: a dataclass of arguments becomes a command; nothing is said twice."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from medic_ad.errors import MedicADError
from medic_ad.option import try_writing


@dataclass(frozen=True)
class Stage:
    """A command whose options come from a dataclass; nothing heavy is imported to name it.

    Attributes:
        module: holds the dataclass, and `main(arguments)` that does the work.
        arguments: name of the dataclass.
        summary: one line for `--help`.
        extra: of this package, whose dependencies the module needs.
        settings: module of the dataclass where the other one is heavy: what its `check()` refuses
            is refused before that is imported.
    """

    module: str
    arguments: str
    summary: str
    extra: str = "train"
    settings: str = ""


TRAIN = {
    name: Stage(
        f"medic_ad.train.{name}",
        f"{name.capitalize()}Arguments",
        summary,
        settings="medic_ad.train.settings",
    )
    for name, summary in (
        ("base", "The small backbone that nano stands on."),
        ("detect", "Stage 1: is there an anomaly?"),
        ("compare", "Stage 2: what has changed?"),
        ("explain", "Stage 3: the heatmap."),
    )
}
EVALUATE = {
    "detect": Stage(
        "medic_ad.evaluate.detect",
        "DetectArguments",
        "Image scores on your own table, beside trivial baselines.",
    ),
    "localise": Stage(
        "medic_ad.evaluate.localise",
        "LocaliseArguments",
        "Heatmaps against the masks of your own table.",
    ),
    "compare": Stage(
        "medic_ad.evaluate.compare",
        "CompareArguments",
        "Worse, stable or better on the pairs of your own table.",
    ),
    "language": Stage(
        "medic_ad.evaluate.language",
        "LanguageArguments",
        "Answers to the questions of your own table; text against map.",
        "language",
    ),
    "sanity": Stage(
        "medic_ad.evaluate.sanity",
        "SanityArguments",
        "Blank and noise images, randomised weights, other kinds of images.",
    ),
    "calibration": Stage(
        "medic_ad.evaluate.calibration",
        "CalibrationArguments",
        "Scores of lesion slices beside repaired twins and shams.",
    ),
    "all": Stage(
        "medic_ad.evaluate.all",
        "AllArguments",
        "Every measurement that the data sets under a folder allow, one page.",
        "language",
    ),
    "card": Stage("medic_ad.evaluate.card.card", "CardArguments", "The figures of MODEL_CARD.md."),
    "unet": Stage(
        "medic_ad.evaluate.unet", "UnetArguments", "A U-Net on the same data, as a yardstick."
    ),
    "resnet": Stage(
        "medic_ad.evaluate.resnet",
        "ResnetArguments",
        "A small ResNet on the same data, as a yardstick.",
    ),
    "folds": Stage(
        "medic_ad.evaluate.folds.folds",
        "FoldsArguments",
        "What stage 1 learns from the labels of your own table, beside a ResNet.",
    ),
    "paper": Stage(
        "medic_ad.evaluate.paper", "PaperArguments", "The paper's tables, published rows beside."
    ),
    "ablations": Stage(
        "medic_ad.evaluate.ablations.ablations",
        "AblationsArguments",
        "What each part of the method is worth, over three seeds.",
    ),
    "registration": Stage(
        "medic_ad.evaluate.registration",
        "RegistrationArguments",
        "Known motion of real volumes, found again.",
    ),
    "lesions": Stage(
        "medic_ad.evaluate.lesions.lesions",
        "LesionArguments",
        "Made lesions followed over time, with true masks and the model's own.",
    ),
    "chest": Stage(
        "medic_ad.evaluate.chest",
        "ChestArguments",
        "Chest radiographs over time, against laboratory values and case notes.",
    ),
}
CALIBRATE = Stage(
    "medic_ad.calibrate",
    "CalibrateArguments",
    "Fit scores, thresholds and scope on the validation split.",
)
BATCH = Stage(
    "medic_ad.batch.run",
    "BatchArguments",
    "Read many studies, named by a manifest; results and heatmaps as Parquet.",
    extra="batch",
)
NODE = Stage(
    "medic_ad.node.run",
    "NodeArguments",
    "Take images from a PACS, read them, send the results back.",
    extra="node",
    settings="medic_ad.node.settings",
)


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Name the extra of this package that brings what an import inside lacks.

    Raises:
        MedicADError: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "medic_ad").split(".")[0]
        if missing == "medic_ad":
            raise
        raise MedicADError(
            f"expected the package {missing}, which is not installed; run "
            f"pip install '.[{name}]' in a checkout of this project"
        ) from error


def add_stage(app: typer.Typer, name: str, stage: Stage) -> None:
    """Register a stage under its name; its module is imported when the command is used."""

    def use(context: typer.Context) -> None:
        command = typer.main.get_command(stage_app(stage))
        command.main(context.args, prog_name=context.command_path, standalone_mode=False)

    # The options are not known yet, `--help` included: all words are handed on as they came.
    settings = {"ignore_unknown_options": True, "allow_extra_args": True}
    app.command(name, help=stage.summary, add_help_option=False, context_settings=settings)(use)


def stage_app(stage: Stage) -> typer.Typer:
    """The command of one stage with all its options.

    Raises:
        MedicADError: a package of the stage's extra is not installed.
    """

    def run(arguments: Any) -> object:
        if stage.settings:
            arguments.check()
        with extra(stage.extra):
            module = importlib.import_module(stage.module)
        return module.main(arguments)

    with extra(stage.extra):
        settings = importlib.import_module(stage.settings or stage.module)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=stage.summary)(as_command(getattr(settings, stage.arguments), run))
    return app


def as_command(arguments: type, main: Callable[[Any], object]) -> Callable[..., None]:
    """A function whose parameters are the fields of a dataclass, as typer reads them.

    Types and defaults come from the fields, help from their metadata; a field without a default is
    a required option, unless the YAML file of `--config` gives it. Where the metadata says
    `argument`, it stands on the command line without its name. The field `out` is where it writes,
    which is tried before the work.
    """
    types = typing.get_type_hints(arguments)
    fields = [field for field in dataclasses.fields(arguments) if field.init]

    def run(**values: Any) -> None:
        values.pop("config")
        for field in fields:  # an option may be empty only where its default is, or it says so
            value, empty = values[field.name], field.default == "" or field.metadata.get("empty")
            if isinstance(value, str) and not value.strip() and not empty:
                flag = field.name.replace("_", "-")
                raise typer.BadParameter(
                    "expected a value, got an empty text", param_hint=f"'--{flag}'"
                )
        settings = arguments(**values)
        if "out" in values and "://" not in values["out"]:
            try_writing(values["out"])
        done = main(settings)
        if isinstance(done, Path):
            typer.echo(f"Written: {done}")

    parameters = [_parameter(field, types[field.name]) for field in fields]
    run.__signature__ = inspect.Signature([*parameters, _config([f.name for f in fields])])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in [*parameters, _config([])]}
    return run


def _parameter(field: dataclasses.Field, kind: Any) -> inspect.Parameter:
    flag = field.name.replace("_", "-")
    names = (f"--{flag}/--no-{flag}",) if kind is bool else (f"--{flag}",)
    option: Any = typer.Option(*names, help=field.metadata.get("help"))
    if field.metadata.get("argument"):
        option = typer.Argument(metavar=flag.upper(), help=field.metadata.get("help"))
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is dataclasses.MISSING else default,
        annotation=Annotated[kind, option],
    )


def _config(names: list[str]) -> inspect.Parameter:
    """`--config FILE`, read before the others; what the command line says wins over the file."""

    def use(context: typer.Context, path: Path | None) -> Path | None:
        if path is not None:
            context.default_map = {**(context.default_map or {}), **_read_config(path, names)}
        return path

    option = typer.Option(
        "--config",
        metavar="FILE.yaml",
        help="YAML file with values for these options (learning_rate: 0.001); options win",
        is_eager=True,
        callback=use,
    )
    return inspect.Parameter(
        "config",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[Path | None, option],
    )


def _read_config(path: Path, names: list[str]) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text file"
        raise typer.BadParameter(f"{path} cannot be read: {reason}.") from error
    except yaml.YAMLError as error:
        raise typer.BadParameter(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise typer.BadParameter(f"{path} must hold lines such as `steps: 1000`.")
    for key, value in values.items():
        if key not in names:
            near = difflib.get_close_matches(str(key), names, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}."
            raise typer.BadParameter(f"{path} has the unknown key {key!r}; {hint}")
        if value is None or isinstance(value, (list, dict)):
            raise typer.BadParameter(f"{path}: {key} must be one value, not {value!r}.")
    return values
