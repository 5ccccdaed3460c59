"""An Apache Airflow provider that makes DAGs wait for media jobs."""

from __future__ import annotations

__version__ = "0.1.0"
