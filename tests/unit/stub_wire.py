"""What stands for the network, which unit tests do without."""

from __future__ import annotations

from typing import Any

from airflow_ams.api.wire import Answer, Wire


class StubWire(Wire):
    """A wire that notes what is sent; what it answers is for each test module to say."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def exchange(self, method: str, url: str, **how: Any) -> Answer:
        """Note a request, and answer it."""
        self.sent.append({"method": method, "url": url, **how})
        return self.answer(method, url)

    def answer(self, method: str, url: str) -> Answer:
        """Answer a request."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to close."""
