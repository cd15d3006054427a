"""Whatever bytes a reader is given, it returns a result or raises a DistillError with a message. Nothing else.

The configuration's reader has the same tests beside it (tests/core/config/test_any_input.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distillctl.core.data.records import read_jsonl
from distillctl.core.encoder.stored import BankDirectory, BankIdentity
from distillctl.core.errors import DistillError
from distillctl.core.evaluation.prediction_store import PredictionStore
from distillctl.core.run_dir import RunDirectory, read_json, read_step_metrics
from distillctl.core.run_dir.manifest import check_sealed
from distillctl.core.run_dir.step_log import cut_after
from distillctl.core.run_dir.step_table import read_step_table
from distillctl.core.store.reader import ShardReader
from distillctl.core.teacher.cache_format import CacheDirectory, Identity
from distillctl.core.teacher.cached import CacheReader
from distillctl.core.training.checkpoints import read_checkpoint

BOUNDED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
IDENTITY = Identity("t" * 64, "k" * 64, 400, 64, 20, 16, 1.0)


def read_cache(folder: Path) -> None:
    cache = CacheDirectory(folder, IDENTITY)
    cache.check_files()
    CacheReader(cache)


def read_bank(folder: Path) -> None:
    bank = BankDirectory(folder, BankIdentity("e" * 64, "t" * 64, "k" * 64, 16, 20, "float32"))
    bank.check_files()
    ShardReader(bank)


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "records": ("any.jsonl", read_jsonl),
    "step metrics": ("any.csv", read_step_metrics),
    "step table": ("any.csv", read_step_table),
    "step metrics, cut": ("any.csv", lambda path: cut_after(path, 3)),
    "teacher cache": ("cache.json", lambda path: read_cache(path.parent)),
    "embedding bank": ("cache.json", lambda path: read_bank(path.parent)),
    "JSON": ("run.json", read_json),
    "run": ("run.json", lambda path: RunDirectory.open(path.parent).changed_files()),
    "config of a run": ("config.yaml", lambda path: RunDirectory(path.parent).config()),
    "predictions": ("predictions.jsonl", lambda path: RunDirectory(path.parents[2]).predictions("dev")),
    "prediction store": ("store.jsonl", PredictionStore),
    "manifest": ("manifest.json", lambda path: check_sealed(path.parent)),
    "checkpoint": ("manifest.json", lambda path: read_checkpoint(path.parent)),
}
LIKELY = st.text(alphabet='{}[]:,"\\\n 0123456789.eE-+_step,lossabcidnaninf\u2028\x00', max_size=80).map(
    lambda text: text.encode("utf-8", "surrogatepass")
)


@pytest.mark.parametrize("reader", READERS)
@BOUNDED
@given(content=st.binary(max_size=120) | LIKELY | st.binary(max_size=20).map(lambda tail: b"step,a\n1,2\n" + tail))
def test_any_bytes_give_a_result_or_a_clear_error(reader: str, content: bytes, tmp_path: Path) -> None:
    name, read = READERS[reader]
    folder = tmp_path / "evaluation/dev"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    try:
        read(folder / name)
    except DistillError as error:
        assert str(error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(["id", "language", "project", "path", "focal_method", "test_method_masked", "assertions"])


@BOUNDED
@given(values=st.dictionaries(FIELDS | st.text(max_size=5), JSON, max_size=8))
def test_any_json_object_is_a_record_or_a_clear_error(values: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "any.jsonl"
    good = {"id": "a", "language": "python", "project": "p", "path": "f", "focal_method": "", "assertions": ["x"]}
    path.write_text(json.dumps(good | {"test_method_masked": "<extra_id_0>"} | values), encoding="utf-8")
    try:
        assert read_jsonl(path).records
    except DistillError as error:
        assert "any.jsonl" in str(error)


SHARDS = st.fixed_dictionaries(
    {"name": JSON, "tokens": JSON, "examples": JSON, "rows_sha256": JSON, "index_sha256": JSON}
)


@BOUNDED
@given(values=st.fixed_dictionaries({"identity": JSON, "facts": JSON, "shards": JSON | st.lists(SHARDS, max_size=2)}))
def test_a_cache_that_vouches_for_nonsense_is_refused(values: dict[str, Any], tmp_path: Path) -> None:
    """Its own checksum is right: somebody made it on purpose."""
    from distillctl.core.store import shards

    try:
        content = values | {"sha256": shards._sha256(shards._canonical(values))}
        (tmp_path / "cache.json").write_text(json.dumps(content))
    except ValueError:  # a NaN has no place in a manifest, not even a forged one
        return
    with pytest.raises(DistillError):
        read_cache(tmp_path)
