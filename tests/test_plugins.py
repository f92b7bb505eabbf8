"""A package outside the repository adds an evaluator and a checkpoint format through its entry points."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SCRIPT = """
import json, sys
from saebench import checkpoints
from saebench.evaluators.base import installed_evaluators
sae = checkpoints.load(sys.argv[1])
print(json.dumps([sorted(installed_evaluators()), sae.info.format, float(sae.W_enc[0, 0])]))
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example package, installed into a folder of its own as pip would lay it out."""
    site = tmp_path_factory.mktemp("site")
    source = HERE / "plugin_package"
    (site / "saebench_example_plugin").symlink_to(source / "saebench_example_plugin")
    metadata = site / "saebench_example_plugin-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: saebench-example-plugin\nVersion: 0.1.0\n")
    import tomllib

    groups = tomllib.loads((source / "pyproject.toml").read_text())["project"]["entry-points"]
    text = "".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in groups.items()
    )
    (metadata / "entry_points.txt").write_text(text)
    return site


def test_a_plugin_is_found(plugin: Path, tmp_path: Path) -> None:
    (tmp_path / "numbers.json").write_text(json.dumps({"d": 4, "scale": 2.5}))
    code = f"import sys; sys.path.insert(0, {str(plugin)!r})\n{SCRIPT}"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    names, kind, value = json.loads(done.stdout.splitlines()[-1])
    assert "largest_activation" in names and "reconstruction" in names
    assert (kind, value) == ("plain_numbers", 2.5)
