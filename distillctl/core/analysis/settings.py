"""Where the runs come from, and what differs between their configurations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distillctl.core.analysis.figures import value_text
from distillctl.core.analysis.run_data import RunData
from distillctl.core.config.differences import differences

# What two runs of one arm may differ in without a word.
OF_A_SEED = ("seed", "output_dir")
_HEX = 12
_FINGERPRINTS = ("config", "data", "tokenizer", "teacher", "student_before")


@dataclass(frozen=True, slots=True)
class SettingDifference:
    """A field by its dotted name, and its value in each arm (a dash where it is not set)."""

    name: str
    baseline: str
    candidate: str


def setting_differences(baseline: RunData, candidate: RunData) -> list[SettingDifference]:
    """The fields whose values differ, in the order of their names."""
    return [
        SettingDifference(name, value_text(first), value_text(second))
        for name, first, second in differences(baseline.config, candidate.config)
    ]


def odd_ones_out(runs: Sequence[RunData], arm: str) -> list[str]:
    """A note for each run of an arm that differs from the arm's first in more than its seed."""
    notes = []
    for run in runs[1:]:
        names = [found.name for found in setting_differences(runs[0], run) if found.name not in OF_A_SEED]
        if names:
            notes.append(f"the {arm} runs {runs[0].path} and {run.path} differ in {', '.join(names)}")
    return notes


def unlike_data(runs: Sequence[RunData]) -> list[str]:
    """A note when the runs were not trained on the same records, from the same teacher, or through the same encoder."""
    words = {
        "data": "were trained on different records",
        "teacher": "were taught by different teachers",
        "tokenizer": "have different tokenizers",
        "encoder": "looked through different encoders",
    }
    found: dict[str, set[object]] = {name: set() for name in words}
    for run in runs:
        known = {**run.facts("fingerprints"), "encoder": run.facts("bank").get("encoder")}
        for name, values in found.items():
            # Not every arm looks through an encoder, nor is every run of a version that noted its tokenizer.
            if name in ("data", "teacher") or known.get(name) is not None:
                values.add(known.get(name))
    return [
        f"the runs {words[name]}: their {name} fingerprints differ" for name, values in found.items() if len(values) > 1
    ]


def unlike_pairs(baselines: Sequence[RunData], candidates: Sequence[RunData]) -> list[str]:
    """A note for each pair whose seeds differ, and for each run that is in several pairs."""
    notes = [
        f"{before.path} and {after.path} are a pair, and their seeds are {before.config.get('seed')} and "
        f"{after.config.get('seed')}: they did not see the records in the same order"
        for before, after in zip(baselines, candidates, strict=True)
        if before.config.get("seed") != after.config.get("seed")
    ]
    return notes + repeated(baselines, "pairs") + repeated(candidates, "pairs")


def repeated(runs: Sequence[RunData], where: str) -> list[str]:
    """A note for each run that is several of ``runs``: an interval over them says too much."""
    notes = []
    for run in runs:
        same = sum(run.is_same(other) for other in runs)
        if same > 1:
            notes.append(f"{run.path} is in {same} {where}: the interval over them takes them for independent")
    return list(dict.fromkeys(notes))


def provenance(run: RunData) -> dict[str, str]:
    """The facts of a run that say where its numbers come from, by name."""
    made_by, hardware = run.facts("distillctl"), run.facts("hardware")
    libraries, training = run.facts("libraries"), run.facts("training")
    facts: dict[str, Any] = {
        "status": run.record["status"],
        "distillctl": made_by["version"],
        "commit": _commit(made_by),
        "seed": run.facts("seeds").get("seed"),
        **{f"{name} fingerprint": _short(run.facts("fingerprints").get(name)) for name in _FINGERPRINTS},
        "corpus": run.facts("corpus").get("identity"),
        "optimizer steps": _counted(training.get("steps")),
        "training examples": _counted(training.get("examples")),
        "training seconds": _counted(run.facts("seconds").get("training")),
        "decoding": ", ".join(f"{name} {value_text(value)}" for name, value in run.decoding.items()),
        "metric version": run.metric_version,
        "hardware": ", ".join(
            str(hardware[name]) for name in ("processor", "accelerator") if hardware.get(name) is not None
        ),
        "cores": hardware.get("cores"),
        **{name: libraries.get(name) for name in ("python", "torch", "transformers", "sacrebleu")},
    }
    return {name: value_text(value) for name, value in facts.items()}


def _commit(made_by: Mapping[str, Any]) -> str:
    commit = _short(made_by.get("commit")) or "installed package"
    return f"{commit} with local changes" if made_by.get("dirty") else commit


def _short(digest: str | None) -> str | None:
    return digest[:_HEX] if digest else None


def _counted(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f}"
