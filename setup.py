"""Copies the definition folders into the wheel; everything else stands in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithDefinitions(build_py):
    """`tasks/`, `probes/` and `explain/` become `saebench/_definitions/` in what is installed."""

    def run(self):
        """Build, then copy (not into a checkout that is installed in place: there they are found as they are)."""
        super().run()
        if getattr(self, "editable_mode", False):
            return
        for kind in ("tasks", "probes", "explain"):
            source = Path(__file__).parent / kind
            if source.is_dir():
                shutil.copytree(source, Path(self.build_lib) / "saebench" / "_definitions" / kind, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithDefinitions})
