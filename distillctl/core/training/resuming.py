"""May a run go on from where it stopped? Only as the same run: other settings or other records would mix two."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from distillctl.core.config.differences import differences
from distillctl.core.errors import DataError

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


def _is_free(name: str) -> bool:
    return any(name == free or name.startswith(f"{free}.") for free in FREE)
