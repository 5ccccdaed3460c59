"""What imports what, and what importing costs."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Set
from functools import cache
from pathlib import Path

import pytest

import airflow_ams

ROOT = Path(airflow_ams.__file__).parent
CLIENT = [p for p in sorted(ROOT.rglob("*.py")) if "emulator" not in p.relative_to(ROOT).parts]
EMULATOR = sorted((ROOT / "emulator").rglob("*.py"))
LAYERS = {
    "api": {"api"},
    "exceptions": set(),
    "provider_info": set(),
    "hooks": {"hooks", "api", "provider_info"},
    "triggers": {"triggers", "hooks", "api"},
    "links": {"links", "hooks"},
    "sensors": {"sensors", "triggers", "links", "hooks", "api", "exceptions"},
    "operators": {"operators", "sensors", "links", "hooks", "api", "exceptions"},
}


def imports(path: Path) -> Iterator[str]:
    """Name every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def loaded_by(code: str) -> frozenset[str]:
    """Run code in a fresh interpreter; return the modules that it loaded."""
    code += "\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT.parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, timeout=60
    )
    return frozenset(json.loads(done.stdout.splitlines()[-1]))


def roots(modules: Set[str]) -> set[str]:
    """Keep the top-level packages."""
    return {name.partition(".")[0] for name in modules}


def layer_of(path: Path) -> str:
    """Name the layer of a file, which is the package or the module right below ours."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize(
    "path", [p for p in CLIENT if layer_of(p) in LAYERS], ids=lambda path: str(path.relative_to(ROOT))
)
def test_imports_run_one_way(path: Path) -> None:
    """Sensors import triggers, both import hooks, hooks import api, and nothing imports upwards."""
    layer = layer_of(path)
    own = {name.split(".")[1] for name in imports(path) if name.startswith("airflow_ams.")}
    assert own - {"__version__"} <= LAYERS[layer]


def test_the_model_imports_nothing_of_the_project() -> None:
    """Jobs, and what they mean, stand alone."""
    assert not [name for name in imports(ROOT / "api" / "model.py") if name.startswith("airflow")]


@pytest.mark.parametrize(
    "path",
    [p for p in CLIENT if p.is_relative_to(ROOT / "api")],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_the_api_imports_no_airflow(path: Path) -> None:
    """Whoever has no Airflow can use the client."""
    assert not [name for name in imports(path) if name == "airflow" or name.startswith("airflow.")]


def test_emulator_and_client_share_no_code() -> None:
    """A misunderstanding of the protocol cannot hide on both sides."""
    shared = {"airflow_ams", "airflow_ams.__version__"}
    for path in EMULATOR:
        allowed = shared | {"airflow_ams.cli", "airflow_ams.cli.main"} if path.stem == "__main__" else shared
        others = {n for n in imports(path) if n.startswith("airflow_ams") and "emulator" not in n}
        assert others <= allowed, path
        assert "airflow" not in {n.partition(".")[0] for n in imports(path)}, path
    for path in CLIENT:
        if layer_of(path) in LAYERS:
            assert not [n for n in imports(path) if "emulator" in n], path


def test_loading_the_whole_api_loads_no_airflow() -> None:
    """The rule of the source holds when it runs."""
    names = [
        ".".join(p.relative_to(ROOT.parent).with_suffix("").parts) for p in (ROOT / "api").glob("[a-z]*.py")
    ]
    assert len(names) >= 5
    assert "airflow" not in roots(loaded_by("import " + ", ".join(names)))


def test_the_package_itself_loads_nothing() -> None:
    """Every process of Airflow imports it."""
    bare = loaded_by("")
    assert loaded_by("import airflow_ams, airflow_ams.provider_info") - bare <= {
        "__future__",
        "airflow_ams",
        "airflow_ams.provider_info",
    } | (loaded_by("import typing") - bare)


def test_a_dag_file_does_not_pay_for_the_transport() -> None:
    """Importing sensor and hook loads no `requests`, nothing of the emulator, and no library of its own."""
    heavy = {"requests", "urllib3", "tenacity", "starlette", "uvicorn", "azure", "msal", "imageio_ffmpeg"}
    try:
        base = loaded_by("from airflow.sdk import BaseSensorOperator, BaseHook")
    except subprocess.CalledProcessError:
        base = loaded_by("from airflow.sensors.base import BaseSensorOperator; import airflow.hooks.base")
    ours = loaded_by("import airflow_ams.sensors.ams, airflow_ams.hooks.ams")
    assert not (roots(ours) - roots(base)) & heavy
    assert not [name for name in ours if name.startswith("airflow_ams.emulator")]
    assert "airflow_ams.api.transport" not in ours


def test_a_dag_file_does_not_pay_for_the_trigger() -> None:
    """Importing the sensor loads neither our triggers nor Airflow's, whose base alone takes a second."""
    base = loaded_by("from airflow.providers.common.compat.sdk import BaseSensorOperator")
    ours = loaded_by("import airflow_ams.sensors.ams, airflow_ams.hooks.ams")
    assert not [name for name in ours if name.startswith("airflow_ams.triggers")]
    assert "airflow.triggers.base" not in ours - base


def test_loading_the_trigger_loads_no_transport() -> None:
    """The first import of a trigger holds up the triggerer's loop; `requests` is loaded in a thread."""
    base = loaded_by("import airflow.triggers.base")
    ours = loaded_by("import airflow_ams.triggers.ams")
    assert not (roots(ours) - roots(base)) & {"requests", "urllib3", "tenacity", "azure", "msal"}
    assert "airflow_ams.api.transport" not in ours


def test_the_command_of_the_emulator_loads_no_airflow() -> None:
    """`airflow-ams` starts without the three seconds that Airflow takes."""
    assert "airflow" not in roots(loaded_by("import airflow_ams.cli"))


def test_the_pytest_plugin_costs_nothing() -> None:
    """Everybody's pytest loads it, so it loads only pytest."""
    loaded = roots(loaded_by("import airflow_ams.emulator.pytest_plugin"))
    assert not loaded & {"airflow", "starlette", "uvicorn", "requests", "imageio_ffmpeg"}
