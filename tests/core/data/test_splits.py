"""Splits stay where they are, have their sizes, and share no near-duplicate."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillctl.core.data.records import Record
from distillctl.core.data.splits import (
    SHINGLE,
    SPLITS,
    Split,
    crossing_duplicates,
    jaccard,
    normalised,
    shingles,
    split_of,
    split_records,
    unmasked,
)

# Files of project "p": the first four hex digits of sha256("p/<path>") over 65536, worked out with sha256sum.
TRAIN = "q/test_1.py"  # 3eae: 0.245
DEV = "q/test_3.py"  # d14d: 0.818
VALIDATION = "q/test_7.py"  # da86: 0.854
BODY = """def test_frame(tmp_path):
    frame = make_frame(tmp_path, columns=["a", "b"], rows=3)
    frame.sort(by="a").drop("b").reset()
    <extra_id_0>
    frame.close()
    frame.check_closed(strict=True, timeout=10)
"""


def record(path: str, masked: str = BODY, assertions: tuple[str, ...] = ("assert len(frame) == 3",)) -> Record:
    return Record(f"{path}::test_frame@0", "python", "p", path, "", masked, assertions)


@pytest.mark.parametrize(
    ("project", "path", "split"),
    [
        ("p", TRAIN, "train"),
        ("p", DEV, "dev"),
        ("p", VALIDATION, "validation"),
        ("p", "é.py", "validation"),  # fcb0: 0.987
        ("numpy", "numpy/tests/test_a.py", "train"),  # 58af: 0.346
    ],
)
def test_the_split_of_a_file_is_known_by_hand(project: str, path: str, split: Split) -> None:
    assert split_of(project, path) == split


def test_splits_are_80_3_17() -> None:
    sizes = Counter(split_of("project", f"tests/test_{number}.py") for number in range(20_000))
    assert sizes["train"] / 20_000 == pytest.approx(0.80, abs=0.01)
    assert sizes["dev"] / 20_000 == pytest.approx(0.03, abs=0.005)
    assert sizes["validation"] / 20_000 == pytest.approx(0.17, abs=0.01)


def test_a_copy_does_not_cross_a_split() -> None:
    rows = [record(VALIDATION), record(DEV), record(TRAIN)]
    splits, dropped = split_records(rows)
    assert splits == {"train": [rows[2]], "dev": [], "validation": []}
    assert dropped == 2


def test_validation_gives_way_to_dev_but_not_to_what_dev_lost() -> None:
    splits, dropped = split_records([record(DEV), record(VALIDATION)])
    assert [len(splits[split]) for split in SPLITS] == [0, 1, 0]
    assert dropped == 1
    names = [f"n{number}" for number in range(44)]
    end, both_ends = [*names[:-4], "x", *names[-3:]], [*names[:3], "x", *names[4:-4], "x", *names[-3:]]
    codes = [" ".join(words) for words in (names, end, both_ends)]
    assert [float(jaccard(shingles(codes[0]), shingles(code))) >= 0.8 for code in codes] == [
        True,
        True,
        False,
    ]
    assert jaccard(shingles(codes[1]), shingles(codes[2])) >= 0.8
    assert crossing_duplicates(codes, ["train", "dev", "validation"]) == [False, True, False]
    assert crossing_duplicates(codes[1:], ["dev", "validation"]) == [False, True]


def test_changed_constants_and_one_changed_name_make_no_new_test() -> None:
    near = BODY.replace("10", "99").replace('"a"', '"zzz"').replace("check_closed", "closed")
    assert split_records([record(TRAIN), record(VALIDATION, near)])[1] == 1
    other = "def test_other():\n    value = compute(1)\n    <extra_id_0>"
    assert split_records([record(TRAIN), record(VALIDATION, other)])[1] == 0


def test_near_is_four_fifths_of_the_runs_of_five_tokens() -> None:
    names = [f"n{number}" for number in range(44)]  # 40 runs of five
    one_changed = [*names[:-4], "x", *names[-3:]]  # four runs differ: 36 / 44 = 0.82
    assert float(jaccard(shingles(" ".join(names)), shingles(" ".join(one_changed)))) == pytest.approx(36 / 44)
    assert crossing_duplicates([" ".join(names), " ".join(one_changed)], ["train", "dev"]) == [False, True]
    in_the_middle = [*names[:20], "x", *names[21:]]  # five differ: 35 / 45 = 0.78
    assert crossing_duplicates([" ".join(names), " ".join(in_the_middle)], ["train", "dev"]) == [False, False]
    eight = [f"n{number}" for number in range(22)]  # 18 runs; the first 20 tokens have 16 of them
    exactly = [*eight[:20], "x", "y"]  # 16 / 20 = 0.8
    assert crossing_duplicates([" ".join(eight), " ".join(exactly)], ["train", "dev"]) == [False, True]


def test_records_of_one_test_stay_or_go_together() -> None:
    body = BODY.replace("<extra_id_0>", "{}\n    {}")
    first, second = "assert len(frame) == 3", "assert frame.columns == ['a'] and frame.rows == [1, 2, 3, 4]"

    def both(path: str) -> list[Record]:
        return [
            record(path, body.format("<extra_id_0>", second), (first,)),
            replace(record(path, body.format(first, "<extra_id_0>"), (second,)), id=f"{path}::test_frame@1"),
        ]

    splits, dropped = split_records([*both(VALIDATION), *both(TRAIN)])
    assert splits["train"] == both(TRAIN)
    assert dropped == 2
    assert split_records([*both(VALIDATION)]) == ({"train": [], "dev": [], "validation": both(VALIDATION)}, 0)


def test_ids_say_nothing_about_which_records_are_one_test() -> None:
    """A file with its own ids, all alike up to an @: each test is compared for itself."""
    other = "def test_other():\n    value = compute(1)\n    <extra_id_0>"
    rows = [
        replace(record(TRAIN), id="@Test#1"),
        replace(record(VALIDATION, other), id="@Test#2"),
        replace(record(VALIDATION), id="@Test#3"),
    ]
    splits, dropped = split_records(rows)
    assert splits["validation"] == [rows[1]]
    assert dropped == 1


def test_unmasking_puts_the_assertions_back() -> None:
    assert unmasked(record(TRAIN)) == BODY.replace("<extra_id_0>", "assert len(frame) == 3")
    two = ("assert '<extra_id_1>'", r"assert r'\1'")
    assert unmasked(record(TRAIN, "a <extra_id_0> b <extra_id_1>", two)) == f"a {two[0]} b {two[1]}"
    assert unmasked(record(TRAIN, "a <extra_id_0>", two)) == f"a {two[0]}\n{two[1]}"


def test_tokens_keep_names_and_level_constants() -> None:
    tokens = ("x1", "3.5e7", "f", "'a b'", '"a b"', "#")
    assert [normalised(token) for token in tokens] == ["x1", "0", "f", "''", "''", "#"]
    assert len(shingles("")) == 1
    assert np.array_equal(shingles("a b c"), shingles("a  b\nc"))
    one, other = "x1 == 3.5e7 and f('a b') # it's", 'x1 == 4 and f("c") # it\'s'
    assert np.array_equal(shingles(one), shingles(other))
    assert not np.array_equal(shingles(one), shingles(one.replace("x1", "x2")))


WORDS = st.lists(st.sampled_from(["a", "b", "cd", "1", "22", "'x'", "==", "("]), max_size=40)


@given(WORDS)
def test_shingles_are_the_distinct_runs_of_tokens(words: list[str]) -> None:
    tokens = [normalised(part) for word in words for part in (["=", "="] if word == "==" else [word])]
    runs = {tuple(tokens[i : i + SHINGLE]) for i in range(max(1, len(tokens) - SHINGLE + 1))}
    found = shingles(" ".join(words))
    assert len(found) == len(runs)
    assert (np.diff(found) > 0).all() and (found >= 0).all()


CODES = st.lists(st.sampled_from("abcdefgh"), max_size=16).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(CODES, st.sampled_from(SPLITS)), max_size=14))
def test_no_near_duplicate_crosses_a_split(tests: list[tuple[str, Split]]) -> None:
    """The same as comparing each test with every test that is kept in an earlier split."""
    codes, splits = [code for code, _ in tests], [split for _, split in tests]
    crosses = crossing_duplicates(codes, splits)
    features = [set(shingles(code).tolist()) for code in codes]

    def near(a: set[int], b: set[int]) -> bool:
        return 5 * len(a & b) >= 4 * len(a | b)

    for index, split in enumerate(splits):
        earlier = [
            other
            for other in range(len(tests))
            if SPLITS.index(splits[other]) < SPLITS.index(split) and not crosses[other]
        ]
        assert crosses[index] == any(near(features[index], features[other]) for other in earlier)


def test_boilerplate_hides_no_duplicate() -> None:
    """Hundreds of tests that share most of their text, and one among them that is copied."""
    common = " ".join(f"set{number} up{number}" for number in range(12))
    train = [f"{common} " + " ".join(f"only{number}_{word}" for word in range(12)) for number in range(300)]
    codes = [*train, train[250]]
    assert crossing_duplicates(codes, [*["train"] * 300, "validation"])[-1] is True
