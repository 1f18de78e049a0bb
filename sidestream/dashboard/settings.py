"""Where the page is served, and who may look: refused where it would be open to the world.

Keeps: on anything but loopback nobody looks without a token, or without the header that a proxy named here sets.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.errors import SettingsError
from sidestream.settings import DASHBOARD_TOKEN_VARIABLE

LEAST_TOKEN_CHARS: Final = 16
"""Of random characters nobody guesses so many."""

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8765

_HEADER: Final = re.compile(r"[A-Za-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True)
class DashboardSettings:
    """Where to listen, and who may look.

    Args:
        host: The address to listen on.
        port: 0 takes any that is free.
        token: What people sign in with; empty for none.
        proxy_header: The header in which a trusted proxy says who somebody is; empty for none.
        proxies: Addresses from which that header is believed.
        host_names: Names by which browsers reach the page, besides those of loopback; empty: any, where people sign in.

    Raises:
        SettingsError: It would be open to others than those who are meant, or a value is wrong.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    token: str = ""
    proxy_header: str = ""
    proxies: Sequence[str] = ("127.0.0.1", "::1")
    host_names: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.token and len(self.token) < LEAST_TOKEN_CHARS:
            raise SettingsError(f"--token: use {LEAST_TOKEN_CHARS} characters or more, random ones")
        if self.proxy_header and not _HEADER.fullmatch(self.proxy_header):
            raise SettingsError(f"--proxy-header: {self.proxy_header!r} is no name of a header")
        for proxy in self.proxies:
            try:
                ipaddress.ip_address(proxy)
            except ValueError:
                raise SettingsError(f"--proxy: {proxy!r} is no address") from None
        if not (is_loopback(self.host) or self.token or self.proxy_header):
            raise SettingsError(
                f"--host: {self.host} can be reached from other machines, and the page says what is spent and by whom. "
                f"Give a token (--token, or {DASHBOARD_TOKEN_VARIABLE}), or --proxy-header and --proxy where a proxy "
                "in front of it lets people in"
            )

    @property
    def guarded(self) -> bool:
        """Whether nobody looks without saying who they are."""
        return bool(self.token or self.proxy_header)


def is_loopback(host: str) -> bool:
    """Tell whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
