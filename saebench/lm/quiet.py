"""Suppresses progress bars and advice of libraries on the terminal."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the libraries' progress bars and advice on the terminal; errors are still shown."""
    from transformers.utils import logging as transformers_logging

    root_level = logging.getLogger().level
    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    logging.getLogger().setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger().setLevel(root_level)
        if was_enabled:
            transformers_logging.enable_progress_bar()
