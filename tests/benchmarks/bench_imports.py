"""What importing a sensor adds to importing Airflow, beside the sensors of other providers.

Run it with ``python tests/benchmarks/bench_imports.py``. Each figure is the median of several fresh
processes; memory is what the process holds more afterwards (Linux only).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile

MODULES = {
    "ams": "airflow_ams.sensors.ams",
    "http": "airflow.providers.http.sensors.http",
    "dbt cloud": "airflow.providers.dbt.cloud.sensors.dbt",
    "data factory": "airflow.providers.microsoft.azure.sensors.data_factory",
}
RUNS = 5

CHILD = """
import importlib, json, pathlib, resource, sys, time

def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

import airflow.sdk
before, start = resident(), time.process_time()
importlib.import_module(sys.argv[1])
seconds = time.process_time() - start
print(json.dumps([seconds * 1000, (resident() - before) / 1e6, "requests" in sys.modules]))
"""


def measure(module: str, home: str) -> tuple[float, float, bool]:
    """Import a module in fresh processes; return milliseconds of CPU, MB, and whether requests came along."""
    runs = []
    for _ in range(RUNS):
        child = subprocess.run(
            [sys.executable, "-c", CHILD, module],
            env={"AIRFLOW_HOME": home, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        runs.append(json.loads(child.stdout.splitlines()[-1]))
    return (
        statistics.median(run[0] for run in runs),
        statistics.median(run[1] for run in runs),
        any(run[2] for run in runs),
    )


def main() -> None:
    """Print one row a sensor."""
    print(f"{'sensor':<14}{'ms CPU':>10}{'MB':>8}  requests imported")
    with tempfile.TemporaryDirectory() as home:
        for name, module in MODULES.items():
            milliseconds, megabytes, has_requests = measure(module, home)
            print(f"{name:<14}{milliseconds:>10.1f}{megabytes:>8.1f}  {'yes' if has_requests else 'no'}")


if __name__ == "__main__":
    main()
