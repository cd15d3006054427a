"""From configuration to an open, checked, complete teacher cache."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from distillctl.core.config.schema import Config
from distillctl.core.data.encoding import Example
from distillctl.core.models.loading import weights_fingerprint
from distillctl.core.processes import ALONE, Processes
from distillctl.core.progress import Reporter
from distillctl.core.store.completion import Wanted, complete
from distillctl.core.teacher.cache_format import CacheDirectory, Identity, asked_top_k, cache_identity, cache_path
from distillctl.core.teacher.cached import CachedTeacher, CacheReader
from distillctl.core.teacher.capture import Autocast, verify_sample
from distillctl.core.teacher.capture import capture as capture_examples
from distillctl.core.teacher.choice import Fidelity, FidelityProbe, choose_top_k
from distillctl.core.teacher.live import LiveTeacher


class CacheOpener:
    """Finds, completes, checks and opens the cache of one run.

    Args:
        config: ``teacher``, ``data`` lengths, the temperature, the precision.
        live: the teacher, on the device that should do the work.
        student: as it is before the first step, on the same device: k is chosen by its gradient.
        tokenizer: of the examples.
        vocabulary: leading ids that the two models share.
        examples: of the run.
        autocast: the precision of the teacher.
        processes: that open it together, and capture a part each.
    """

    def __init__(
        self,
        config: Config,
        live: LiveTeacher,
        student: Any,
        tokenizer: Any,
        vocabulary: int,
        examples: Sequence[Example],
        autocast: Autocast = nullcontext,
        processes: Processes = ALONE,
    ) -> None:
        self._config, self._live, self._student, self._tokenizer = config, live, student, tokenizer
        self._vocabulary, self._examples, self._autocast = vocabulary, examples, autocast
        self._processes = processes
        self._precision = "bf16" if config.training.bf16 is True else "float32"

    @cached_property
    def fidelity(self) -> Fidelity | None:
        """What the k in use keeps of the gradient, k chosen by it where none is given; None where all ids are kept.

        Raises DataError for a k that is too large, or where every one would be.
        """
        width = self._vocabulary
        asked = asked_top_k(self._config, width)
        if asked == width:
            return None
        # Measured once for all processes, which need one cache: rounding differs from one card to another.
        measured = self._processes.share(lambda: asdict(self._measure(asked, width)))
        return Fidelity(**measured)

    def _measure(self, asked: int | None, width: int) -> Fidelity:
        jsd = self._config.objective.jsd
        probe = FidelityProbe(self._student, self._live, self._examples, width, jsd.temperature, jsd.mixture)
        return choose_top_k(width, probe.measure) if asked is None else probe.measure(asked)

    @cached_property
    def identity(self) -> Identity:
        """What the cache has to be made of."""
        top_k = self._vocabulary if self.fidelity is None else self.fidelity.top_k
        teacher = weights_fingerprint(self._live.model)
        return cache_identity(self._config, teacher, self._tokenizer, self._vocabulary, top_k)

    @property
    def path(self) -> Path:
        """``teacher.cache_dir``, else a directory of the user's cache that the identity names."""
        return cache_path(self._config, self.identity)

    def missing(self) -> list[Example]:
        """The examples that the teacher has to be run on first."""
        return CacheReader(CacheDirectory(self.path, self.identity)).missing(self._examples)

    def outlook(self) -> str:
        """One line: what is there, and what a training would capture first. Writes nothing."""
        cache, missing = CacheDirectory(self.path, self.identity), self.missing()
        size = cache.bytes_of(sum(len(example.labels) for example in missing), len(missing)) / 2**20
        return f"k={self.identity.top_k}; {len(missing):,} examples to capture first, {size:,.1f} MiB"

    def open(self, reporter: Reporter, *, capture: bool = True) -> tuple[CachedTeacher, dict[str, Any]]:
        """The teacher that reads the cache, and facts about it.

        Args:
            reporter: hears what k costs, and of long work.
            capture: run the teacher on the examples that are missing; False refuses an incomplete cache.

        Raises:
            UsageError: ``capture`` is off and there is no cache.
            DataError: it is damaged, of something else, incomplete, or not what the live teacher says.
            RunError: it cannot be written.
        """
        with reporter.task("measuring what the cache has to keep"):
            fidelity = self.fidelity
        if fidelity is not None:
            reporter.note(f"teacher cache, {fidelity}")
        cache = CacheDirectory(self.path, self.identity)

        def add(missing: list[Example]) -> None:
            precisions = {"precisions": sorted({self._precision, *cache.facts.get("precisions", ())})}
            with reporter.task(f"capturing the teacher{self._processes.part()}", len(missing)) as task:
                capture_examples(cache, self._live, missing, precisions, self._autocast, task.update)

        wanted = Wanted(self._examples, Example.digest, lambda example: len(example.labels))
        complete(cache, wanted, add if capture else None, reporter, self._processes)
        cached = CachedTeacher(cache)
        difference = verify_sample(cached, self._live, self._examples, self._autocast, self._precision)
        facts = self._facts(cache, difference)
        reporter.note(
            f"teacher cache {self.path}: {cache.tokens:,} target tokens at {facts['bytes_per_token']:.1f} bytes, "
            f"{cache.nbytes / 2**20:,.1f} MiB"
        )
        return cached, facts

    def _facts(self, cache: CacheDirectory, difference: float) -> dict[str, Any]:
        """What a cache holds and costs: for run.json and for the eye."""
        fidelity = self.fidelity
        return {
            **cache.holdings(", ".join(cache.facts["precisions"])),
            "gradient_cosine": None if fidelity is None else fidelity.cosine,
            "tail_mass": None if fidelity is None else fidelity.tail_mass,
            "tail_bound": None if fidelity is None else fidelity.bound,
            "fidelity_tokens": None if fidelity is None else fidelity.tokens,
            "difference_from_live": difference,
        }
