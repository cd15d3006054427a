"""Workers: every trial once, whoever works on it, whoever dies, whatever fails."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest

from distillctl.core.errors import InUseError, RunError, UsageError
from distillctl.core.progress import Reporter
from distillctl.core.sweep import claims, worker
from distillctl.core.sweep.claims import Claim, DeathWatch, is_gone, worker_name
from distillctl.core.sweep.plan import Sweep, Trial
from distillctl.core.sweep.study import DONE, FAILED, WAITING, Result, Study, sqlite_url
from distillctl.core.sweep.worker import Worker
from tests.core.sweep import sweeps
from tests.core.sweep.sweeps import Silent, planned, result, study_in

ALL = 12  # trials of the worker process's sweep


def start(folder: Path, log: Path, seconds: float = 0.01, die_in: str = "never") -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", sweeps.__name__, str(folder), str(log), str(seconds), die_in])


def noted(log: Path, word: str) -> list[int]:
    return [int(line.split()[1]) for line in log.read_text().splitlines() if line.startswith(word)]


def optuna_trials(folder: Path, sweep: Sweep) -> list[optuna.trial.FrozenTrial]:
    name = f"distillctl-sweep-{sweep.fingerprint[:16]}"
    return optuna.load_study(study_name=name, storage=sqlite_url(folder / "sweep.db")).trials


def test_workers_that_start_together_repeat_no_trial(tmp_path: Path) -> None:
    log = tmp_path / "log"
    workers = [start(tmp_path / "sweep", log) for _ in range(3)]
    assert [process.wait(120) for process in workers] == [0, 0, 0]
    assert sorted(noted(log, "start")) == sorted(noted(log, "end")) == list(range(ALL))
    sweep = planned(tmp_path / "sweep", "beta=1,2,3,4,5,6", seeds=2)
    trials = optuna_trials(tmp_path / "sweep", sweep)
    assert Counter(trial.state.name for trial in trials) == {"COMPLETE": ALL}
    points = {(trial.params["objective.semantic_loss_scale"], trial.params["seed"]) for trial in trials}
    assert points == {(beta, seed) for beta in range(1, 7) for seed in (13, 14)}


def test_optunas_own_grid_sampler_agrees_that_all_is_done(tmp_path: Path) -> None:
    sweep = planned(tmp_path)
    study = study_in(tmp_path, sweep)
    Worker(sweep, study, lambda trial, reporter: result(trial.number), Silent()).work()
    grid = optuna.samplers.GridSampler({"objective.semantic_loss_scale": [3, 5, 7], "seed": [13]})
    name = f"distillctl-sweep-{sweep.fingerprint[:16]}"
    loaded = optuna.load_study(study_name=name, storage=sqlite_url(tmp_path / "sweep.db"), sampler=grid)
    assert grid.is_exhausted(loaded)
    assert loaded.best_params == {"objective.semantic_loss_scale": 7, "seed": 13}


def test_a_killed_workers_trial_is_done_again_and_no_other(tmp_path: Path) -> None:
    log = tmp_path / "log"
    killed = start(tmp_path / "sweep", log, die_in="4")
    assert killed.wait(120) == -9
    assert noted(log, "end") == [0, 1, 2, 3]
    again = start(tmp_path / "sweep", log)
    assert again.wait(120) == 0
    assert noted(log, "start") == [0, 1, 2, 3, 4, *range(4, ALL)]
    assert noted(log, "end") == list(range(ALL))
    trials = optuna_trials(tmp_path / "sweep", planned(tmp_path / "sweep", "beta=1,2,3,4,5,6", seeds=2))
    assert Counter(trial.state.name for trial in trials) == {"COMPLETE": ALL}


def test_a_living_worker_takes_over_from_one_that_dies_beside_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    workers = [start(tmp_path / "sweep", log, die_in="0"), start(tmp_path / "sweep", log, seconds=0.05)]
    codes = [process.wait(120) for process in workers]
    assert codes in ([-9, 0], [0, 0])  # whoever gets trial 0
    assert sorted(noted(log, "end")) == list(range(ALL))


def test_a_failed_trial_stops_no_other_and_says_why(tmp_path: Path) -> None:
    sweep = planned(tmp_path)
    study = study_in(tmp_path, sweep)

    def objective(trial: Trial, reporter: Reporter) -> Result:
        if trial.number == 0:
            raise RunError("loss is NaN\nat step 3")
        if trial.number == 1:
            raise ZeroDivisionError("by zero")
        return result(3)

    Worker(sweep, study, objective, Silent()).work()
    entries = study.entries()
    assert [entry.state for entry in entries] == [FAILED, FAILED, DONE]
    assert [entry.reason for entry in entries[:2]] == ["loss is NaN at step 3", "ZeroDivisionError: by zero"]
    assert list(study.results()) == [2]
    assert study.results()[2] == result(3)
    # Not tried again by itself; tried again when asked to, and those alone.
    tried: list[int] = []

    def mended(trial: Trial, reporter: Reporter) -> Result:
        tried.append(trial.number)
        if trial.number == 1:
            raise MemoryError
        return result(4)

    Worker(sweep, study, mended, Silent()).work()
    assert tried == []
    Worker(sweep, study, mended, Silent(), retry_failed=True).work()
    assert tried == [0, 1]
    assert [entry.state for entry in study.entries()] == [DONE, FAILED, DONE]
    assert str(study.entries()[1].reason).startswith("out of memory")


def test_an_interrupted_trial_is_free_again(tmp_path: Path) -> None:
    sweep = planned(tmp_path)
    study = study_in(tmp_path, sweep)

    def stop(trial: Trial, reporter: Reporter) -> Result:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Worker(sweep, study, stop, Silent()).work()
    entry = study.entries()[0]
    assert (entry.state, entry.claim.worker, entry.claim.deaths) == (WAITING, None, 0)
    Worker(sweep, study, lambda trial, reporter: result(1), Silent()).work()
    assert [entry.state for entry in study.entries()] == [DONE] * 3


def test_a_trial_that_kills_its_workers_fails_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = planned(tmp_path)
    study = study_in(tmp_path, sweep)
    monkeypatch.setattr(claims, "is_gone", lambda name: True)
    assert study.claims.take(0, "a:1:1:a")
    for death in range(1, worker.MOST_DEATHS):
        assert study.claims.take_over(0, study.claims.all()[0], f"a:1:1:{death}")
    Worker(sweep, study, lambda trial, reporter: result(1), Silent()).work()
    assert [entry.state for entry in study.entries()] == [FAILED, DONE, DONE]
    assert study.entries()[0].reason == "its worker died 5 times (killed, or out of memory?)"


def test_a_worker_that_lost_its_trial_tells_nothing(tmp_path: Path) -> None:
    sweep = planned(tmp_path)
    study = study_in(tmp_path, sweep)

    def slept_too_long(trial: Trial, reporter: Reporter) -> Result:
        if trial.number == 0 and study.claims.all()[0].deaths == 0:
            assert study.claims.take_over(0, study.claims.all()[0], worker_name())
            study.succeed(study.start(trial), result(9))  # as the other one tells
            study.claims.release(0, str(study.claims.all()[0].worker))
        return result(1)

    Worker(sweep, study, slept_too_long, Silent()).work()
    assert study.results()[0] == result(9)


def test_a_trial_in_which_somebody_given_up_for_dead_still_writes_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "IN_USE_SECONDS", 0.2)
    monkeypatch.setattr(worker, "POLL_SECONDS", 0.05)
    sweep = planned(tmp_path)
    study = study_in(tmp_path, sweep)
    tried: list[int] = []

    def objective(trial: Trial, reporter: Reporter) -> Result:
        tried.append(trial.number)
        if tried.count(0) == 1 and trial.number == 0:
            raise InUseError("run: in use by process 7")
        return result(trial.number)

    Worker(sweep, study, objective, Silent()).work()
    assert tried == [0, 1, 2, 0]  # the others first
    assert [entry.state for entry in study.entries()] == [DONE] * 3


def test_a_worker_beats_while_it_trains_even_if_the_storage_is_away_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "BEAT_SECONDS", 0.01)
    sweep = planned(tmp_path)
    study, view = study_in(tmp_path, sweep), Silent()
    beat, away = claims.Claims.beat, [True]

    def sometimes(self: claims.Claims, trial: int, me: str) -> bool:
        if away.pop() if away else False:
            raise RunError("the storage does not answer")
        return beat(self, trial, me)

    monkeypatch.setattr(claims.Claims, "beat", sometimes)

    def objective(trial: Trial, reporter: Reporter) -> Result:
        deadline = time.monotonic() + 30
        while study.claims.all()[trial.number].beat < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return result(1)

    Worker(sweep, study, objective, view).work()
    assert [entry.state for entry in study.entries()] == [DONE] * 3
    assert not away
    assert len(view.seen) > 3 * 3


def test_a_beat_keeps_others_away_until_it_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("distillctl.core.sweep.claims.time.monotonic", lambda: now[0])
    watch = DeathWatch(grace=100)
    elsewhere = "0123456789abcdef:1:1:x"
    assert not watch.is_dead(0, Claim(None, 0, 0))
    for beat in range(5):
        assert not watch.is_dead(0, Claim(elsewhere, beat, 0))
        now[0] += 90
    now[0] += 11
    assert watch.is_dead(0, Claim(elsewhere, 4, 0))
    assert not watch.is_dead(1, Claim(worker_name(), 0, 0))


def test_a_worker_of_this_machine_is_known_by_its_process() -> None:
    me = worker_name()
    machine, pid, started, token = me.split(":")
    assert not is_gone(me)
    assert is_gone(f"{machine}:{pid}:{int(started) - 100}:{token}")  # its number was given to another process
    assert not is_gone(f"{'0' * 16}:{pid}:0:{token}")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert is_gone(f"{machine}:{ended.pid}:{started}:{token}")


def test_claims_are_taken_once(tmp_path: Path) -> None:
    study = study_in(tmp_path, planned(tmp_path))
    held = study.claims
    assert held.take(0, "a") and not held.take(0, "b") and held.take(1, "b")
    stale = held.all()[0]
    assert held.beat(0, "a") and not held.beat(0, "b")
    assert not held.take_over(0, stale, "b")  # it moved since
    assert held.take_over(0, held.all()[0], "b")
    assert not held.beat(0, "a") and held.holds(0, "b")
    held.release(0, "a")
    assert held.all()[0] == Claim("b", 0, 1)
    held.release(0, "b")
    assert held.all()[0].worker is None


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "should be an Optuna storage URL"),
        ("nosuch://host/x", "--storage nosuch://host/x: cannot be opened"),
        ("sqlite:////no/such/folder/x.db", "unable to open database file"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_told(tmp_path: Path, url: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        Study(planned(tmp_path), url)
    assert words in str(caught.value)


def test_a_password_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        Study(planned(tmp_path), "nosuch://me:secret@host/x")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["a{b}", "a%20b", "5%data"])
def test_a_folder_with_braces_or_percents_holds_a_storage(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    sweep = planned(folder)
    assert study_in(folder, sweep).entries()[0].state == WAITING
    assert (folder / "sweep.db").is_file()
