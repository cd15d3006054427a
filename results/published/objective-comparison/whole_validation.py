"""Puts both scores of a run together: the 5,500 validation records of runs/ and the rest of them in runs-rest/.

``report_all.py`` builds its reports over all of validation from what is written here.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from run_all import HERE, is_kept

from distillctl.core.evaluation.evaluate_assertions import Scores, write
from distillctl.core.run_dir import RunDirectory

REPORTED, REST = HERE / "runs", HERE / "runs-rest"
SPLIT = "validation"
NEEDED = ("metric_version", "split", "decoding")


def put_together(output: Path) -> None:
    """Writes each run that has both scores to ``output``, with the predictions of both, for ``report``."""
    for kept in sorted(REST.iterdir()) if REST.exists() else ():
        if is_kept(kept) and is_kept(REPORTED / kept.name):
            shutil.copytree(REPORTED / kept.name, output / kept.name, ignore=shutil.ignore_patterns("evaluation"))
            parts = [RunDirectory.open(part / kept.name) for part in (REPORTED, REST)]
            rows = [row for part in parts for row in part.predictions(SPLIT)]
            # report computes every score anew.
            needed, other = ({name: part.metrics(SPLIT)[name] for name in NEEDED} for part in parts)
            if needed != other:
                raise SystemExit(f"{kept.name}: {REPORTED.name}/ was scored with {needed}, {REST.name}/ with {other}")
            run = RunDirectory.open(output / kept.name)
            write(run.evaluation(SPLIT), Scores(needed, rows))
            run.seal_scores()
