"""Command line: `medic-ad`; what is heavy is imported when a command is used."""

from __future__ import annotations

import atexit
import gc
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from medic_ad import __version__
from medic_ad.cli_stages import BATCH, CALIBRATE, EVALUATE, NODE, TRAIN, add_stage, extra
from medic_ad.cli_usage import Root, given_path, out_file, out_folder
from medic_ad.models import MODELS
from medic_ad.option import MOST_SEED

NOTICE = "Research use only. Not a medical device."
TABLE = "columns image, prior, patient, date, label, mask, change, question, answer."
MODEL_HELP = f"{', '.join(MODELS)}, or a folder in the layout of the Hugging Face Hub."


app = typer.Typer(
    name="medic-ad",
    cls=Root,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Detect, compare and explain anomalies in medical images.\n\n" + NOTICE,
)
train = typer.Typer(no_args_is_help=True, help="Train one stage on a table of samples.")
evaluate = typer.Typer(no_args_is_help=True, help="Measure a model on a table of samples.")
data = typer.Typer(no_args_is_help=True, help="Tables of samples to train and evaluate on.")
for _name, _stage in TRAIN.items():
    add_stage(train, _name, _stage)
for _name, _stage in EVALUATE.items():
    add_stage(evaluate, _name, _stage)


def quiet() -> None:
    """Keep the chatter of libraries off stderr, which belongs to the one sentence.

    Bars of downloads stay: a base of 7B takes minutes.
    """
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if "transformers" in sys.modules:  # which read it only when it was imported
        from transformers.utils import logging as of_transformers

        of_transformers.set_verbosity_error()


@contextmanager
def hushed() -> Iterator[TextIO]:
    """Close file descriptor 2 to decoders in C, which write past Python; gives what it was."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        with open(kept, "w", closefd=False) as screen:
            yield screen
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Make SIGTERM an exception, so that what is half written is taken away."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)  # as a shell has it of a signal

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Say the version and stop.")] = False,
) -> None:
    quiet()
    if version:
        typer.echo(f"medic-ad {__version__}")
        raise typer.Exit


@app.command()
def read(
    current: Annotated[
        Path,
        typer.Argument(
            parser=given_path, help="DICOM file or series folder, NIfTI, PNG, JPEG or TIFF file."
        ),
    ],
    prior: Annotated[
        list[Path] | None,
        typer.Option(
            parser=given_path, help="An earlier study of the same patient; once for each."
        ),
    ] = None,
    ask: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A question about the scan.")
    ] = None,
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "nano",
    modality: Annotated[
        str | None, typer.Option(help="DICOM code such as MR, where the file does not say it.")
    ] = None,
    body_part: Annotated[
        str | None, typer.Option(help="DICOM term such as BRAIN, where the file does not say it.")
    ] = None,
    date: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", help="Date of the current study.")
    ] = None,
    prior_date: Annotated[
        list[str] | None,
        typer.Option(
            metavar="YYYY-MM-DD", help="Date of a prior; once for each --prior, in the same order."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda ...; the GPU where there is one when not given.")
    ] = None,
    attention: Annotated[
        str, typer.Option(help="Implementation of attention: sdpa, flash_attention_2 or eager.")
    ] = "sdpa",
    out: Annotated[
        Path | None,
        typer.Option(
            parser=out_folder, metavar="DIR", help="Save the report (HTML, JSON, pictures) here."
        ),
    ] = None,
    dicom: Annotated[
        Path | None,
        typer.Option(
            parser=out_folder,
            metavar="DIR",
            help="Write it as DICOM objects of the study: SEG, maps, SR, picture.",
        ),
    ] = None,
    fhir: Annotated[
        Path | None,
        typer.Option(
            parser=out_folder, metavar="DIR", help="Write it as FHIR bundles, R5 and R4B."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON, nothing else.")
    ] = False,
) -> None:
    """Read one scan, or several dates of it."""
    if ask is not None and not ask.strip():
        raise typer.BadParameter("expected a question, got an empty text", param_hint="'--ask'")
    from medic_ad.study import read_study

    with hushed():
        study = read_study(current, prior, modality, body_part, date, prior_date)
    if dicom is not None or fhir is not None:
        from medic_ad.dicom.sources import sources_of

        sources_of(study.image)  # refused before the work, not after it
    if fhir is not None:
        with extra("fhir"):
            from medic_ad.fhir import write_fhir
    from medic_ad.cli_show import show_report, track_slices
    from medic_ad.load import load_model
    from medic_ad.road import read as read_with

    track = iter if as_json else track_slices
    report = read_with(study, load_model(model, device, attention), ask, track)
    folder = None if out is None else report.save(out)
    written = []
    if dicom is not None:
        from medic_ad.dicom import write_dicom

        written += write_dicom(report, dicom)
    if fhir is not None:
        written += write_fhir(report, fhir)
    if as_json:
        typer.echo(report.to_json(), nl=False)
    else:
        show_report(report)
    if folder is not None:
        typer.echo(f"Report: {folder / 'report.html'}", err=as_json)
    for path in written:
        typer.echo(f"Written: {path}", err=as_json)


@app.command()
def deidentify(
    source: Annotated[
        Path,
        typer.Argument(metavar="IN", parser=given_path, help="DICOM file, or folder of them."),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", parser=out_folder, help="New folder for the images.")
    ],
    key: Annotated[
        Path | None,
        typer.Option(
            parser=given_path,
            metavar="FILE",
            help="Secret that gives a patient the same new id and dates again; made if not there.",
        ),
    ] = None,
) -> None:
    """Write DICOM images without patients' identities, dates shifted (PS3.15 basic profile)."""
    with extra("deidentify"):
        from medic_ad.deidentify.run import deidentify as write_images
    from medic_ad.cli_show import show_deidentified, track_files

    with ended_in_order(), hushed() as screen:
        outcome = write_images(source, out, key, partial(track_files, screen))
    show_deidentified(outcome)


@app.command()
def demo(
    out: Annotated[
        Path,
        typer.Option(
            parser=out_folder, metavar="DIR", help="Folder for the study, report and page."
        ),
    ],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "nano",
) -> None:
    """Read a made study of real anatomy, whose truth is known, and show both."""
    from medic_ad.cli_show import show_demo

    with extra("demo"):
        from medic_ad.demo import run
    show_demo(run(out, model))


@app.command()
def info(
    model: Annotated[
        str | None,
        typer.Option(
            help="With --memory: a size such as lingshu-7b, a model's or Hub name, or a folder."
        ),
    ] = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="What each stage of training takes; no weights needed.")
    ] = False,
    batch: Annotated[
        int, typer.Option(min=1, help="With --memory: scans or pairs of a batch.")
    ] = 8,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print it as JSON, nothing else.")
    ] = False,
) -> None:
    """Version, models with scope and thresholds, libraries, devices; or --memory of training."""
    if memory and model is None:
        raise typer.BadParameter(
            "expected --model with it, got none; name the model", param_hint="'--memory'"
        )
    if model is not None and not memory:
        raise typer.BadParameter(
            f"expected --memory with it, got {model!r} alone; add --memory, or leave --model out "
            "to see what is here",
            param_hint="'--model'",
        )
    from medic_ad.cli_show import show_info, show_memory

    content: dict[str, Any]
    if model is not None:
        with extra("train"):
            from medic_ad.memory import collect_memory
        content, show = collect_memory(model, batch), show_memory
    else:
        from medic_ad.info import collect

        content, show = collect(), show_info
    if as_json:
        typer.echo(json.dumps(content, indent=2, allow_nan=False))
    else:
        show(content)


@data.command("list")
def data_list(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print it as JSON, nothing else.")
    ] = False,
) -> None:
    """The public data sets that can be prepared, where they are, what layout is expected."""
    if as_json:
        from medic_ad.data.registry import SETS

        typer.echo(json.dumps({name: asdict(info) for name, info in SETS.items()}, indent=2))
        return
    from medic_ad.cli_show import show_sets

    show_sets()


@data.command()
def prepare(
    name: Annotated[
        str, typer.Argument(help="A name of `medic-ad data list`; `table` for your own.")
    ],
    root: Annotated[
        Path | None,
        typer.Option(
            parser=given_path,
            metavar="DIR",
            help="Folder of the images; the CSV file's own when not given.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=out_file,
            metavar="FILE",
            help="Parquet file to write; NAME.parquet if not given.",
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            parser=given_path,
            metavar="FILE",
            help="For `table`: " + TABLE,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, help="Of the split, where none is published.")
    ] = 0,
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="PATIENT",
            help="For `nano` and `ms_cross_sectional`: who validates; patient26 if not given.",
        ),
    ] = None,
    duplicates: Annotated[
        bool, typer.Option(help="Look for duplicates, which reads every image once.")
    ] = True,
) -> None:
    """Write the table of samples that training and evaluation take."""
    from medic_ad.cli_show import show_samples

    with extra("train"):
        from medic_ad.data.prepare import prepare as write_table
    if root is None:
        root = Path.cwd() if csv is None else csv.absolute().parent
    if out is None:
        out = Path(f"{name}.parquet")
    written = write_table(name, root, out, csv, seed, validation, duplicates)
    show_samples(written)


add_stage(app, "batch", BATCH)
add_stage(app, "calibrate", CALIBRATE)
add_stage(app, "node", NODE)
app.add_typer(train, name="train")
app.add_typer(evaluate, name="evaluate")
app.add_typer(data, name="data")


def main() -> None:
    """Entry point of the command `medic-ad`."""
    atexit.register(gc.freeze)  # else the interpreter collects all of torch once more, for seconds
    app(prog_name="medic-ad")


if __name__ == "__main__":
    main()
