"""The report: what is shown of a comparison, and in which order."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from distillctl.core.analysis.acceptance import decisive_overhead
from distillctl.core.analysis.comparison import Comparison
from distillctl.core.analysis.criterion import Criterion, criteria_table
from distillctl.core.analysis.differing import DifferingSample, DifferingSamples, differing_samples
from distillctl.core.analysis.document import (
    Block,
    Bullets,
    Code,
    Details,
    Document,
    Heading,
    Notice,
    Paragraph,
    Picture,
)
from distillctl.core.analysis.executions import execution_blocks
from distillctl.core.analysis.overhead_tables import ratios_table, terms_table
from distillctl.core.analysis.settings import odd_ones_out, repeated, unlike_data, unlike_pairs
from distillctl.core.analysis.summary import headline_tiles, summary
from distillctl.core.analysis.tables import (
    arms_by_seed_table,
    arms_table,
    before_after_table,
    beside_table,
    groups_table,
    other_settings_table,
    provenance_table,
    seeds_table,
    settings_table,
)
from distillctl.core.evaluation.significance import PERMUTATIONS, RESAMPLES

TITLE = "Loss-Improvements v0.1"
INPUT_SHOWN = 1_600
"""Characters of a model's input that are shown, around its first mask."""


def build_report(comparison: Comparison, criteria: Sequence[Criterion]) -> Document:
    """The whole report. It depends on the runs' contents and their paths as given, on nothing else."""
    mark = unfinished_mark(comparison)
    blocks: list[Block] = [
        Heading(TITLE, 1),
        *([Notice(mark)] if mark else []),
        Paragraph(summary(comparison, criteria)),
        headline_tiles(comparison, criteria),
        Heading("Acceptance"),
        criteria_table(criteria),
        Heading("Before and after"),
        before_after_table(comparison),
        Picture("differences.png", "Difference of each metric with its 95 % interval"),
        *_beside(comparison),
        *_arms(comparison),
        *execution_blocks(comparison),
        *_seeds(comparison),
        *_training(),
        *_cost(comparison),
        *_breakdown(comparison),
        *_differing(comparison),
        *_provenance(comparison),
    ]
    return Document(f"{TITLE}: candidate against baseline", blocks, mark)


def unfinished_mark(comparison: Comparison) -> str:
    """What must stand on every page when a run did not finish; empty otherwise."""
    runs = dict.fromkeys(f"{run.path} ({run.record['status']})" for run in comparison.unfinished)
    return f"UNFINISHED: {', '.join(runs)} did not come to the end of training" if runs else ""


def notes_of(comparison: Comparison) -> list[str]:
    """What a reader should know about the files and the runs, each once."""
    notes = [note for run in comparison.all_runs for note in run.notes]
    notes += unlike_data(comparison.all_runs) + unlike_pairs(comparison.baselines, comparison.candidates)
    notes += odd_ones_out(comparison.baselines, "baseline") + odd_ones_out(comparison.candidates, "candidate")
    for arm in comparison.others:
        notes += odd_ones_out(arm.runs, arm.name) + repeated(arm.runs, f"places of arm {arm.name}")
    return list(dict.fromkeys(notes))


def _beside(comparison: Comparison) -> Iterable[Block]:
    table = beside_table(comparison)
    if table is not None:
        yield Heading("Beside them", 3)
        yield table


def _arms(comparison: Comparison) -> Iterable[Block]:
    table = arms_table(comparison)
    if table is not None:
        yield Heading("All arms")
        yield table
        yield Picture("arms.png", "Difference of each arm from the baseline with its 95 % interval")
        by_seed = arms_by_seed_table(comparison)
        if by_seed is not None:
            yield Heading("Arms by seed", 3)
            yield by_seed
        for arm in comparison.others:
            yield Details(f"What {arm.name} sets otherwise than the baseline", [other_settings_table(arm)])


def _seeds(comparison: Comparison) -> Iterable[Block]:
    if len(comparison.by_pair) > 1:
        yield Heading("Seeds")
        yield seeds_table(comparison)


def _training() -> Iterable[Block]:
    yield Heading("Training")
    yield Paragraph(
        "Baseline left, candidate right, on the same axes. Bold lines are running medians; single steps stand faintly "
        "behind them and may leave the picture. Where an arm has several runs, thin lines are the other seeds."
    )
    yield Picture(
        "loss_scales.png",
        "Scaled loss of each term over the optimizer steps",
        "Scale times raw loss, before the weights. Balanced: focal, jsd and semantic all inside the grey band.",
    )
    yield Picture(
        "gradient_norms.png",
        "Gradient norm of each term over the optimizer steps",
        "Of the weighted term, at the student's logits, in the steps in which it is taken by itself. Equal losses are "
        "not equal gradients.",
    )
    yield Picture(
        "gradient_cosines.png",
        "Cosine between each two terms' gradients over the optimizer steps",
        "1: two terms pull the same way, 0: they do not touch each other, below 0: they fight.",
    )
    yield Picture("weights_and_scales.png", "Weight and scale of each term over the optimizer steps")
    yield Picture("step_time.png", "Seconds per optimizer step, computing and waiting for data")


def _cost(comparison: Comparison) -> Iterable[Block]:
    """What profile-overhead measured, where a run has it in its analysis/."""
    measured, others = decisive_overhead(comparison)
    if measured is None or measured.record is None:
        return
    record, where = measured.record, measured.source
    yield Heading("Cost")
    yield Paragraph(f"Measured by `profile-overhead` ({where}): {record.get('verdict', 'no verdict')}.")
    if others:
        yield Notice(f"The objective of the {' and the '.join(others)} that was measured is not that of the run.")
    yield ratios_table(record, where)
    terms = terms_table(record, where)
    if terms is not None:
        yield terms


def _breakdown(comparison: Comparison) -> Iterable[Block]:
    yield Heading("Where the difference is")
    yield Heading("By project", 3)
    yield groups_table(comparison, comparison.by_project, "project")
    yield Heading("By kind of assertion", 3)
    yield groups_table(comparison, comparison.by_kind, "kind")


def _differing(comparison: Comparison) -> Iterable[Block]:
    found = differing_samples(comparison.baselines[0], comparison.candidates[0])
    yield Heading("Where predictions differ")
    yield Paragraph(_differing_counts(found, several=len(comparison.by_pair) > 1))
    for words, samples in (("Gained", found.gained), ("Lost", found.lost)):
        if samples:
            yield Heading(
                f"{words}: {len(samples)} of {found.all_gained if words == 'Gained' else found.all_lost:,}", 3
            )
            yield from (_sample(sample) for sample in samples)


def _differing_counts(found: DifferingSamples, several: bool) -> str:
    which = " (first pair of runs)" if several else ""
    return (
        f"Of the samples{which}, {found.all_gained:,} are right only in the candidate, {found.all_lost:,} only in the "
        f"baseline, {found.both_right:,} in both, {found.both_wrong:,} in neither. Right means exactly the gold's "
        "assertions. Shown are some of each, spread over projects and kinds, near misses and short ones first."
    )


def _sample(sample: DifferingSample) -> Details:
    blocks: list[Block] = []
    if sample.input is not None:
        blocks.append(Code("input", around_mask(sample.input)))
    blocks.append(Code("gold", sample.gold))
    blocks.append(Code("baseline", sample.baseline))
    blocks.append(Code("candidate", sample.candidate))
    if sample.input is None:
        blocks.append(Paragraph(f"`{sample.path}`. The input was not stored with the predictions."))
    return Details(f"{sample.kind}: {sample.id}", blocks)


def around_mask(text: str) -> str:
    """The part of a long input around its first mask, saying how much was left out on either side."""
    if len(text) <= INPUT_SHOWN:
        return text
    start = max(0, min(text.find("<extra_id_0>") - INPUT_SHOWN * 2 // 3, len(text) - INPUT_SHOWN))
    end = start + INPUT_SHOWN
    before = f"[{start:,} characters left out]\n" if start else ""
    after = f"\n[{len(text) - end:,} characters left out]" if end < len(text) else ""
    return f"{before}{text[start:end]}{after}"


def _provenance(comparison: Comparison) -> Iterable[Block]:
    yield Heading("Settings that differ")
    settings = settings_table(comparison)
    yield settings if settings.rows else Paragraph("None: both arms have the same configuration.")
    notes = notes_of(comparison)
    if notes:
        yield Heading("Notes")
        yield Bullets(notes)
    yield Heading("Provenance")
    yield provenance_table(comparison)
    yield Heading("How it was computed")
    yield Bullets(
        [
            "Every figure is computed from `predictions.jsonl` and `step_metrics.csv` of the runs; nothing is copied "
            "from what the runs said about themselves, but seconds, provenance, how tests ended, and the scores of "
            "other systems beside them.",
            "F1 is micro-averaged over each sample's set of exact assertion lines; BLEU and chrF are sacrebleu's.",
            "The interval draws whole files with replacement, the same ones for both arms and all seeds (BCa, "
            f"{RESAMPLES:,} draws, fixed seed). It says what other files would have changed, not what another training "
            "would have.",
            f"p is the share of {PERMUTATIONS:,} random swaps of the two arms within whole files that give at least "
            "this difference.",
        ]
    )
    yield Code("Made by", command_line(comparison))


def command_line(comparison: Comparison) -> str:
    """The command that makes this report again."""
    words = ["distillctl", "report"]
    for baseline, candidate in zip(comparison.baselines, comparison.candidates, strict=True):
        words += ["--baseline", baseline.path, "--candidate", candidate.path]
    for arm in comparison.others:
        for run in arm.runs:
            words += ["--arm", f"{arm.name}={run.path}"]
    words += [] if comparison.split == "validation" else ["--split", comparison.split]
    words += ["--allow-unfinished"] if comparison.unfinished else []
    return shlex.join(words)
