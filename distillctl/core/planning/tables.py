"""A plan's tables, as the console shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distillctl.core.analysis.document import Cell, Table, Tone
from distillctl.core.data.encoding import Encoded
from distillctl.core.planning.duration import Phase
from distillctl.core.planning.lengths import Lengths
from distillctl.core.planning.memory import Memory
from distillctl.core.planning.sources import Source
from distillctl.core.planning.throughput import Throughput

_GIB = 2**30


def token_table(parts: Mapping[str, Encoded], counted_by: str) -> Table:
    """Records, tokens and what was cut, a column for each split. ``counted_by`` names the tokenizer."""
    rows = [[Cell("records"), *(Cell(f"{len(part.examples):,}") for part in parts.values())]]
    for side in ("source", "target"):
        found = [Lengths.of(_sequences(part, side)) for part in parts.values()]
        rows.append([Cell(f"{side} tokens"), *(Cell(f"{lengths.total:,}") for lengths in found)])
        rows.append([Cell(f"{side}, mean"), *(Cell(f"{lengths.mean:.1f}") for lengths in found)])
        rows.append([Cell(f"{side}, longest"), *(Cell(f"{lengths.longest:,}") for lengths in found)])
        rows.append([Cell(f"{side}s cut"), *(Cell(_cut(part, side)) for part in parts.values())])
    rows.append([Cell("dropped"), *(Cell(f"{part.dropped:,}") for part in parts.values())])
    caption = f"counted by {counted_by}; cut: longer than the limit, and shortened to it"
    return Table(["", *parts], rows, numbers=len(parts), caption=caption)


def _sequences(part: Encoded, side: str) -> list[tuple[int, ...]]:
    return [example.input_ids if side == "source" else example.labels for example in part.examples]


def _cut(part: Encoded, side: str) -> str:
    cut = part.inputs_truncated if side == "source" else part.targets_truncated
    return f"{cut:,} ({100 * cut / max(1, len(part.examples)):.1f} %)"


def source_table(sources: Mapping[str, Source], parameters: Mapping[str, int]) -> Table:
    """Models, where they are, and what a training would download."""
    rows = []
    for role, source in sources.items():
        size = "?" if source.to_fetch is None else f"{source.to_fetch / 1e9:.2f} GB" if source.to_fetch else "nothing"
        count = f"{parameters[role]:,}" if role in parameters else "?"
        tone: Tone = "bad" if source.place == "out of reach" else "unsure" if not source.is_here else "plain"
        rows.append([Cell(role), Cell(source.name), Cell(source.place, tone), Cell(count), Cell(size)])
    known = [source.to_fetch for source in sources.values()]
    total = sum(size or 0 for size in known)
    more = " and what is not known" if None in known else ""
    caption = f"{total / 1e9:.2f} GB to download{more}; this dry run fetched no weights" if total or more else ""
    return Table(["", "name", "where", "parameters", "to download"], rows, numbers=2, caption=caption)


def memory_table(
    with_recompute: Memory, without: Memory, process: tuple[str, int], chosen: bool, caption: str
) -> Table:
    """Both settings of gradient checkpointing beside each other; ``chosen`` says which one is configured."""
    rows = [
        [Cell(name), Cell(_gib(size)), Cell(_gib(other))]
        for (name, size), other in zip(
            [*with_recompute.kept.items(), *with_recompute.passing.items()],
            [*without.kept.values(), *without.passing.values()],
            strict=True,
        )
    ]
    name, size = process
    rows.append([Cell(name), Cell(_gib(size)), Cell(_gib(size))])
    rows.append([Cell("at most, about"), Cell(_gib(with_recompute.peak + size)), Cell(_gib(without.peak + size))])
    marks = [" (chosen)" if chosen else "", "" if chosen else " (chosen)"]
    columns = ["GiB", f"recomputing{marks[0]}", f"without{marks[1]}"]
    return Table(columns, rows, numbers=2, caption=caption)


def time_table(found: Sequence[Phase], here: Throughput, elsewhere: Mapping[str, Throughput], caption: str) -> Table:
    """Phases, what they compute, and how long that takes here; below all phases together, and on other machines."""
    rows = [
        [
            Cell(phase.kind),
            Cell(phase.what),
            Cell(_operations(phase.flops)),
            Cell(duration(phase.seconds(here))),
            Cell(span_text(*phase.span(here))),
        ]
        for phase in found
    ]
    rows.append(_whole("all of it", here.where, found, here))
    rows += [_whole("the same", name, found, speed) for name, speed in elsewhere.items()]
    return Table(["", "", "operations", "about", "from - to"], rows, numbers=3, caption=caption)


def _whole(name: str, where: str, found: Sequence[Phase], speed: Throughput) -> list[Cell]:
    spans = [phase.span(speed) for phase in found]
    about = duration(sum(phase.seconds(speed) for phase in found))
    span = span_text(sum(low for low, _ in spans), sum(high for _, high in spans))
    return [Cell(name), Cell(where), Cell(_operations(sum(phase.flops for phase in found))), Cell(about), Cell(span)]


def _gib(size: int) -> str:
    return f"{size / _GIB:.2f}"


def _operations(count: float) -> str:
    """Floating-point operations with a prefix."""
    for prefix, scale in (("E", 1e18), ("P", 1e15), ("T", 1e12)):
        if count >= scale:
            return f"{count / scale:,.1f} {prefix}FLOP"
    return f"{count / 1e9:,.1f} GFLOP"


def duration(seconds: float) -> str:
    """Seconds in the largest unit that leaves a number worth reading."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def span_text(low: float, high: float) -> str:
    """Two durations."""
    return f"{duration(low)} - {duration(high)}"
