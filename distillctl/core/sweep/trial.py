"""One trial of a sweep: a normal training in a directory of its own, scored on dev.

It runs in the sweep's own process, not in a child: the corpus is read once, nothing is imported anew, and a killed
sweep leaves no orphan that goes on training into a directory which the next worker takes over. What that gives up is
a trial that takes the whole process with it (the kernel's out-of-memory killer); the next start counts such deaths
and, after five in the same trial, calls it failed.
"""

from __future__ import annotations

import gc
import hashlib
import shutil
from pathlib import Path

import torch

from distillctl.core.analysis.run_data import RunData, read_run
from distillctl.core.config import Config
from distillctl.core.data.corpus import Corpus
from distillctl.core.distillation import distil
from distillctl.core.errors import DataError
from distillctl.core.evaluation.corpus_sums import COLUMNS, f1
from distillctl.core.evaluation.significance import cluster_sums
from distillctl.core.materials import load_models
from distillctl.core.models.encoders import load_encoder
from distillctl.core.progress import Reporter
from distillctl.core.run_dir import RunDirectory
from distillctl.core.run_dir.lock import check_unlocked, drop_lock_of_the_dead
from distillctl.core.sweep.plan import SPLIT, Sweep, Trial
from distillctl.core.sweep.study import MADE_FROM, FileSums, Result
from distillctl.core.training.accelerator import make_accelerator, resolve_precision
from distillctl.core.training.terms import ENCODER_TERMS

_COUNTS = [COLUMNS.index(name) for name in ("tp", "fp", "fn")]


def check_models(sweep: Sweep) -> None:
    """Loads every combination of student, teacher, encoder and device that the trials name, before anything starts.

    Raises UsageError or DataError for what cannot be loaded or does not fit together.
    """
    seen: list[object] = []
    for trial in sweep.trials:
        config = resolve_precision(trial.config)
        reads = bool(set(config.objective.active_terms) & ENCODER_TERMS) and config.encoder.model != "teacher"
        named = (config.student, config.teacher, config.encoder, config.device, reads)
        if named in seen:
            continue
        seen.append(named)
        make_accelerator(config.device, bf16=config.training.bf16 is True)
        load_models(config)
        if reads:
            load_encoder(config.encoder.model, config.encoder.trusted_revision)


class TrainedTrial:
    """The objective of a real sweep: trains a trial and scores it. The corpus is read once for all of them."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus

    def __call__(self, trial: Trial, reporter: Reporter) -> Result:
        config = trial.config
        folder = Path(config.output_dir)
        drop_lock_of_the_dead(folder)  # the claim on this trial says that it is ours alone
        try:
            resume = _can_go_on(folder)
            try:
                seconds = self._train(config, reporter, resume=resume)
            except DataError:
                if not resume:
                    raise
                # What a dead worker left cannot be gone on with (another device, a damaged checkpoint): from the start.
                seconds = self._train(config, reporter, resume=False)
        finally:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        run = read_run(config.output_dir, SPLIT)
        score = float(f1(run.sums.sum(axis=0)))
        said = {**run.facts("fingerprints")}
        said |= {"encoder": run.facts("bank")["encoder"]} if run.facts("bank") else {}
        made_from = {name: said[name] for name in MADE_FROM if name in said}
        return Result(score, file_sums(run), said[SPLIT], len(run.rows), seconds, made_from)

    def _train(self, config: Config, reporter: Reporter, *, resume: bool) -> float:
        """Trains, from the last checkpoint or from the start; returns the seconds in all."""
        folder = Path(config.output_dir)
        if folder.is_dir() and not resume:
            check_unlocked(folder)  # of a worker that was stopped for a while and is no more dead than its files
            shutil.rmtree(folder)
        outcome = distil(config, reporter, resume=resume, corpus=self._corpus)
        return sum(outcome.seconds.values())


def _can_go_on(folder: Path) -> bool:
    """Whether a worker died (or was stopped) in this trial. What failed is tried from the start: it may lie there."""
    return (folder / "run.json").is_file() and RunDirectory.open(folder).record().get("status") != "failed"


def file_sums(run: RunData) -> FileSums:
    """True positives, false positives and false negatives per file: all that F1 and its interval need."""
    names = sorted(set(run.clusters))
    sums = cluster_sums(run.sums[:, _COUNTS], run.clusters)
    keys = [hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12] for name in names]
    return {key: (int(tp), int(fp), int(fn)) for key, (tp, fp, fn) in zip(keys, sums.tolist(), strict=True)}
