"""``train`` and ``teach``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from distillctl.cli.options import (
    Beta,
    ConfigFiles,
    ContrastiveWeight,
    Data,
    Debug,
    Device,
    Encoder,
    Mask,
    MaxTrainSamples,
    Overwrite,
    Packages,
    Seed,
    Settings,
    Student,
    Teacher,
    resolve,
)
from distillctl.exit_codes import errors_as_exit_codes

TEACH_BASE: Mapping[str, Any] = {
    "output_dir": "results/teacher",
    "student.init": "random",
    "data.max_train_samples": None,
}
"""Where ``teach`` starts from otherwise than ``train``: a new model, on all records."""

TEACH_WITHOUT: Mapping[str, Any] = {"objective.contrastive.weight": 0, "objective.contrastive.log_only": False}
"""It has cross-entropy alone: no negatives, so that a batch of one is fine."""


def train(
    config: ConfigFiles = None,
    settings: Settings = None,
    output_dir: Annotated[
        str | None, typer.Option("--output-dir", metavar="DIR", help="Run directory.  [default: results/run]")
    ] = None,
    overwrite: Overwrite = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output directory.")] = False,
    on_nan: Annotated[
        str | None,
        typer.Option("--on-nan", metavar="stop|skip", help="At a NaN: stop, or leave the step out and count it."),
    ] = None,
    beta: Beta = None,
    contrastive_weight: ContrastiveWeight = None,
    student: Student = None,
    teacher: Teacher = None,
    encoder: Encoder = None,
    data: Data = None,
    packages: Packages = None,
    mask: Mask = None,
    max_train_samples: MaxTrainSamples = None,
    seed: Seed = None,
    device: Device = None,
    trust_remote_code: Annotated[
        list[str] | None,
        typer.Option(
            "--trust-remote-code",
            metavar="ROLE=COMMIT",
            help="Run the code that comes with the hub model of that role, of exactly this commit; repeatable.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check everything and show the plan, without training."),
    ] = False,
    debug: Debug = False,
) -> None:
    """Distil a student from a teacher.

    Later settings override earlier ones: defaults, --config, --set, then the options below.
    """
    options = {
        "--output-dir": output_dir,
        "--on-nan": on_nan,
        "--trust-remote-code": trust_remote_code,
        "--beta": beta,
        "--contrastive-weight": contrastive_weight,
        "--student": student,
        "--teacher": teacher,
        "--encoder": encoder,
        "--data": data,
        "--packages": packages,
        "--mask": mask,
        "--max-train-samples": max_train_samples,
        "--seed": seed,
        "--device": device,
    }
    with errors_as_exit_codes(debug, several=True):
        resolved = resolve(config, settings, options)
        from distillctl.commands import train as command

        command.run(resolved, overwrite=overwrite, resume=resume, dry_run=dry_run)


def teach(
    config: ConfigFiles = None,
    settings: Settings = None,
    output_dir: Annotated[
        str | None,
        typer.Option("--output-dir", metavar="DIR", help="Run directory.  [default: results/teacher]"),
    ] = None,
    overwrite: Overwrite = False,
    student: Annotated[
        str | None,
        typer.Option("--student", metavar="MODEL", help="Architecture: path or hub name; embedded: the default shape."),
    ] = None,
    data: Data = None,
    packages: Packages = None,
    mask: Mask = None,
    max_train_samples: MaxTrainSamples = None,
    seed: Seed = None,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Train a teacher with plain cross-entropy on the same records.

    It starts from random weights; --set student.init=pretrained fine-tunes those of --student instead.
    """
    options = {
        "--output-dir": output_dir,
        "--student": student,
        "--data": data,
        "--packages": packages,
        "--mask": mask,
        "--max-train-samples": max_train_samples,
        "--seed": seed,
        "--device": device,
    }
    with errors_as_exit_codes(debug, several=True):
        resolved = resolve(config, settings, options, TEACH_BASE, over={"teach": TEACH_WITHOUT})
        from distillctl.commands import teach as command

        command.run(resolved, overwrite=overwrite)
