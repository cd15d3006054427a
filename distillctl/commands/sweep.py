"""``distillctl sweep``: train a grid of settings on part of the data, and rank them on dev."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distillctl.console import ConsoleReporter
from distillctl.core.sweep.folder import BEST, PICTURE, STORAGE, check_folder, claim_folder
from distillctl.core.sweep.plan import Configure, Sweep, plan_sweep
from distillctl.sweep_screen import SweepScreen, ranking_table

if TYPE_CHECKING:
    from distillctl.core.data.corpus import Corpus
    from distillctl.core.sweep.study import Study
    from distillctl.core.sweep.worker import Objective


def run(
    configure: Configure,
    *,
    grid: Sequence[str],
    seeds: int = 1,
    data_fraction: float | None = None,
    output: str = "results/sweep",
    storage: str | None = None,
    retry_failed: bool = False,
) -> None:
    """Trains what is missing of the grid, prints the trials and the ranking, writes the plot and best.yaml.

    Raises UsageError or DataError before anything is trained; RunError when no grid point could be ranked.
    """
    folder = Path(output)
    reporter = ConsoleReporter()
    # Everything that is wrong with the settings is told before anything slow is done.
    sweep = plan_sweep(configure, grid, seeds=seeds, output=folder, fraction=data_fraction)
    check_folder(folder)

    from distillctl.core.materials import read_corpus
    from distillctl.core.sweep.trial import TrainedTrial, check_models

    corpus = read_corpus(sweep.trials[0].config, reporter)
    records = len(corpus.records("train"))
    sweep = plan_sweep(configure, grid, seeds=seeds, output=folder, fraction=data_fraction, train_records=records)
    with reporter.task("checking the models"):
        check_models(sweep)
    study = _open_study(sweep, folder, storage)
    _introduce(sweep, corpus, records, reporter)
    _work(sweep, study, TrainedTrial(corpus), folder, retry_failed, reporter)


def _introduce(sweep: Sweep, corpus: Corpus, records: int, reporter: ConsoleReporter) -> None:
    config = sweep.trials[0].config
    sizes = sorted({min(records, trial.config.data.max_train_samples or records) for trial in sweep.trials})
    trained = " or ".join(f"{size:,}" for size in sizes)
    there = corpus.sizes["dev"]
    scored = min(there, config.evaluation.limit or there)
    varied = " x ".join(f"{axis.label} {{{', '.join(map(str, axis.values))}}}" for axis in sweep.axes)
    reporter.note(
        f"sweep over {varied}, seed{'s' * (len(sweep.seeds) > 1)} {', '.join(map(str, sweep.seeds))}: "
        f"{len(sweep.trials)} trials"
    )
    reporter.note(
        f"each trains on {trained} of {records:,} records and is scored on {scored:,} of {there:,} records of dev; "
        "validation is not looked at"
    )
    for note in sweep.notes:
        reporter.note(note)


def _open_study(sweep: Sweep, folder: Path, storage: str | None) -> Study:
    """The study in the given storage, or in a file of the folder, which is the sweep's from then on."""
    from distillctl.core.sweep.study import Study, sqlite_url

    check_folder(folder, sweep)
    if storage is not None:  # one that cannot be opened leaves no folder behind
        study = Study(sweep, storage)
        claim_folder(folder, sweep)
        return study
    claim_folder(folder, sweep)
    return Study(sweep, sqlite_url(folder / STORAGE))


def _work(
    sweep: Sweep,
    study: Study,
    objective: Objective,
    folder: Path,
    retry_failed: bool,
    reporter: ConsoleReporter,
) -> None:
    """Trains, ranks, writes and shows."""
    from distillctl.core.sweep.folder import write_outcome
    from distillctl.core.sweep.plot import draw_sweep
    from distillctl.core.sweep.ranking import rank
    from distillctl.core.sweep.worker import Worker

    try:
        with SweepScreen(reporter, sweep) as screen:
            Worker(sweep, study, objective, screen, retry_failed=retry_failed).work()
    except KeyboardInterrupt:
        reporter.note("stopped; the same command goes on with what is missing")
        raise
    ranking = rank(sweep, study.results())
    write_outcome(folder, sweep, ranking, draw_sweep(sweep, ranking))
    reporter.console.print(ranking_table(sweep, ranking))
    reporter.note(str(folder / PICTURE))
    reporter.note(str(folder / BEST))
    reporter.note(f"The best one in full: {shlex.join(['distillctl', 'train', '--config', str(folder / BEST)])}")
