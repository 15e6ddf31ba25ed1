"""Reads /metrics as Prometheus would."""

from dataclasses import dataclass
from types import TracebackType

import aiohttp
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@dataclass(frozen=True)
class Page:
    """What a page tells: each sample by its name and labels."""

    status: int
    content_type: str
    text: str

    def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        """The labels and the values of a metric."""
        parse = openmetrics_families if self.content_type.startswith("application/openmetrics") else None
        families = (parse or text_string_to_metric_families)(self.text)
        return [(s.labels, s.value) for family in families for s in family.samples if s.name == name]

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels."""
        return sum(value for found, value in self.samples(name) if labels.items() <= found.items())


class MetricsReader:
    """Asks servers for their pages."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession()

    async def __aenter__(self) -> "MetricsReader":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def read(self, url: str, *, key: str | None = None, accept: str = "text/plain") -> Page:
        headers = {"Accept": accept, **({"Authorization": f"Bearer {key}"} if key else {})}
        async with self._session.get(f"{url}/metrics", headers=headers) as response:
            return Page(response.status, response.headers["Content-Type"], await response.text())
