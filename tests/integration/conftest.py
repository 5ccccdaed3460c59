"""What the integration tests share."""

from __future__ import annotations

import pytest

from airflow_ams.emulator.process import Emulator
from tests.integration.client import Client


@pytest.fixture
def client(ams_emulator: Emulator) -> Client:
    """Return a client of the emulator."""
    return Client(ams_emulator)
