"""The Hugging Face hub: whether it can be reached is found out in seconds, once."""

from __future__ import annotations

import functools
import os
import socket
from urllib.parse import urlparse

from saebench.errors import SaebenchError

TIMEOUT_SECONDS = 5.0


@functools.cache
def hub_reachable() -> bool:
    """Whether a connection to the hub can be opened. Asked once per process; False at once under ``HF_HUB_OFFLINE=1``."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return False
    from huggingface_hub import constants

    address = urlparse(constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=TIMEOUT_SECONDS).close()
    except OSError:
        return bool(os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"))  # a proxy may reach it for us
    return True


def require_hub(what: str) -> None:
    """Raise ``SaebenchError`` where the hub cannot be reached; ``what`` says what was wanted from it."""
    if not hub_reachable():
        raise SaebenchError(
            f"{what} is on the Hugging Face hub, which cannot be reached from here: give a local path instead, "
            "or check the network and HF_HUB_OFFLINE."
        )
