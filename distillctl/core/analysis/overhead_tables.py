"""The tables of a cost measurement, made from overhead.json alone: profile-overhead shows them all, report two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from distillctl.core.analysis.document import Cell, Table, Tone
from distillctl.core.analysis.figures import digits_text
from distillctl.core.analysis.overhead import read_ratio
from distillctl.core.analysis.overhead_record import (
    BASELINE,
    CANDIDATE,
    CANDIDATE_CACHED,
    CANDIDATE_LIVE,
    CROSS_ENTROPY,
)

MIB = 2**20
OVER_CROSS_ENTROPY, OVER_LIVE, OVER_BASELINE = 1.10, 0.55, 1.02
LOADER, LOGGING_SHARE, BYTES_PER_TOKEN = 1.01, 0.01, 270


def ratios_table(record: Mapping[str, Any], where: str) -> Table:
    """How many times as long each arm's step takes as another's. Raises DataError naming ``where`` if damaged."""
    rows = [_ratio_row(f"{found['arm']} / {found['to']}", found, where) for found in record["ratios"]]
    settings = record["settings"]
    caption = (
        f"Median of {record['ratio']['blocks']} blocks of two steps, one in each order, with its bootstrap interval. "
        f"Shape {settings['shape']}, batch {settings['batch_size']}, {settings['teacher_mode']} teacher, dropout 0, "
        "the same batches in every arm."
    )
    return Table(["step times", "whole step", "without optimizer"], rows, numbers=2, caption=caption)


def terms_table(record: Mapping[str, Any], where: str) -> Table | None:
    """What the candidate's step costs more than itself without a term; None where that was not measured."""
    if not record["terms"]:
        return None
    rows = [_ratio_row(found["to"].removeprefix(f"{CANDIDATE} "), found, where) for found in record["terms"]]
    caption = (
        "Candidate / candidate without. Two terms that share the encoder's pass each cost little alone: only without "
        "both is the pass saved."
    )
    return Table(["with / without", "whole step", "without optimizer"], rows, numbers=2, caption=caption)


def _ratio_row(title: str, found: Mapping[str, Any], where: str) -> list[Cell]:
    return [Cell(title), *(Cell(str(read_ratio(found[kind], where))) for kind in ("whole_step", "without_optimizer"))]


def arms_table(record: Mapping[str, Any]) -> Table:
    """Seconds, speed and memory of each arm."""
    rows = []
    for name, arm in record["arms"].items():
        memory = record["memory"][name]
        rows.append(
            [
                Cell(name),
                Cell(milliseconds(arm["seconds"])),
                Cell(digits_text(arm["tokens_per_second"])),
                Cell(digits_text((memory["kept"] + memory["step"]) / MIB)),
                Cell(digits_text(memory["step"] / MIB)),
            ]
        )
    columns = ["arm", "step, ms", "target tokens/s", "peak memory, MiB", "of it in the step"]
    return Table(columns, rows, numbers=4, caption="Medians. Memory by allocation, each arm as if it were alone.")


def parts_table(record: Mapping[str, Any]) -> Table:
    """Where the time goes: milliseconds of each part in each arm."""
    arms = record["arms"]
    names = dict.fromkeys(part for arm in arms.values() for part in arm["parts"])
    rows = [
        [
            Cell(part),
            *(Cell(milliseconds(arm["parts"][part]) if part in arm["parts"] else "-") for arm in arms.values()),
        ]
        for part in sorted(names, key=lambda part: -max(arm["parts"].get(part, 0.0) for arm in arms.values()))
    ]
    return Table(["ms", *arms], rows, numbers=len(arms), caption="The median step, divided as all steps together were.")


def milliseconds(seconds: float) -> str:
    """Three digits."""
    return digits_text(1000 * seconds)


def asked_table(record: Mapping[str, Any], where: str) -> Table:
    """What was asked for, beside what was measured; ratios of steps without the optimizer."""
    rows = [*_step_rows(record, where), *_loader_rows(record, where), *_logging_rows(record), *_cache_rows(record)]
    return Table(["without optimizer, dropout 0", "floor", "to reach", "measured"], rows, numbers=3)


def _step_rows(record: Mapping[str, Any], where: str) -> Iterator[list[Cell]]:
    shape = record["settings"]["shape"]
    by_pair = {(found["arm"], found["to"]): found for found in record["ratios"]}
    cached = CANDIDATE_CACHED if (CANDIDATE_CACHED, CANDIDATE) in by_pair else CANDIDATE
    live = CANDIDATE if cached == CANDIDATE_CACHED else CANDIDATE_LIVE
    asked = [
        ((CANDIDATE, BASELINE), "candidate / baseline", 1.00, OVER_BASELINE),
        ((cached, CROSS_ENTROPY), "candidate cached / cross-entropy", 1.07, OVER_CROSS_ENTROPY),
        ((cached, live), "candidate cached / live", 0.48, OVER_LIVE),
    ]
    for pair, title, floor, target in asked if (cached, live) in by_pair else asked[:1]:
        ratio = read_ratio(by_pair[pair]["without_optimizer"], where)
        yield _row(f"{title}, {shape}", f"{floor:.2f}", f"<= {target:.2f}", str(ratio), ratio.median <= target)


def _loader_rows(record: Mapping[str, Any], where: str) -> Iterator[list[Cell]]:
    titles = {"whole_step": "step with / without reading the cache", "alone": "loader alone with / without"}
    for kind, title in titles.items() if record["loader"] is not None else ():
        ratio = read_ratio(record["loader"][kind], where)
        yield _row(title, "1.00", f"<= {LOADER}", str(ratio), ratio.median <= LOADER)


def _logging_rows(record: Mapping[str, Any]) -> Iterator[list[Cell]]:
    found = record["logging"]
    yield _row("share of the step for the log", "-", "<= 1 %", f"{found['share']:.2%}", found["share"] <= LOGGING_SHARE)
    if "measuring_share" in found:
        title = f"share for measuring gradients, every {found['gradient_steps']} steps"
        yield [Cell(title), Cell("-"), Cell("-"), Cell(f"{found['measuring_share']:.2%}")]


def _cache_rows(record: Mapping[str, Any]) -> Iterator[list[Cell]]:
    """Two bytes for an id, two for its logit, and two numbers of four: 264 with 64 ids, of which 270 were asked for."""
    found = record["cache"]
    if found is not None:
        size, floor = found["bytes_per_token"], 4 * found["top_k"] + 8
        target = floor * BYTES_PER_TOKEN / 264
        title = f"cache bytes per target token, k = {found['top_k']}"
        yield _row(title, str(floor), f"<= {target:.0f}", f"{size:.1f}", size <= target)


def _row(title: str, floor: str, target: str, measured: str, reached: bool) -> list[Cell]:
    tone: Tone = "good" if reached else "bad"
    return [Cell(title), Cell(floor), Cell(target), Cell(measured, tone)]


def payback_text(record: Mapping[str, Any]) -> str:
    """What capturing the teacher cost, and when that has been saved again; empty without a cache."""
    found = record["cache"]
    if found is None:
        return ""
    text = (
        f"Teacher cache: {found['capture_seconds']:.1f} s for {found['examples']:,} examples "
        f"({1000 * found['capture_seconds_per_example']:.1f} ms each), and {found['opening_seconds']:.1f} s once, to "
        "choose k and to compare a sample with the live teacher. "
    )
    epochs = found["paid_back_after_epochs"]
    if epochs is None:
        return text + "It saves nothing: a step is no faster with it than with the live teacher."
    return text + f"Capturing is paid back after {epochs:.2f} epochs."
