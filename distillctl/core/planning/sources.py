"""Where the models of a run lie: in the package, in directories, in the hub's local cache, or still in the hub.

Of a model that would be downloaded nothing but config.json (and the tokenizer's files, by whoever needs it) is fetched;
of one whose hub cannot be reached nothing, and its shape is known where it is one of the three of configs/codet5p.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from distillctl.core.config.schema import SHAPED_INITS, Config
from distillctl.core.models.hub import NETWORK_ERRORS, cached_file, hub_obstacle
from distillctl.core.models.loading import EMBEDDED, load_config, looks_local
from distillctl.core.profiling.codet5p import published_config
from distillctl.core.training.terms import ENCODER_TERMS

Place = Literal["package", "directory", "hub cache", "hub", "out of reach"]
PUBLISHED_BYTES = {
    "Salesforce/codet5p-770m": 1_476_000_000,
    "Salesforce/codet5p-220m": 446_000_000,
    "microsoft/codebert-base": 499_000_000,
}
"""Weights in the hub: half precision of the first two, single of the third."""


@dataclass(frozen=True)
class Source:
    """A model that a run loads.

    Attributes:
        role: teacher, student or encoder.
        name: as configured.
        place: where its weights are.
        config: its Hugging Face configuration; None where nobody can know it here.
        to_fetch: bytes that a training would download first; None where that is not known.
        note: what else there is to say: why it is out of reach, or what its figures rest on.
    """

    role: str
    name: str
    place: Place
    config: Any | None
    to_fetch: int | None = 0
    note: str = ""

    @property
    def is_here(self) -> bool:
        """Can its weights be loaded without a download?"""
        return self.place not in ("hub", "out of reach")


def find_sources(config: Config) -> dict[str, Source]:
    """The models that a run loads, by role; the student is among them where it brings a configuration of its own.

    Raises:
        UsageError: a name that leads nowhere: no such directory, or a hub that answers and does not know it.
        DataError: a config.json is damaged.
    """
    student = config.student
    named = {"teacher": (config.teacher.model, config.teacher.trusted_revision)}
    if student.init not in (*SHAPED_INITS, "pretrained"):
        named["student"] = (student.init, student.trusted_revision)
    elif student.model != EMBEDDED:
        named["student"] = (student.model, student.trusted_revision)
    if set(config.objective.active_terms) & ENCODER_TERMS and config.encoder.model != "teacher":
        named["encoder"] = (config.encoder.model, config.encoder.trusted_revision)
    lends_its_shape = {"student"} if student.init in SHAPED_INITS else set()
    return {
        role: _source(role, name, revision, weights=role not in lends_its_shape)
        for role, (name, revision) in named.items()
    }


def _source(role: str, name: str, revision: str | None, weights: bool) -> Source:
    """Where a model is; one of which no ``weights`` are read is here as soon as its configuration is."""
    if name == EMBEDDED:
        return Source(role, name, "package", load_config(name, role))
    if _is_path(name):
        return Source(role, name, "directory", load_config(name, role, revision))
    cached = cached_file(name, role, "config.json", revision)
    if cached is not None and (not weights or _cached_weights(name)):
        return Source(role, name, "hub cache", load_config(name, role, revision))
    obstacle = hub_obstacle()
    if obstacle is None and not weights:
        return Source(role, name, "hub cache", load_config(name, role, revision))  # which is what puts it there
    if obstacle is None:
        return _with_size(Source(role, name, "hub", load_config(name, role, revision)), revision)
    # An earlier look may have left the configuration alone.
    known = published_config(name) if cached is None else load_config(str(Path(cached).parent), role)
    return Source(role, name, "out of reach", known, PUBLISHED_BYTES.get(name), obstacle)


def _is_path(name: str) -> bool:
    """Is or can a name only be a path? What is wrong with one the loader says."""
    try:
        return Path(name).exists() or looks_local(name)
    except OSError:  # too long for the file system
        return True


def _cached_weights(name: str) -> bool:
    """Are weights of a hub model in the local cache, of whatever revision? config.json alone may well be."""
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    return any(file.exists() for file in folder.glob("snapshots/*/*.safetensors"))


def _with_size(source: Source, revision: str | None) -> Source:
    """With the bytes that the hub says its weights have."""
    try:
        found = huggingface_hub.HfApi().model_info(source.name, revision=revision, files_metadata=True, timeout=10)
    except NETWORK_ERRORS as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        return replace(
            source, to_fetch=PUBLISHED_BYTES.get(source.name), note=f"the hub does not say its size: {reason}"
        )
    sizes = {file.rfilename: file.size or 0 for file in found.siblings or []}
    safe = sum(size for file, size in sizes.items() if file.endswith(".safetensors"))
    if safe:
        return replace(source, to_fetch=safe)
    unsafe = sum(size for file, size in sizes.items() if re.fullmatch(r"pytorch_model.*\.bin", file))
    note = "no safetensors in its main branch: they come from the hub's own conversion, if it has one"
    return replace(source, to_fetch=unsafe or None, note=note)


def all_here(sources: Iterable[Source]) -> bool:
    """Can everything be loaded without a download?"""
    return all(source.is_here for source in sources)
