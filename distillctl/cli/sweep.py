"""``sweep``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

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
    Packages,
    Seed,
    Settings,
    Student,
    Teacher,
    given_fields,
    resolve,
)
from distillctl.core.errors import UsageError
from distillctl.exit_codes import errors_as_exit_codes

if TYPE_CHECKING:
    from distillctl.core.config import Config


def sweep(
    grid: Annotated[
        list[str],
        typer.Option("--grid", metavar="KEY=V1,V2", help="A field and its values; several make a product; repeatable."),
    ],
    data_fraction: Annotated[
        float | None,
        typer.Option(
            "--data-fraction",
            metavar="F",
            help="Share of the training records, 0 to 1, the same ones in every trial.  [default: "
            "data.max_train_samples]",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", metavar="N", help="Train each grid point with N seeds.", show_default=True)
    ] = 1,
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="DIR", help="Folder of the sweep and its runs.", show_default=True),
    ] = "results/sweep",
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage", metavar="URL", help="Optuna storage that workers share.  [default: an SQLite file in DIR]"
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try the trials again that failed before.")
    ] = False,
    config: ConfigFiles = None,
    settings: Settings = None,
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
    debug: Debug = False,
) -> None:
    """Try a grid of settings on part of the data and rank them on the dev split, never on validation.

    Each trial is a normal training below DIR. Killed and started again, it goes on with what is missing; the same
    command in several processes, or on several machines with one --storage, shares the trials. It ends with a ranking,
    a plot, and best.yaml for train --config.
    """
    options = {
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
    with errors_as_exit_codes(debug):
        if data_fraction is not None and max_train_samples is not None:
            raise UsageError("--data-fraction and --max-train-samples both say how many records: give one of them")

        from distillctl.core.sweep.grid import check_not_set, parse_grid

        check_not_set(parse_grid(grid), given_fields(settings, options))

        def configure(values: Mapping[str, Mapping[str, Any]]) -> Config:
            return resolve(config, settings, options, over=values)

        from distillctl.commands import sweep as command

        command.run(
            configure,
            grid=grid,
            seeds=seeds,
            data_fraction=data_fraction,
            output=output,
            storage=storage,
            retry_failed=retry_failed,
        )
