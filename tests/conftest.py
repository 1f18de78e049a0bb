"""Real servers for every test that needs one, and what must hold after each of them."""

from collections.abc import AsyncGenerator, Generator

import pytest
from hypothesis import HealthCheck, settings
from support import Appender, RealServer, server_kinds, spawned

from consumers.views.status import read_status
from pipeline.connection import AsyncServer, RedisSettings, Server
from pipeline.keys import Keys

# A machine that is busy is no finding.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what is marked `one_server` against the first kind of server alone."""
    first = server_kinds()[0]
    for item in list(items):
        kind = getattr(item, "callspec").params.get("real_server", first) if hasattr(item, "callspec") else first  # noqa: B009 - pytest types it nowhere
        if kind != first and item.get_closest_marker("one_server"):
            items.remove(item)


@pytest.fixture(scope="session", params=server_kinds())
def real_server(request: pytest.FixtureRequest) -> Generator[RealServer]:
    """Spawn one server of each kind for the whole run."""
    with spawned(request.param) as server:
        yield server


@pytest.fixture
def redis_url(real_server: RealServer) -> str:
    """Return the url of an empty server."""
    server = Server(RedisSettings(real_server.url))
    server.call("FLUSHALL")
    server.call("SCRIPT", "FLUSH")
    server.close()
    return real_server.url


@pytest.fixture
def keys() -> Keys:
    """Return the keys of the namespace that tests use."""
    return Keys("test")


@pytest.fixture
async def server(redis_url: str, keys: Keys) -> AsyncGenerator[AsyncServer]:
    """Return a client of an empty server; afterwards the state must be whole: see `check_house`."""
    client = AsyncServer(RedisSettings(redis_url))
    yield client
    await check_house(client, keys)
    await client.aclose()


@pytest.fixture
def append(server: AsyncServer, keys: Keys) -> Appender:
    """Return what puts frames on the stream."""
    return Appender(server, keys)


async def check_house(server: AsyncServer, keys: Keys) -> None:
    """Assert what holds after every test: no key leaks, no lease is left, the accounting balances."""
    permanent = (":stream", ":counters", ":handlers", ":cursor", ":recipes", ":dlq", ":cells:all", ":w:all:0")
    for key in await server.call("KEYS", "*"):
        name = key.decode()
        assert name.startswith("{test"), f"a key outside the namespace: {name}"
        assert not name.endswith(":lease"), f"a lease was left: {name}"
        if name.endswith(permanent) or name in {keys.meta(), keys.versions()} or "alerts}" in name:
            continue
        assert await server.call("PTTL", key) > 0, f"a key without TTL: {name}"
    partitions = int(await server.call("HGET", keys.meta(), "partitions") or 4)
    status = await read_status(server, keys, partitions)
    assert not status.broken, status.broken
