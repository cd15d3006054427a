"""``prepare``."""

from __future__ import annotations

from typing import Annotated

import typer

from distillctl.cli.options import (
    ConfigFiles,
    Data,
    Debug,
    Device,
    Encoder,
    Mask,
    MaxTrainSamples,
    Packages,
    Settings,
    Teacher,
    resolve,
)
from distillctl.core.errors import UsageError
from distillctl.exit_codes import errors_as_exit_codes


def prepare(
    config: ConfigFiles = None,
    settings: Settings = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the records to this JSONL file too."),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Check the teacher cache and the embedding bank, show what they hold, capture nothing."
        ),
    ] = False,
    source: Annotated[
        list[str] | None,
        typer.Option("--source", metavar="DIR", help="Mine this source tree instead of packages; repeatable."),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option("--language", metavar="java|python", help="Language of the source trees, or of the file."),
    ] = None,
    project: Annotated[
        list[str] | None,
        typer.Option(
            "--project", metavar="NAME", help="What records call a source tree.  [default: its folder's name]"
        ),
    ] = None,
    from_trident: Annotated[
        str | None,
        typer.Option(
            "--from-trident", metavar="FILE", help="Convert a file of the earlier pipeline: records, dense logits."
        ),
    ] = None,
    processes: Annotated[
        int,
        typer.Option(
            "--processes", metavar="N", min=1, help="Capture in N processes of this machine.", show_default=True
        ),
    ] = 1,
    teacher: Teacher = None,
    encoder: Encoder = None,
    data: Data = None,
    packages: Packages = None,
    mask: Mask = None,
    max_train_samples: MaxTrainSamples = None,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Mine the corpus, capture teacher and golds ahead of time, and show what there is.

    The frozen encoder's states of the golds are captured where a term reads them, the teacher where the settings say
    teacher.mode=cached. Stopped and started again, it goes on where it was.
    """
    options = {
        "--teacher": teacher,
        "--encoder": encoder,
        "--data": data,
        "--packages": packages,
        "--mask": mask,
        "--max-train-samples": max_train_samples,
        "--device": device,
    }
    code = 0
    with errors_as_exit_codes(debug, several=not (source or from_trident)):
        resolved = resolve(config, settings, options, mines=bool(source))
        if sum(map(bool, (source, from_trident, data, packages))) > 1:
            raise UsageError(
                "--source, --from-trident, --data and --packages say where the records are: give one of them"
            )
        if (language and not (source or from_trident)) or (project and not source):
            raise UsageError("--language and --project say what a --source is: give its folder")
        if max_train_samples is not None and (source or from_trident):
            raise UsageError("--max-train-samples is for a training: all records of a --source or file are written")
        if mask and from_trident:
            raise UsageError("--mask is for records that are mined: those of the earlier pipeline have their masks")
        if source and (unread := [name for name in ("--teacher", "--encoder", "--device") if options[name]]):
            raise UsageError(f"{' and '.join(unread)}: no model reads a --source. Leave it out")
        if verify and (source or from_trident):
            raise UsageError("--verify checks the cache of a training: give it the records with --data")
        if processes > 1 and (source or from_trident):
            raise UsageError(
                "--processes captures what a training reads: leave it out, or give the records with --data"
            )
        from distillctl.commands import prepare as command

        if source:
            from distillctl.core.data.source_trees import source_trees

            command.mine_sources(resolved, source_trees(source, language, project or ()), output=output)
        elif from_trident:
            command.convert(resolved, from_trident, language, output=output)
        else:
            code = command.run(resolved, output=output, verify=verify, processes=processes)
    if code:  # of the processes it started: they have said why
        raise typer.Exit(code)
