from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from saebench.checkpoints.native import save_native
from saebench.files import write_text
from saebench.sae import SparseAutoencoder
from saebench.studies.study import write_parquet


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_have_the_mode_of_new_files_however_they_are_written(
    mask: int, tmp_path: Path, make_sae: Callable[..., SparseAutoencoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saebench.files._UMASK", mask)
    save_native(make_sae(), tmp_path / "sae")
    write_text(tmp_path / "a.txt", "text")
    write_parquet(pd.DataFrame({"a": [1]}), tmp_path / "a.parquet")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o666 & ~mask}
