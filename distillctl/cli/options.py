"""Options that several commands share, and which field each sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distillctl.core.errors import UsageError

if TYPE_CHECKING:
    from distillctl.core.config import Config


def trusted_revisions(values: Sequence[str]) -> dict[str, Any]:
    """The fields that ``ROLE=COMMIT`` sets; whether it is a commit is for the configuration to say."""
    fields = {}
    for value in values:
        role, equals, commit = value.partition("=")
        if role not in ("teacher", "encoder", "student") or not equals:
            raise UsageError(
                f"--trust-remote-code: should be ROLE=COMMIT, of teacher, encoder or student. Found {value!r}"
            )
        fields[f"{role}.trusted_revision"] = commit
    return fields


OPTION_FIELDS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "--output-dir": lambda value: {"output_dir": value},
    "--trust-remote-code": trusted_revisions,
    "--on-nan": lambda value: {"training.on_nan": value},
    "--beta": lambda value: {"objective.semantic_loss_scale": value},
    "--contrastive-weight": lambda value: {"objective.contrastive.weight": [value, 2 * value]},
    "--student": lambda value: {"student.model": value},
    "--teacher": lambda value: {"teacher.model": value},
    "--encoder": lambda value: {"encoder.model": value},
    "--data": lambda value: {"data.path": value},
    "--packages": lambda value: {"data.packages": [name for part in value for name in part.split(",") if name]},
    "--mask": lambda value: {"data.mask": value},
    "--max-train-samples": lambda value: {"data.max_train_samples": value},
    "--seed": lambda value: {"seed": value},
    "--device": lambda value: {"device": value},
    "--split": lambda value: {"evaluation.split": value},
    "--limit": lambda value: {"evaluation.limit": value},
    "--num-beams": lambda value: {"evaluation.num_beams": value},
}
"""What each dedicated option sets in the configuration, by dotted field name."""

ConfigFiles = Annotated[
    list[str] | None,
    typer.Option("--config", metavar="FILE", help="YAML file, or the name of a shipped one (trident); repeatable."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any field, as in objective.jsd.temperature=2; repeatable."),
]
Beta = Annotated[
    float | None,
    typer.Option(
        "--beta",
        "--semantic-loss-scale",
        metavar="X",
        help="Scale of the semantic loss; under balance=band, where it starts.  [default: 5]",
    ),
]
ContrastiveWeight = Annotated[
    float | None,
    typer.Option(
        "--contrastive-weight",
        metavar="X",
        help="Weight of the contrastive loss at the start; it rises linearly to 2X (0.1 gives 0.1 -> "
        "0.2). 0 is "
        "off. For another schedule: --set objective.contrastive.weight=[X,Y].",
    ),
]
Student = Annotated[
    str | None, typer.Option("--student", metavar="MODEL", help="Path or hub name; embedded: shaped after the teacher.")
]
Teacher = Annotated[
    str | None, typer.Option("--teacher", metavar="MODEL", help="Path or hub name; embedded: the shipped one.")
]
Encoder = Annotated[
    str | None, typer.Option("--encoder", metavar="MODEL", help="Path or hub name; teacher: the teacher's own.")
]
Data = Annotated[str | None, typer.Option("--data", metavar="FILE", help="JSONL records instead of the mined corpus.")]
Packages = Annotated[
    list[str] | None,
    typer.Option("--packages", metavar="NAMES", help="Packages to mine, separated by commas; repeatable."),
]
Mask = Annotated[
    str | None,
    typer.Option("--mask", metavar="one|all", help="One assertion masked per record, or all of the test's."),
]
MaxTrainSamples = Annotated[
    int | None, typer.Option("--max-train-samples", metavar="N", help="Train on this many records at most.")
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of everything random.")]
Device = Annotated[str | None, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Empty the output directory first, if it holds a run (run.json).")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def given_fields(settings: Sequence[str] | None, options: Mapping[str, Any]) -> dict[str, list[str]]:
    """The dotted fields that each ``--set`` and each option of a command line sets."""
    found = {f"--set {key}": [key] for setting in settings or () if (key := setting.partition("=")[0].strip())}
    given = {option: value for option, value in options.items() if value is not None}
    return found | {option: list(OPTION_FIELDS[option](value)) for option, value in given.items()}


def resolve(
    files: Sequence[str] | None,
    settings: Sequence[str] | None,
    options: Mapping[str, Any],
    base: Mapping[str, Any] | None = None,
    over: Mapping[str, Mapping[str, Any]] | None = None,
    mines: bool = False,
) -> Config:
    """The configuration of a command line; options that are None were not given.

    ``base`` lies below the files, ``over`` (dotted values by the name that messages give them) above everything.
    ``mines``: records come from somewhere else than ``data.path``, whatever a file says.
    """
    from distillctl.core.config import load_config

    given = {option: OPTION_FIELDS[option](value) for option, value in options.items() if value is not None}
    # --data and --packages are alternatives: either alone replaces what a config file chose of the other.
    for option, other in (("--data", "data.packages"), ("--packages", "data.path")):
        if option in given and not {"--data", "--packages"} <= given.keys():
            given[option][other] = None
    config = load_config(files or (), settings or (), {**given, **(over or {})}, base)
    if "--mask" in given and config.data.path is not None and not mines:
        raise UsageError(f"--mask is for records that are mined: those of {config.data.path} have their masks")
    return config
