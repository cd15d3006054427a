"""The run directory: the only reader and writer of a run's files.

config.yaml          the resolved configuration
run.json             provenance and status
step_metrics.csv     one row per logged optimizer step
tensorboard/         the same scalars
checkpoints/step-N/  what is needed to go on
student/             the final model, with its card
evaluation/<split>/  metrics.json and predictions.jsonl
analysis/            what later commands make of it

An archived run (archive.py) has step_metrics.csv and predictions.jsonl as .xz, and no weights; it is read the same way.
"""

from distillctl.core.run_dir.archive import Archived, archive_run
from distillctl.core.run_dir.directory import RunDirectory
from distillctl.core.run_dir.model_card import write_model_card
from distillctl.core.run_dir.provenance import git_state, hardware, library_versions
from distillctl.core.run_dir.status import Clock, RunStatus, demand_finished
from distillctl.core.run_dir.step_log import StepLog, read_step_metrics, step_metric_columns
from distillctl.core.store.files import read_json, write_atomically

__all__ = [
    "Archived",
    "Clock",
    "RunDirectory",
    "RunStatus",
    "StepLog",
    "archive_run",
    "demand_finished",
    "git_state",
    "hardware",
    "library_versions",
    "read_json",
    "read_step_metrics",
    "step_metric_columns",
    "write_atomically",
    "write_model_card",
]
