"""The pytest fixture ``ams_emulator``.

One emulator serves a whole test session; each test gets it empty. Without the extra ``emulator`` only the
tests that ask for the fixture fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator

_INSTALL = "pip install 'airflow-ams[emulator]'"


@pytest.fixture(scope="session")
def ams_emulator_process() -> Iterator[Emulator]:
    """Run the emulator of the session; tests use `ams_emulator` instead."""
    from importlib.util import find_spec

    missing = [name for name in ("requests", "starlette", "uvicorn", "imageio_ffmpeg") if not find_spec(name)]
    if missing:
        pytest.fail(f"The fixture ams_emulator needs {', '.join(missing)}: {_INSTALL}", pytrace=False)
    from airflow_ams.emulator.process import Emulator

    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def ams_emulator(ams_emulator_process: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Return an empty media service, to which the connection ``ams_default`` leads during the test, in v2."""
    ams_emulator_process.reset()
    ams_emulator_process.api = "v2"
    monkeypatch.setenv("AIRFLOW_CONN_AMS_DEFAULT", ams_emulator_process.connection_json())
    return ams_emulator_process
