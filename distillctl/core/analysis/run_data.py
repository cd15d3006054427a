"""Everything a report needs of one run, read from its directory and refused where it cannot be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from distillctl.core.analysis.overhead_record import OVERHEAD_FILE, read_record
from distillctl.core.errors import DataError, UsageError
from distillctl.core.evaluation.corpus_sums import sample_sums
from distillctl.core.evaluation.evaluate_assertions import METRICS_FILE, PREDICTIONS_FILE, rescore_samples
from distillctl.core.evaluation.significance import FloatArray
from distillctl.core.execution.outcomes import EXECUTION, HOW_IT_RAN, is_stored_execution
from distillctl.core.run_dir import RunDirectory, demand_finished, read_json
from distillctl.core.store.compressed import sha256_of_stored

StepRows = Sequence[Mapping[str, float | None]]


@dataclass(frozen=True, slots=True)
class Overhead:
    """A measured ratio of step times, candidate / baseline, with the ends of its interval; and where it is from.

    ``record`` is all of overhead.json where profile-overhead wrote it; None where somebody else wrote the ratio alone.
    """

    median: float
    low: float
    high: float
    source: str
    record: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class RunData:
    """One run. ``rows`` are its predictions scored again, ``sums`` what each adds to the metrics [N, k].

    ``beside`` are the scores (points) of other systems on the same samples, as the evaluation noted them: system ->
    metric -> score. ``executions`` are the outcomes of running predictions, by sample id and system, ``execution`` how
    they were run; both empty where they were not.
    """

    path: str
    record: Mapping[str, Any]
    config: Mapping[str, Any]
    metric_version: int
    decoding: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    sums: FloatArray
    steps: StepRows
    inputs: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    executions: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    execution: Mapping[str, Any] = field(default_factory=dict)
    overhead: Overhead | None = None
    notes: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return bool(self.record["status"] == "finished")

    def is_same(self, other: RunData) -> bool:
        """Whether both are one run, wherever copies of it lie and however their paths are written."""
        return self.record == other.record

    def facts(self, group: str) -> Mapping[str, Any]:
        """A group of facts in run.json, such as ``hardware``; empty where it was not noted."""
        found = self.record.get(group)
        return found if isinstance(found, Mapping) else {}

    @property
    def clusters(self) -> list[str]:
        """The file of each sample."""
        return [f"{row['project']}\x00{row['path']}" for row in self.rows]


def read_run(path: str, split: str, *, allow_unfinished: bool = False) -> RunData:
    """Reads the run in ``path`` and its evaluation of ``split``; every score is computed anew.

    Raises:
        UsageError: no run there, or no evaluation of the split.
        DataError: a run without provenance, one that did not finish (unless ``allow_unfinished``), or damage,
            with file and line.
    """
    run = RunDirectory.open(path)
    record = run.record()
    _check_provenance(record, run, path)
    if not allow_unfinished:
        demand_finished(record, path)
    folder = Path(path) / "evaluation" / split
    metrics, stored = _read_evaluation(run, split, folder)
    notes: list[str] = []
    steps = run.step_metrics(lambda note: notes.append(note.replace(str(run.path), path)))
    rows = _rescore(stored, folder / PREDICTIONS_FILE)
    notes += _integrity(metrics, run.path / "evaluation" / split / PREDICTIONS_FILE, folder)
    notes += _other_length(metrics, run.config(), folder)
    notes += [
        f"{path}/{name}: changed since the training wrote it (its SHA-256 differs). Figures are of it as it is now"
        for name in run.changed_files()
        if not name.startswith("student/")
    ]
    return RunData(
        path=path,
        record=record,
        config=run.config(),
        metric_version=metrics["metric_version"],
        decoding=metrics["decoding"],
        rows=rows,
        sums=sample_sums(rows),
        steps=steps,
        inputs={row["id"]: row["input"] for row in stored if isinstance(row.get("input"), str)},
        beside=_read_beside(metrics, folder / METRICS_FILE),
        executions=_read_executions(stored, folder / PREDICTIONS_FILE),
        execution=_read_execution(metrics, folder / METRICS_FILE),
        overhead=_read_overhead(run.path / "analysis" / OVERHEAD_FILE, path),
        notes=tuple(notes),
    )


def _other_length(metrics: Mapping[str, Any], config: Mapping[str, Any], folder: Path) -> list[str]:
    """Whether inputs were cut elsewhere when they were scored: the training's settings, which are shown, do not say."""
    scored, trained = (
        found.get("max_source_length") if isinstance(found, Mapping) else None
        for found in (metrics.get("truncation"), config.get("data"))
    )
    if None in (scored, trained) or scored == trained:
        return []
    return [f"{folder}: scored with inputs of {scored} tokens at most, trained with {trained}"]


def _check_provenance(record: Mapping[str, Any], run: RunDirectory, path: str) -> None:
    made_by, fingerprints = record.get("distillctl"), record.get("fingerprints")
    lacking = []
    if not isinstance(made_by, Mapping) or not made_by.get("version"):
        lacking.append("the version of distillctl")
    if not isinstance(fingerprints, Mapping) or not fingerprints.get("data"):
        lacking.append("the fingerprints of its data")
    if not isinstance(record.get("status"), str):
        lacking.append("its status")
    if lacking:
        raise DataError(f"{path}/run.json: no provenance: it lacks {', '.join(lacking)}. Run it again with distillctl")
    _check_facts(record, f"{path}/run.json")
    if not isinstance(record.get("processes", 1), int):
        raise DataError(f"{path}/run.json: processes should be a whole number. Found {record['processes']!r}")
    if not run.config_file.is_file():
        raise DataError(f"{path}/config.yaml: no provenance: there is no such file. Run it again with distillctl")


_FACTS: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "seconds": {"training": (int, float)},
    "training": {"steps": (int,), "examples": (int,)},
    "hardware": dict.fromkeys(("processor", "accelerator"), (str,)) | dict.fromkeys(("cores", "torch_threads"), (int,)),
    "fingerprints": dict.fromkeys(("config", "data", "tokenizer", "teacher", "student_before"), (str,)),
    "distillctl": {"version": (str,), "commit": (str,)},
}
"""What a report takes from run.json, and of which type; all of it may be missing or null."""
_WORDS = {str: "text", int: "a whole number", float: "a number"}


def _check_facts(record: Mapping[str, Any], where: str) -> None:
    """DataError for a fact that is not of its type, by its name."""
    for group, names in _FACTS.items():
        facts = record.get(group)
        for name, types in names.items():
            value = facts.get(name) if isinstance(facts, Mapping) else None
            if value is not None and (not isinstance(value, types) or isinstance(value, bool)):
                raise DataError(f"{where}: {group}.{name} should be {_WORDS[types[-1]]}. Found {value!r}")


def _read_evaluation(run: RunDirectory, split: str, folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    try:
        metrics, rows = run.metrics(split), run.predictions(split)
    except UsageError as error:
        if (run.path / "evaluation" / split).is_dir():
            raise
        raise UsageError(f"{folder}: there is no such folder. Score the run on {split} first") from error
    where = folder / METRICS_FILE
    if not isinstance(metrics.get("metric_version"), int):
        raise DataError(f"{where}: metric_version should be a number. Found {metrics.get('metric_version')!r}")
    if not isinstance(metrics.get("decoding"), dict):
        raise DataError(f"{where}: no provenance: it lacks the decoding settings. Score the run again")
    return metrics, rows


def _read_beside(metrics: Mapping[str, Any], where: Path) -> Mapping[str, Mapping[str, float]]:
    beside = metrics.get("beside", {})
    systems = beside.values() if isinstance(beside, Mapping) else [None]
    numbers = (value for scores in systems if isinstance(scores, Mapping) for value in scores.values())
    if not all(isinstance(scores, Mapping) for scores in systems) or not all(map(_is_number, numbers)):
        raise DataError(f"{where}: beside should be scores of systems, in points. Score the run again")
    found: Mapping[str, Mapping[str, float]] = beside
    return found


def _read_executions(stored: Sequence[Mapping[str, Any]], where: Path) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    for line, row in enumerate(stored, start=1):
        if EXECUTION in row and not is_stored_execution(row[EXECUTION]):
            raise DataError(f"{where}:{line}: {EXECUTION} should be outcomes of systems. Score the run again")
    return {row["id"]: row[EXECUTION] for row in stored if EXECUTION in row}


_MAPPINGS = ("excluded", "gold_pass_rate_of_collected")


def _read_execution(metrics: Mapping[str, Any], where: Path) -> Mapping[str, Any]:
    facts = metrics.get(EXECUTION, {})
    if not isinstance(facts, Mapping) or (facts and not set(HOW_IT_RAN) <= facts.keys()):
        raise DataError(f"{where}: {EXECUTION} should say {', '.join(HOW_IT_RAN)}. Score the run again")
    for name in HOW_IT_RAN if facts else ():
        if isinstance(facts[name], Mapping) != (name in _MAPPINGS) or isinstance(facts[name], list):
            words = "a mapping" if name in _MAPPINGS else "one value"
            raise DataError(f"{where}: {EXECUTION}.{name} should be {words}. Found {facts[name]!r}")
    return facts


def _rescore(stored: Sequence[Mapping[str, Any]], where: Path) -> Sequence[Mapping[str, Any]]:
    for line, row in enumerate(stored, start=1):
        wrong = [name for name in _TEXTS if name in row and not isinstance(row[name], str)]
        gold = row.get("gold", [])
        if not isinstance(gold, list) or not all(isinstance(text, str) for text in gold):
            wrong.append("gold")
        if wrong:
            raise DataError(f"{where}:{line}: {', '.join(wrong)} should be text (gold: a list of texts)")
    try:
        return rescore_samples(stored)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


_TEXTS = ("id", "language", "project", "path", "input_fingerprint", "prediction")


def _integrity(metrics: Mapping[str, Any], predictions: Path, folder: Path) -> list[str]:
    if metrics.get("predictions_sha256") in (None, sha256_of_stored(predictions)):
        return []
    return [
        f"{folder / PREDICTIONS_FILE}: changed since {METRICS_FILE} was written (its SHA-256 differs). "
        "Every figure here is computed from the predictions as they are now"
    ]


def _read_overhead(file: Path, path: str) -> Overhead | None:
    if not file.is_file():
        return None
    where = f"{path}/analysis/{OVERHEAD_FILE}"
    values = read_json(file)
    ratio = values.get("ratio")
    found = ratio if isinstance(ratio, dict) else {}
    numbers = [float(value) for name in ("median", "low", "high") if _is_positive(value := found.get(name))]
    if len(numbers) != 3:
        raise DataError(f'{where}: should hold {{"ratio": {{"median": x, "low": x, "high": x}}}}. Found {ratio!r}')
    median, low, high = numbers
    return Overhead(median, low, high, where, read_record(values, where))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_positive(value: Any) -> TypeGuard[float]:
    return _is_number(value) and value > 0
