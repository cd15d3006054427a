"""Scoring a finished model: the job behind ``distillctl evaluate``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillctl.core.config.schema import Config
from distillctl.core.data.corpus import Corpus, describe
from distillctl.core.data.encoding import Encoded
from distillctl.core.data.records import fingerprint
from distillctl.core.data.selection import fixed_sample
from distillctl.core.errors import DataError
from distillctl.core.evaluation.evaluate_assertions import Scores
from distillctl.core.execution.execute import check_placed
from distillctl.core.execution.request import RunTests
from distillctl.core.execution.scored import with_executions
from distillctl.core.materials import make_encoder, read_corpus
from distillctl.core.materials.models import check_lengths
from distillctl.core.models.loading import load_seq2seq, load_tokenizer
from distillctl.core.progress import Reporter
from distillctl.core.run_dir import RunDirectory
from distillctl.core.run_dir.lock import locked
from distillctl.core.scoring import (
    STUDENT,
    SystemScores,
    all_scores,
    points,
    score_and_store,
    score_teacher,
    score_trivial_answers,
)
from distillctl.core.store.files import creating
from distillctl.core.training.accelerator import make_accelerator, resolve_precision


@dataclass(frozen=True)
class Subject:
    """What is scored: a run's student, or any model. ``folder`` gets evaluation/<split>/."""

    model: str
    folder: Path
    run: RunDirectory | None = None
    teacher: str | None = None

    @property
    def home(self) -> RunDirectory | None:
        """The run, if the scores go into its own directory."""
        own = self.run is not None and self.folder.resolve() == self.run.path.resolve()
        return self.run if own else None


@dataclass
class Assessment:
    """What an evaluation leaves besides its files. ``scores``: system -> metrics (points), in the order shown."""

    folder: Path
    split: str
    metrics: dict[str, Any]
    scores: dict[str, SystemScores] = field(default_factory=dict)
    seconds: float = 0.0


def find_subject(target: str, output: str | None, teacher: str | None, config: Config) -> Subject:
    """What a target names: a run directory, or a model by path or hub name.

    A run is scored beside its own teacher if it had one; another model beside the one that is named, or none.
    """
    path = Path(target)
    if not (path / "run.json").is_file():
        # A model's folder is not ours to write into. A run's is called student, like that of any other run.
        place = path.resolve()
        name = f"{place.parent.name}-{place.name}" if place.name == "student" else place.name
        folder = Path(output) if output else Path("results") / f"evaluation-{name}"
        return Subject(target, folder, None, teacher)
    run = RunDirectory.open(path)
    if not (run.path / "student" / "config.json").is_file():
        status = run.record().get("status")
        if status == "finished":
            raise DataError(f"{target}: a copy without the student (archived?). Score the run that it was made from")
        raise DataError(f"{target}: the run has no student yet (its status is {status!r})")
    changed = [name for name in run.changed_files() if name.startswith("student/")]
    if changed:
        raise DataError(
            f"{path / changed[0]}: not the file that the training wrote (its SHA-256 differs). Restore it, or score "
            f"{path / 'student'} as a model"
        )
    learned = set(config.objective.active_terms) != {"focal"}
    own = config.teacher.model if learned else None
    return Subject(str(run.path / "student"), Path(output) if output else run.path, run, teacher or own)


def assess(
    target: str,
    config: Config,
    reporter: Reporter,
    *,
    output: str | None = None,
    teacher: str | None = None,
    with_teacher: bool = True,
    tests: RunTests | None = None,
) -> Assessment:
    """Scores a run's student, or any encoder-decoder model, on a split, beside its teacher and the trivial answers.

    Killed and started again it goes on where it stopped, and ends with the same files.

    Args:
        target: a run directory, or a model by path or hub name.
        config: the run's own configuration, or one that names data and lengths for another model.
        output: folder that gets ``evaluation/<split>/``; None is the run's own.
        teacher: a model to score beside it; None is the run's own teacher.
        with_teacher: False scores none beside it.
        tests: how to run the predictions; None does not run them.

    Raises:
        UsageError, DataError: what cannot be loaded, a student that was changed since its training, a split without
            records, a run that another process writes to.
        RunError: the files cannot be written.
    """
    config = resolve_precision(config)
    subject = find_subject(target, output, teacher, config)
    with locked(subject.home.path) if subject.home is not None else nullcontext():
        return _assess(subject, config, reporter, with_teacher, tests)


def _assess(
    subject: Subject, config: Config, reporter: Reporter, with_teacher: bool, tests: RunTests | None
) -> Assessment:
    started = time.perf_counter()
    model = load_seq2seq(subject.model, "model")
    check_lengths(config, model, "model")
    with creating(subject.folder):  # before anything is decoded
        subject.folder.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(subject.model, "model")
    device = make_accelerator(config.device, bf16=config.training.bf16 is True).device
    model.to(device)
    corpus = read_corpus(config, reporter)
    split = config.evaluation.split
    train = corpus.records("train") if corpus.sizes["train"] else []
    encoded = _encode(config, tokenizer, fixed_sample(corpus.records(split), config.evaluation.limit), reporter)
    if subject.run is not None:
        _note_other_corpus(subject.run, corpus, reporter)
    if tests is not None:
        check_placed(encoded.records, tests.most)  # before anything is decoded
    outcome = Assessment(_folder(subject, split), split, {})
    beside = score_trivial_answers(encoded.records, train)
    if with_teacher and subject.teacher is not None:
        beside |= _score_beside(subject.teacher, config, encoded, device, reporter)
    outcome.scores |= points(beside)

    def run_tests(scores: Scores) -> Scores:
        everyone = beside | {STUDENT: scores}
        return scores if tests is None else with_executions(STUDENT, everyone, encoded.records, tests, reporter)

    scores = score_and_store(model, tokenizer, encoded, config, reporter, outcome.folder, outcome.scores, run_tests)
    outcome.scores[STUDENT] = all_scores(scores)
    outcome.metrics = scores.metrics
    outcome.seconds = time.perf_counter() - started
    if subject.home is not None:
        facts = {"records": len(encoded.examples), "corpus": describe(corpus), "seconds": round(outcome.seconds, 3)}
        subject.home.note(evaluations={split: facts}, fingerprints={split: fingerprint(encoded.records)})
        if subject.home.record().get("files"):
            subject.home.seal_scores()
    return outcome


def _folder(subject: Subject, split: str) -> Path:
    return subject.home.evaluation(split) if subject.home is not None else subject.folder / "evaluation" / split


def _encode(config: Config, tokenizer: Any, records: Sequence[Any], reporter: Reporter) -> Encoded:
    with reporter.task("tokenising"):
        encoded = make_encoder(config, tokenizer).encode(records)
    reporter.note(f"{config.evaluation.split}: {encoded.summary()}")
    if not encoded.examples:
        raise DataError(f"every {config.evaluation.split} record was dropped: its target has no token")
    return encoded


def _score_beside(name: str, config: Config, encoded: Encoded, device: Any, reporter: Reporter) -> dict[str, Scores]:
    """The teacher's scores on the same records, read with its own tokenizer."""
    teacher = load_seq2seq(name, "teacher").to(device)
    check_lengths(config, teacher, "teacher")
    tokenizer = load_tokenizer(name, "teacher")
    own = make_encoder(config, tokenizer).encode(encoded.records)
    if own.records != encoded.records:
        raise DataError(f"teacher {name!r}: its tokenizer drops records that the student's keeps: no fair comparison")
    return score_teacher(teacher, tokenizer, own, config, reporter)


def _note_other_corpus(run: RunDirectory, corpus: Corpus, reporter: Reporter) -> None:
    """Says so where the records may not be those the run was made with: other package versions, another file."""
    theirs = run.record().get("corpus", {}).get("identity")
    if theirs != corpus.identity:
        reporter.note(f"note: the run was made with {theirs}, this is {corpus.identity}: their records may differ")
