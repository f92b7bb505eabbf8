"""Every reader, by name."""

from __future__ import annotations

from tests.fuzz import (
    checkpoint_readers,
    definition_readers,
    result_readers,
    suite_readers,
    text_readers,
    viewer_readers,
)
from tests.fuzz.reader import Reader

READERS: dict[str, Reader] = {
    reader.name: reader
    for module in (checkpoint_readers, result_readers, definition_readers, suite_readers, text_readers, viewer_readers)
    for reader in module.READERS
}
