"""What the wheel carries."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.environments import requirements, without_upper_bounds

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


def locked(file: str) -> dict[str, list[Version]]:
    """Pinned versions by name; some depend on the version of Python."""
    found: dict[str, list[Version]] = {}
    for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            (pin,) = requirement.specifier
            assert pin.operator == "==", line
            found.setdefault(requirement.name, []).append(Version(pin.version))
    return found


@pytest.mark.parametrize("given", requirements())
def test_every_requirement_is_locked_within_its_range_and_tested_at_its_lower_bound(given: str) -> None:
    requirement = Requirement(given)
    assert all(requirement.specifier.contains(version) for version in locked("constraints.txt")[requirement.name])
    lower = [each.version for each in requirement.specifier if each.operator == ">="]
    if requirement.name not in ("pandas-stubs", "triton"):  # stubs only lint; triton comes with torch's CUDA builds
        assert locked("constraints-oldest.txt")[requirement.name] == [Version(each) for each in lower]


def test_upper_bounds_are_lifted_for_the_newest_environment() -> None:
    assert without_upper_bounds("a>=1.2,<3") == "a>=1.2"
    assert without_upper_bounds("a[x]>=1,<2; platform_system == 'Linux'") == "a[x]>=1; platform_system == 'Linux'"
    assert without_upper_bounds("a") == "a"
