"""Writes files in the earlier pipeline's format, value by value, as its description says."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Rows = Sequence[Sequence[float]]


def compressed(rows: Rows, bits: int, *, packed: bool = False, lz4: bool = False, **changes: Any) -> dict[str, Any]:
    """``compressed_logits`` of dense rows. For 8 and 4 bits the rows are codes, and scale and zero_point go along."""
    flat = [value for row in rows for value in row]
    if bits >= 16:
        raw = struct.pack(f"<{len(flat)}{'f' if bits == 32 else 'e'}", *flat)
    elif packed:
        pairs = [*flat, 0] if len(flat) % 2 else flat
        raw = bytes(int(low) | int(high) << 4 for low, high in zip(pairs[::2], pairs[1::2], strict=True))
    else:
        raw = bytes(map(int, flat))
    if lz4:
        from lz4 import frame

        raw = frame.compress(raw)
    value: dict[str, Any] = {
        "bits": bits,
        "shape": [len(rows), len(rows[0])],
        "data_encoded": {"encoding": "lz4" if lz4 else "none", "data": raw.hex()},
    }
    if bits < 16:
        value |= {"scale": 0.25, "zero_point": 7}
    return value | ({"packed": True} if packed else {}) | changes


def write_trident(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A file with a header line and these rows."""
    header = {"format": "trident", "version": 1, "records": len(rows)}
    path.write_text("".join(json.dumps(row) + "\n" for row in (header, *rows)), encoding="utf-8")
    return path
