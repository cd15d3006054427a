"""May a run go on from where it stopped? Only as the same run: other settings or other records would mix two."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from distillctl.core.config.differences import differences
from distillctl.core.config.schema import Config
from distillctl.core.errors import DataError
from distillctl.core.run_dir import RunDirectory
from distillctl.core.training.checkpoints import Checkpoint, latest_checkpoint

FREE = ("logging", "evaluation", "checkpoints", "device", "output_dir", "training.on_nan")
"""Settings that may change on the way: none of them decides what a finite step does to the student.

``num_train_epochs`` is not among them: the schedules of the learning rate and of the weights hang on it.
"""
_SHOWN = 8


def check_same_run(
    where: object,
    saved_config: Mapping[str, Any],
    saved_data: str | None,
    config: Mapping[str, Any],
    data: str,
) -> None:
    """Refuse to go on with other settings or other records.

    Args:
        where: what the run is gone on from, for messages.
        saved_config, config: plain values of the configuration there and here.
        saved_data, data: fingerprints (hex) of the training records there and here; None is not known.

    Raises:
        DataError: with each field that differs, ``field: there -> here``, or with both fingerprints.
    """
    changed = [change for change in differences(saved_config, config) if not _is_free(change[0])]
    if changed:
        shown = [f"{name}: {json.dumps(there)} -> {json.dumps(here)}" for name, there, here in changed[:_SHOWN]]
        more = [f"and {len(changed) - _SHOWN} more"] if len(changed) > _SHOWN else []
        raise DataError(
            f"{where}: made with another configuration ({'; '.join([*shown, *more])}).\n"
            "Resume with the run's own config.yaml; only logging, evaluation, checkpoints, device and training.on_nan "
            "may change on the way"
        )
    if saved_data is not None and saved_data != data:
        raise DataError(
            f"{where}: made from other data (fingerprint {saved_data[:16]} there, {data[:16]} here): "
            "package versions or the data file changed"
        )


def check_same_processes(where: object, saved: int, now: int) -> None:
    """Refuse (DataError) to go on from ``where`` with another number of processes than made it."""
    if saved != now:
        raise DataError(
            f"{where}: made by {saved} processes, here are {now}: steps would have other examples. "
            "Resume with as many as before"
        )


def check_same_models(run: RunDirectory, fingerprints: Mapping[str, str], encoder: str | None) -> None:
    """Refuse (DataError) to go on with another teacher, tokenizer or encoder than the run was started with.

    Args:
        run: as it was left.
        fingerprints, encoder: of those at hand; a run that had not come to say its own is not compared.
    """
    record = run.record()
    said, bank = (found if isinstance(found := record.get(name), dict) else {} for name in ("fingerprints", "bank"))
    for name, now in {**fingerprints, "encoder": encoder}.items():
        there = bank.get("encoder") if name == "encoder" else said.get(name)
        if isinstance(there, str) and now is not None and there != now:
            raise DataError(
                f"{run.path}: made with another {name} (fingerprint {there[:16]} there, {now[:16]} here). Put that one "
                "back, or start a new run"
            )


def checkpoint_to_resume(config: Config, data_fingerprint: str, processes: int) -> Checkpoint | None:
    """The checkpoint to go on from; None where the run was stopped before its first, and begins anew.

    Raises DataError for a damaged one, for a finished run without any, and for a run of another configuration or of
    other records.
    """
    run = RunDirectory.open(config.output_dir)
    checkpoint = latest_checkpoint(run)
    if checkpoint is not None:
        saved = checkpoint.state.data_fingerprint
        check_same_run(checkpoint.path, checkpoint.config, saved, config.to_dict(), data_fingerprint)
        check_same_processes(checkpoint.path, checkpoint.state.processes, processes)
    elif run.record().get("status") == "finished":
        raise DataError(
            f"{run.path}: the run is finished and its checkpoints are gone: there is nothing to go on from. "
            "--overwrite trains it anew"
        )
    elif run.config_file.is_file():
        saved = run.record().get("fingerprints", {}).get("data")
        check_same_run(run.path, run.config(), saved, config.to_dict(), data_fingerprint)
    return checkpoint


def how_to_go_on(config: Config, run: RunDirectory, taught: bool) -> list[str]:
    """The command line that goes on with an interrupted run; for ``teach``, that starts from its weights."""
    command = ["distillctl", "teach" if taught else "train", "--config", str(run.config_file)]
    if not taught:
        return [*command, "--output-dir", str(run.path), "--resume"]
    settings = ["student.init=pretrained"]
    if config.student.trusted_revision is not None:  # of a hub model; the new run starts from a directory
        settings.append("student.trusted_revision=null")
    if (config.student.encoder_layers, config.student.decoder_layers) != (None, None):
        settings += ["student.encoder_layers=null", "student.decoder_layers=null"]
    sets = [part for setting in settings for part in ("--set", setting)]
    return [*command, "--student", str(run.student), *sets, "--output-dir", f"{run.path}-continued"]


def _is_free(name: str) -> bool:
    return any(name == free or name.startswith(f"{free}.") for free in FREE)
