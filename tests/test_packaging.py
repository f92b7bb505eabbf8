"""What the wheel carries."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_carries_definitions_templates_and_recipes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--disable-pip-version-check", "-w", str(tmp_path)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("saebench-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    found = [path for pattern in ("**/*.py", "**/*.toml", "**/*.html") for path in (ROOT / "saebench").glob(pattern)]
    expected = {path.relative_to(ROOT).as_posix() for path in found}
    for kind in ("tasks", "probes", "explain"):
        carried = [path for pattern in ("*.toml", "prompts/*.jinja") for path in (ROOT / kind).glob(pattern)]
        expected |= {f"saebench/_definitions/{path.relative_to(ROOT).as_posix()}" for path in carried}
    assert expected <= names
    assert not any(name.startswith("tests/") for name in names)
