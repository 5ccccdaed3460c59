"""A media service in a box: real HTTP, real encoding, for tests and demonstrations.

``airflow-ams emulator`` runs it, `airflow_ams.emulator.process.Emulator` runs it from Python, and the
pytest fixture ``ams_emulator`` runs it under a test. Nothing of it is imported by the provider itself.
"""
