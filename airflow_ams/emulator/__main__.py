"""``python -m airflow_ams.emulator``: the same as ``airflow-ams emulator``."""

from __future__ import annotations

from airflow_ams.cli import emulator

if __name__ == "__main__":
    emulator(prog_name="python -m airflow_ams.emulator")
