"""A dashboard without a network: the same application, asked in the same process."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import msgspec

from consumers.catalogue import Catalogue, Pricer
from consumers.handlers.cost import CostHandler
from consumers.handlers.metrics import MetricsHandler
from consumers.pricing import PriceBook
from consumers.runtime.effects import FoldEffect
from consumers.runtime.run import Worker
from pipeline.connection import AsyncServer
from pipeline.keys import Keys
from sidestream.dashboard.app import create_app
from sidestream.dashboard.settings import DashboardSettings
from sidestream.dashboard.shared import Shared
from sidestream.dashboard.sources import Sources

HERE = "http://127.0.0.1:8765"


@asynccontextmanager
async def asking(
    server: AsyncServer,
    keys: Keys,
    settings: DashboardSettings | None = None,
    *,
    every_s: float = 0.0,
    client: tuple[str, int] = ("127.0.0.1", 50_000),
) -> AsyncGenerator[httpx.AsyncClient]:
    """Give a client of the page that a dashboard with these settings serves; it reads anew at every request."""
    sources = Sources(server, keys, Shared(every_s=every_s, share=0))
    transport = httpx.ASGITransport(cast("Any", create_app(sources, settings or DashboardSettings())), client=client)
    async with httpx.AsyncClient(transport=transport, base_url=HERE) as found:
        yield found


async def document(client: httpx.AsyncClient, view: str, query: str = "") -> dict[str, Any]:
    """Return the JSON document of a view."""
    answer = await client.get(f"/api/view?view={view}{query}")
    assert answer.status_code == 200, answer.text
    return cast("dict[str, Any]", msgspec.json.decode(answer.content))


async def fold(server: AsyncServer, keys: Keys) -> None:
    """Count everything that lies on the stream."""
    pricer = Pricer(Catalogue(), PriceBook())
    cost = CostHandler(pricer, pricer.catalogue.version, pricer.book.hash)
    await Worker(server, keys, [FoldEffect(MetricsHandler()), FoldEffect(cost)]).run_until_idle()
