"""One server for these tests, and a namespace for each."""

import uuid
from collections.abc import Generator

import pytest
from launching import Site
from support import RealServer, spawned

from pipeline.keys import Keys


@pytest.fixture(scope="session")
def broker() -> Generator[RealServer]:
    """Spawn a server for the processes of these tests; what a test does to it, it undoes."""
    with spawned("valkey") as server:
        yield server


@pytest.fixture
def site(broker: RealServer) -> Site:
    """Return where the processes of one test send their events."""
    return Site(broker.url, Keys(f"p{uuid.uuid4().hex[:12]}"))
