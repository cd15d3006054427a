"""What reading a test file gives, whatever its language: tests, their assertions, and the calls they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Assertion:
    """One assertion statement: where it stands in its test's text (UTF-8 bytes), and as one logical line.

    ``line`` is None where that cannot be (a multi-line string inside): such an assertion stays visible.
    """

    start: int
    end: int
    line: str | None


class Call(NamedTuple):
    """A call in a test: the byte offset of its end, and what is called.

    ``arguments`` and ``receiver`` are known of Java alone: how many there are, and the name that it is called on (of
    ``a.b.c()`` it is ``b``, of ``new C()`` it is ``new``, ``?`` for another expression).
    """

    end: int
    name: str
    arguments: int = 0
    receiver: str = ""


@dataclass(frozen=True, slots=True)
class FoundTest:
    """A test function as written, dedented, with its assertions in order of appearance.

    Dedenting shifts the text of a multi-line string along, as an editor shows it; lines that do not start
    with the function's indent stay as they are.
    """

    qualified_name: str
    text: str
    assertions: tuple[Assertion, ...]
    # By where calls end: about the order in which they run.
    calls: tuple[Call, ...]
    line: int  # where its text starts in the file, from 1
    indent: bytes  # what dedenting took away

    def masked(self, chosen: Sequence[int], mask: str) -> str:
        """The test with the chosen assertions replaced, the i-th of them by ``mask.format(i)``."""
        raw, parts, position = self.text.encode("utf-8"), [], 0
        for number, index in enumerate(chosen):
            assertion = self.assertions[index]
            parts += [raw[position : assertion.start], mask.format(number).encode()]
            position = assertion.end
        return b"".join([*parts, raw[position:]]).decode("utf-8")

    def calls_before(self, hidden: Sequence[int]) -> list[Call]:
        """The calls before the last hidden assertion that stay in the text.

        Hidden ones must not choose the focal method, or the input would tell about the target.
        """
        spans = [(self.assertions[index].start, self.assertions[index].end) for index in hidden]
        last_start = spans[-1][0]
        return [
            call
            for call in self.calls
            if call.end <= last_start and not any(start < call.end <= stop for start, stop in spans)
        ]


@dataclass(frozen=True, slots=True)
class FileTests:
    """The tests of a file with an assertion to mask, and what could not be read.

    Attributes:
        tests: in order.
        broken: whether the file has a syntax error. A Python file has no tests then.
        tests_left_out: Java test methods with a syntax error inside.
    """

    tests: tuple[FoundTest, ...] = ()
    broken: bool = False
    tests_left_out: int = 0


def dedent(lines: Sequence[bytes], indent: bytes) -> tuple[bytes, list[tuple[int, int]]]:
    """Joined lines without the common indent, and per line (its byte offset, bytes removed)."""
    kept, starts, position = [], [], 0
    for line in lines:
        removed = len(indent) if line.startswith(indent) else 0
        kept.append(line[removed:])
        starts.append((position, removed))
        position += len(kept[-1]) + 1
    return b"\n".join(kept), starts


def with_line_feeds(source: str) -> str:
    """A file's text without byte order mark, every line end a line feed: as parsers count lines."""
    return source.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
