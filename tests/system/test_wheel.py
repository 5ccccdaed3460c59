"""The wheel, as somebody installs it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_carries_all_that_the_demo_needs(tmp_path: Path) -> None:
    """Example DAGs, type marker, licence and entry points are in it; the tests are not."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        [entry_points] = [name for name in names if name.endswith("entry_points.txt")]
        declared = archive.read(entry_points).decode()
    for example in (ROOT / "example_dags").glob("*.py"):
        assert f"airflow_ams/example_dags/{example.name}" in names
    assert "airflow_ams/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {"[apache_airflow_provider]", "[console_scripts]", "[pytest11]"} <= set(declared.splitlines())
    assert not [name for name in names if name.startswith("tests/")]
