"""The publisher's connection, and what it knows of the other end."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipeline.connection import RedisSettings, Reply, Server, server_facts
from pipeline.errors import SidestreamError, UnreachableError
from pipeline.keys import Keys
from pipeline.log import say
from pipeline.presence import agree_partitions

LOG: Final = logging.getLogger("sidestream")


@dataclass(slots=True)
class Link:
    """An open connection; `partitions` is the namespace's number."""

    server: Server
    keys: Keys
    partitions: int


class Connector:
    """Opens the connection, looks once at what kind of server it is, and lets go of it.

    Args:
        namespace: Whose keys.
        partitions: The least number of partitions that the namespace is to have.
        find_url: Says where Redis is, or None; asked at each connection.
    """

    def __init__(self, namespace: str, partitions: int, find_url: Callable[[], str | None]) -> None:
        self.link: Link | None = None
        """The open connection."""
        self.partitions = 0
        """The namespace's number of partitions, as it was last known; 0 before that."""
        self._keys = Keys(namespace)
        self._wanted = partitions
        self._find_url = find_url
        self._inspected = False

    def connected(self) -> Link:
        """Return the connection, after a first exchange with the server.

        Raises:
            SidestreamError: There is no server, or it does not let us in.
        """
        if self.link is None:
            url = self._find_url()
            if url is None:
                raise UnreachableError(
                    "no Redis is known: set SIDESTREAM_REDIS_URL, or start `sidestream worker`, which brings a server"
                )
            self.link = self._open(Server(RedisSettings(url)))
        return self.link

    def _open(self, server: Server) -> Link:
        try:
            partitions = agree_partitions(server, self._keys, self._wanted)
            self._inspect(server)
        except SidestreamError:
            server.close()
            raise
        self.partitions = partitions
        return Link(server, self._keys, partitions)

    def _inspect(self, server: Server) -> None:
        info: Reply | SidestreamError = server.batch([["INFO"]])[0]
        if self._inspected or isinstance(info, SidestreamError):
            return  # a user who may not ask for INFO may still append
        self._inspected = True
        for problem in server_facts(info).problems():
            say(LOG, logging.WARNING, "this Redis is not fit to carry telemetry", problem=problem)

    def disconnect(self) -> None:
        """Close the connection; the next try opens another."""
        if self.link is not None:
            self.link.server.close()
            self.link = None
