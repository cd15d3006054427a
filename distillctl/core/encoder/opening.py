"""From configuration to an open, checked, complete embedding bank."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from distillctl.core.data.corpus import cache_directory
from distillctl.core.data.encoding import Example, ids_digest
from distillctl.core.encoder.bank import DistinctGolds, EmbeddingBank, Labels, mean_of
from distillctl.core.encoder.frozen import FrozenEncoder
from distillctl.core.encoder.stored import BankDirectory, BankIdentity, StoredStates, capture_golds, verify_golds
from distillctl.core.processes import ALONE, Processes
from distillctl.core.progress import Reporter
from distillctl.core.store.completion import Wanted, complete
from distillctl.core.store.reader import ShardReader


class BankOpener:
    """Finds, completes, checks and opens the bank of one run.

    Args:
        chosen: ``encoder.cache_dir``; None is a directory of the user's cache that the identity names.
        identity: what the bank has to be made of.
        encoder: on the device that should do the work.
        examples: of the run.
        processes: that open it together, and encode a part each.
    """

    def __init__(
        self,
        chosen: str | None,
        identity: BankIdentity,
        encoder: FrozenEncoder,
        examples: Sequence[Example],
        processes: Processes = ALONE,
    ) -> None:
        self.path = Path(chosen) if chosen else cache_directory() / "banks" / identity.name
        self.identity, self._encoder, self._examples = identity, encoder, examples
        self._processes = processes

    @cached_property
    def _golds(self) -> DistinctGolds:
        return DistinctGolds.of((example.key, example.labels) for example in self._examples)

    def missing(self) -> list[Labels]:
        """The golds that the encoder has to read first."""
        return ShardReader(BankDirectory(self.path, self.identity)).missing(self._golds.labels, ids_digest)

    def outlook(self) -> str:
        """One line: what a training would encode first. Writes nothing."""
        bank, missing = BankDirectory(self.path, self.identity), self.missing()
        size = bank.bytes_of(sum(map(len, missing)), len(missing)) / 2**20
        return f"{len(missing):,} of {len(self._golds.labels):,} golds to encode first, {size:,.1f} MiB"

    def open(self, reporter: Reporter, *, capture: bool = True) -> tuple[EmbeddingBank, dict[str, Any]]:
        """The bank, and facts about it.

        Args:
            reporter: hears of long work.
            capture: encode the golds that are missing; False refuses an incomplete bank.

        Raises:
            UsageError: ``capture`` is off and there is no bank.
            DataError: it is damaged, of something else, incomplete, or not what the encoder says.
            RunError: it cannot be written, or a state does not fit in fp16.
        """
        bank, golds = BankDirectory(self.path, self.identity), self._golds

        def add(missing: list[Labels]) -> None:
            with reporter.task(f"encoding the golds{self._processes.part()}", len(missing)) as task:
                capture_golds(bank, self._encoder, missing, task.update)

        wanted = Wanted(golds.labels, ids_digest, len)
        reader = complete(bank, wanted, add if capture else None, reporter, self._processes)
        states = StoredStates(reader, golds.labels)
        difference = verify_golds(bank, states, self._encoder, golds.labels)
        with reporter.task("averaging the golds", len(golds.labels)) as task:
            mean_state = mean_of(states, golds.uses, task.update)
        facts = self._facts(bank, golds, difference)
        reporter.note(
            f"embedding bank {self.path}: {bank.tokens:,} tokens of {bank.examples:,} golds at "
            f"{facts['bytes_per_token']:,.1f} bytes, {bank.nbytes / 2**20:,.1f} MiB"
        )
        return EmbeddingBank(golds.numbers, states, mean_state), facts

    def _facts(self, bank: BankDirectory, golds: DistinctGolds, difference: float) -> dict[str, Any]:
        """What a bank holds and costs: for run.json and for the eye."""
        return {
            "directory": str(self.path),
            "encoder": self.identity.encoder,
            "table": self.identity.table,
            "width": self.identity.width,
            "precision": self.identity.precision,
            "examples": len(golds.numbers),
            "golds": len(golds.labels),
            "stored_golds": bank.examples,
            "stored_tokens": bank.tokens,
            "shards": len(bank.shards),
            "bytes": bank.nbytes,
            "bytes_per_token": bank.nbytes / bank.tokens,
            "difference_from_live": difference,
        }
