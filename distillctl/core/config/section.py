"""What every section of the configuration has in common: the base model and the field types."""

from __future__ import annotations

import os.path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """A frozen group of fields. Unknown keys, wrong types, NaN and infinities are refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        validate_default=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


def _printable(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise PydanticCustomError("text", "should be one line of text without spaces around it")
    return text


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Text = Annotated[str, StringConstraints(min_length=1, max_length=4096), AfterValidator(_printable)]
"""A path, a model name, a token: not empty, no control characters (a file name cannot hold them anyway)."""

Place = Annotated[Text, AfterValidator(os.path.expanduser)]
"""A path; its ``~`` is the user's home, which no shell says behind ``--set KEY=`` or in a file."""

Texts = Annotated[tuple[Text, ...], BeforeValidator(_as_tuple)]
"""A list of texts; kept as a tuple, so that a frozen config cannot be changed through it."""

Count = Annotated[int, Field(ge=1)]
"""A whole number of things, at least one."""

Share = Annotated[float, Field(ge=0, le=1)]

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""What NumPy and PyTorch both take as a seed."""
