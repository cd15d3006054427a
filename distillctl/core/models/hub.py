"""Is a model name worth asking the Hugging Face hub for? Its client tries an unreachable hub for a minute."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from distillctl.core.errors import UsageError

PATIENCE_SECONDS = 5.0
NETWORK_ERRORS: tuple[type[Exception], ...] = (OSError, *HfHubHTTPError.__bases__)
"""What asking the hub raises. All are OSErrors before version 1 of its client, since then (httpx) some are not."""


def check_hub_name(name: str, role: str, revision: str | None = None) -> None:
    """Raise UsageError for a name that is neither in the hub's local cache nor reachable; quick either way."""
    if cached_file(name, role, "config.json", revision) is not None:
        return
    problem = hub_obstacle()
    if problem is not None:
        raise UsageError(
            f"{role} {name!r}: there is no such directory, it is not in the local hub cache, and {problem}. "
            "Give a directory made by save_pretrained, or a hub name while online"
        )


def cached_file(name: str, role: str, file: str, revision: str | None = None) -> str | None:
    """Path of a hub model's file in the hub's local cache; None where it is not there.

    Raises UsageError for what no hub name looks like.
    """
    try:
        cached = huggingface_hub.try_to_load_from_cache(name, file, revision=revision)
    except HFValidationError as error:
        raise UsageError(f"{role} {name!r}: there is no such directory, and no hub name looks like this") from error
    return cached if isinstance(cached, str) else None


def hub_obstacle() -> str | None:
    """Why nothing can be fetched from the hub now; None where it answers."""
    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _problem(constants.ENDPOINT)


def _problem(endpoint: str) -> str | None:
    """Why the hub cannot be reached, by one request that respects the system's proxies; None when it answers."""
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS):
            return None
    except urllib.error.HTTPError:
        return None  # an answer, whatever it is: the hub's client knows what to make of it
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            return None  # reached; the client may know certificates that Python does not
        return f"{endpoint} cannot be reached ({reason})"
