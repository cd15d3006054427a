"""A changed test tells which of its assertions ran and which could fail: checked by running small functions here."""

from __future__ import annotations

import asyncio
import unittest
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest

from distillctl.core.execution.instrument import add_witnesses, code_of, parse
from distillctl.core.execution.witness import Opaque, Witness, other_values


def run(
    assertion: str, *, mutated: bool, before: str = "", header: str = "def test_it(self):", **names: Any
) -> Witness:
    """Runs a test of some lines with an assertion placed at its end."""
    lines = [header, *(f"    {line}" for line in before.splitlines()), *(f"    {x}" for x in assertion.splitlines())]
    first, last = len(before.splitlines()) + 2, len(lines)
    tree = parse("\n".join(lines) + "\n")
    witness = Witness(lambda error: isinstance(error, AssertionError))
    add_witnesses(tree, "test_it", [((first, 4), (last, len(lines[-1].encode())))], "__w__", mutated=mutated)
    space: dict[str, Any] = {"__w__": witness, **names}
    exec("def test_it(self): pass" if "async" not in header else "async def test_it(self): pass", space)
    space["test_it"].__code__ = code_of(tree, "test_it", 1, "test_it.py", 0)
    try:
        result = space["test_it"](unittest.TestCase())
        if result is not None:
            asyncio.run(result)
    except Exception:  # noqa: BLE001 - the witness has seen it
        pass
    return witness


def can_fail(assertion: str, **names: Any) -> bool:
    real = run(assertion, mutated=False, **names)
    assert real.ran, f"{assertion} should hold: {real.failures + real.errors}"
    return bool(run(assertion, mutated=True, **names).can_fail)


MEANINGFUL = [
    "assert x == 3",
    "assert 3 == x",
    "assert x",
    "assert not y",
    "assert x is not None",
    "assert y is None",
    "assert isinstance(x, int)",
    "assert not isinstance(x, str)",
    "assert len(text) == 3",
    "assert 'b' in text",
    "assert 'z' not in text",
    "assert x not in [4, 5]",
    "assert x != 4",
    "assert 2 < x < 4",
    "assert x == 3 and text",
    "assert all(c in text for c in 'abc')",
    "assert x == 3, 'no'",
    "self.assertEqual(x, 3)",
    "self.assertEqual(3, x)",
    "self.assertTrue(x == 3)",
    "self.assertIsNone(y)",
    "self.assertIn('a', text)",
    "self.assertRaises(ZeroDivisionError, divide, 1, 0)",
    "self.assertRaises(ValueError, int, text)",
    "self.assertRaises(TypeError, int, y)",
    "self.assertRaises(ZeroDivisionError, halved, 0)",
    "self.assertFalse(isinstance(x, str))",
    "self.assertFalse(hasattr(x, 'size'))",
    "mock.assert_called()",
    "mock.assert_any_call(1, 'a')",
    "mock.assert_called_once_with(1, 'a')",
    "assert not x == 4",
    "assert not (x in [4, 5])",
    "assert not text is y",
    "assert x != 4 and 4 != x",
    "assert not x == 4 or y",
    "self.assertNotEqual(x, 4)",
    "self.assertIsNot(text, y)",
    "self.assertNotIn(x, [4, 5])",
    "self.assertNotIn('z', text)",
    "self.assertNotEqual(first=x, second=40)",
    "self.assertNotIn(member=x, container=[40, 50])",
    "self.assertNotAlmostEqual(x, 40)",
    "self.assertFalse(expr=x == 40)",
    "self.assertTrue(x != 4)",
    "self.assertFalse(x == 4)",
    "self.assertFalse(not x == 3)",
    "with self.assertRaises(ZeroDivisionError): divide(1, 0)",
    "if x: assert text == 'abc'",
]
HOLLOW = [
    "assert not x != x",
    "self.assertFalse(isinstance(x, object) and False)",
    "assert x != x + 1",
    "self.assertFalse(x != x)",
    "assert x == x",
    "assert len(text) == len(text)",
    "assert isinstance(x, object)",
    "assert x == 3 or True",
    "self.assertEqual(text, text)",
]
EMPTY = [
    "assert True",
    "assert 1 == 1",
    "assert 'text'",
    "assert (1, 2)",
    "assert lambda: x",
    "self.assertTrue(True)",
    "x + 1",
    "pass",
    "assert len('abc') == 3",
    "assert not __import__('os').getpid() < 0",
]


def divide(a: float, b: float) -> float:
    return a / b


def names() -> dict[str, Any]:
    mock = Mock()
    mock(1, "a")
    return {"x": 3, "y": None, "text": "abc", "divide": divide, "halved": partial(divide, 1), "mock": mock}


@pytest.mark.parametrize("assertion", MEANINGFUL)
def test_a_meaningful_assertion_can_fail(assertion: str) -> None:
    assert can_fail(assertion, **names())


@pytest.mark.parametrize("assertion", HOLLOW)
def test_one_that_holds_whatever_the_value_cannot(assertion: str) -> None:
    assert not can_fail(assertion, **names())


@pytest.mark.parametrize("assertion", EMPTY)
def test_what_inspects_nothing_of_the_test_does_not_count_as_run(assertion: str) -> None:
    witness = run(assertion, mutated=False, **names())
    assert (witness.ended, witness.ran) == (1, set())


@pytest.mark.parametrize(
    ("assertion", "before"),
    [("assert x == 3", "return"), ("if False: assert x == 3", ""), ("def inner(): assert x == 4", "")],
)
def test_an_assertion_that_is_not_reached_is_not_run(assertion: str, before: str) -> None:
    witness = run(assertion, mutated=False, before=before, **names())
    assert (witness.started, witness.ended, witness.ran) == (1, 1, set())


def test_a_failure_and_an_error_are_told_apart() -> None:
    assert run("assert x == 4", mutated=False, **names()).failures == ["AssertionError"]
    assert run("assert nothing == 4", mutated=False).errors == ["NameError"]


def test_in_a_loop_one_execution_that_can_fail_is_enough() -> None:
    before = "for x in (True, 3):\n    pass"
    assert run("for z in (1, 2): assert z == z or x == 3", mutated=True, before=before, **names()).ended == 1
    assert run("for z in (1, 2): assert z in (1, 2)", mutated=True, **names()).can_fail == {0}


def test_an_awaited_value_is_replaced_too() -> None:
    async def three() -> int:
        return 3

    assert can_fail("assert await three() == 3", header="async def test_it(self):", three=three)


def test_arrays_and_frames_get_others_of_their_type() -> None:
    import numpy as np
    import pandas as pd

    for value in (np.arange(3), np.array([True]), pd.DataFrame({"a": [1]}), pd.Series(["a"]), 1.5, "a", b"a", [1], {1}):
        same = [other for other in other_values(value) if type(other) is type(value)]
        assert any(not np.array_equal(np.asarray(other, object), np.asarray(value, object)) for other in same)


def test_a_value_of_no_known_kind_gets_none_and_something_opaque() -> None:
    class Bare:
        def __init__(self, needed: int) -> None:
            pass

    others = other_values(Bare(1))
    assert others[0] is None
    assert isinstance(others[1], Opaque)


def test_the_compiler_refuses_what_cannot_stand_there() -> None:
    with pytest.raises(SyntaxError):
        run("assert await x", mutated=False)
