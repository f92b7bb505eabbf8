"""The test environments: what the newest one installs, and the versions that the running one has.

python tests/environments.py newest      # requirements of saebench without upper bounds
python tests/environments.py versions    # the main libraries of this environment, one line
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
MAIN = ("torch", "transformers", "transformer-lens", "datasets", "numpy", "pandas", "scikit-learn", "pydantic", "pytest")


def requirements() -> list[str]:
    """Every direct requirement, those of extras included."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    extras = (each for extra in project["optional-dependencies"].values() for each in extra)
    return [each for each in (*project["dependencies"], *extras) if not each.startswith("saebench[")]


def without_upper_bounds(requirement: str) -> str:
    """``a>=1,<2; marker`` -> ``a>=1; marker``."""
    return re.sub(r",?<[^,;]*", "", requirement)


def main() -> None:
    """Print what was asked for."""
    if sys.argv[1:] == ["newest"]:
        print("\n".join(without_upper_bounds(each) for each in requirements()))
    elif sys.argv[1:] == ["versions"]:
        print(f"Python {sys.version.split()[0]}: {', '.join(f'{name} {version(name)}' for name in MAIN)}")
    else:
        sys.exit("Usage: python tests/environments.py newest|versions")


if __name__ == "__main__":
    main()
