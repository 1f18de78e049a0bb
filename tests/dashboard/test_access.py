"""Who may look at the page, and what browsers are told."""

from collections.abc import Mapping
from urllib.parse import urlencode

import pytest
from pages import asking

from pipeline.connection import AsyncServer
from pipeline.errors import SettingsError
from pipeline.keys import Keys
from sidestream.dashboard.access import COOKIE, HEADERS
from sidestream.dashboard.address import VIEWS
from sidestream.dashboard.settings import DashboardSettings

TOKEN = "a-token-of-24-characters"
PATHS = ["/", "/tokens", "/api/view", "/parts", "/assets/dashboard.css", "/assets/nothing", "/nothing", "/?range=x"]


async def test_every_answer_has_the_headers(server: AsyncServer, keys: Keys) -> None:
    """Pages, data, files and errors: no script but ours, no guessing of types, no frame, no referrer."""
    async with asking(server, keys) as client:
        for path in PATHS:
            answer = await client.get(path)
            for name, value in HEADERS:
                assert answer.headers[name.decode()] == value.decode(), path
            policy = answer.headers["content-security-policy"]
            assert "unsafe" not in policy
            assert "http" not in policy
            assert answer.headers["cache-control"]


async def test_files_are_kept_by_their_content_and_nothing_else_is(server: AsyncServer, keys: Keys) -> None:
    """An address with the hash of a file never changes its content; figures are never kept."""
    async with asking(server, keys) as client:
        page = await client.get("/")
        assert page.headers["cache-control"] == "no-store"
        address = page.text.partition('href="/assets/dashboard.css')[2].partition('"')[0]
        kept = await client.get(f"/assets/dashboard.css{address}")
        assert "immutable" in kept.headers["cache-control"]
        assert (await client.get("/assets/dashboard.css")).headers["cache-control"] == "no-store"
        assert (await client.get("/assets/../settings.py")).status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_the_page_only_reads(server: AsyncServer, keys: Keys, method: str) -> None:
    """Every other method is refused, wherever it goes."""
    async with asking(server, keys) as client:
        for path in (*PATHS, "/login", "/live"):
            answer = await client.request(method, path)
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
        assert (await client.head("/live")).content == b""
        for view in VIEWS:
            head = await client.head(f"/{'' if view == 'overview' else view}")
            assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8765", 200),
        ("localhost:8765", 200),
        ("[::1]:8765", 200),
        ("costs.example.com", 200),
        ("evil.example.com", 421),
        ("127.0.0.1.evil.example.com", 421),
        ("10.0.0.7:8765", 421),
        ("", 421),
    ],
)
async def test_other_names_are_not_answered(server: AsyncServer, keys: Keys, host: str, status: int) -> None:
    """A name that somebody has pointed at loopback does not reach the page (DNS rebinding)."""
    settings = DashboardSettings(host_names=("costs.example.com",))
    async with asking(server, keys, settings) as client:
        for path in ("/", "/api/view", "/assets/dashboard.js"):
            assert (await client.get(path, headers={"host": host})).status_code == status


async def test_without_the_token_nothing_is_seen(server: AsyncServer, keys: Keys) -> None:
    """People are led to the form, programs are told how; the look of the page is no secret."""
    async with asking(server, keys, DashboardSettings(token=TOKEN)) as client:
        for path in ("/", "/tokens", "/nothing"):
            answer = await client.get(path, headers={"accept": "text/html"})
            assert (answer.status_code, answer.headers["location"]) == (303, f"/login?{urlencode({'then': path})}")
        for path in ("/api/view", "/parts", "/live"):
            assert (await client.get(path)).status_code == 401
        for value in ("Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ", "Bearer \u00fc"):
            wrong = await client.get("/api/view", headers={b"authorization": value.encode()})
            assert wrong.status_code == 401, value
        assert (await client.get("/assets/dashboard.css")).status_code == 200
        assert (await client.get("/api/view", headers={"authorization": f"Bearer {TOKEN}"})).status_code == 200
        assert (await client.get("/api/view", headers={"cookie": f"{COOKIE}={TOKEN}"})).status_code == 401


async def test_signing_in_sets_a_cookie_that_scripts_and_other_sites_cannot_use(
    server: AsyncServer, keys: Keys
) -> None:
    """HttpOnly, SameSite=Lax (what a link leads to only reads), not the token itself; void with another token."""
    async with asking(server, keys, DashboardSettings(token=TOKEN)) as client:
        assert "password" in (await client.get("/login")).text
        refused = await client.post("/login", data={"token": "wrong"})
        assert (refused.status_code, "set-cookie" in refused.headers) == (403, False)
        assert "not the token" in refused.text
        assert (await client.post("/login", content=b"x" * 100_000)).status_code == 403
        answer = await client.post("/login", data={"token": TOKEN, "then": "/tokens?range=1h"})
        assert answer.headers["location"] == "/tokens?range=1h", "a link that was shared arrives"
        cookie = answer.headers["set-cookie"].lower()
        assert answer.status_code == 303
        assert "httponly" in cookie
        assert "samesite=lax" in cookie
        assert TOKEN not in cookie
        assert (await client.get("/")).status_code == 200
        kept = client.cookies[COOKIE]
    async with asking(server, keys, DashboardSettings(token=TOKEN + "2")) as other:
        assert (await other.get("/api/view", headers={"cookie": f"{COOKIE}={kept}"})).status_code == 401


@pytest.mark.parametrize(
    ("address", "headers", "status"),
    [
        ("10.0.0.5", {"x-forwarded-user": "ada"}, 200),
        ("10.0.0.5", {}, 401),
        ("10.0.0.5", {"x-forwarded-user": ""}, 401),
        ("10.0.0.6", {"x-forwarded-user": "ada"}, 401),
        ("127.0.0.1", {"x-forwarded-user": "ada"}, 401),
    ],
)
async def test_a_proxys_word_is_taken_from_its_address_alone(
    server: AsyncServer, keys: Keys, address: str, headers: Mapping[str, str], status: int
) -> None:
    """Whoever reaches the port past the proxy can write any header, and sees nothing."""
    settings = DashboardSettings(host="0.0.0.0", proxy_header="X-Forwarded-User", proxies=("10.0.0.5",))  # noqa: S104
    async with asking(server, keys, settings, client=(address, 4711)) as client:
        assert (await client.get("/", headers={**headers, "host": "costs.example.com"})).status_code == status


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "costs.example.com"])  # noqa: S104
def test_a_page_that_is_open_to_the_world_is_refused(host: str) -> None:
    """Not warned about: it does not start, and the message says the ways."""
    with pytest.raises(SettingsError, match="--token"):
        DashboardSettings(host=host)
    assert DashboardSettings(host=host, token=TOKEN).guarded
    assert DashboardSettings(host=host, proxy_header="X-Forwarded-User").guarded


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"token": "short"}, "--token"),
        ({"proxy_header": "X Forwarded"}, "--proxy-header"),
        ({"proxies": ("nobody",)}, "--proxy"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(values: dict[str, object], said: str) -> None:
    """And a token is not repeated."""
    with pytest.raises(SettingsError, match=said) as raised:
        DashboardSettings(**values)  # pyright: ignore[reportArgumentType] - wrong on purpose
    assert "short" not in str(raised.value)


async def test_a_wrong_address_is_said_by_its_parameter(server: AsyncServer, keys: Keys) -> None:
    """In a page for people, in JSON for programs; never another view than was asked for."""
    wrong = {
        "range=x": "range",
        "range=0s": "range",
        "range=99999d": "range",
        "from=2026-01-01": "until",
        "from=a&until=b": "from",
        "from=2026-01-02&until=2026-01-01": "empty",
        "from=1971-01-01&until=1971-01-02": "kept",
        "agnet=writer": "agnet",
        "theme=pink": "theme",
        f"agent={'x' * 2_000}": "agent",
    }
    async with asking(server, keys) as client:
        for query, said in wrong.items():
            page = await client.get(f"/tokens?{query}")
            assert (page.status_code, said in page.text) == (400, True), query
            data = await client.get(f"/api/view?view=tokens&{query}")
            assert (data.status_code, said in data.json()["reason"]) == (400, True), query
        assert (await client.get("/api/view?view=nothing")).status_code == 400
        assert (await client.get("/<script>alert(1)</script>")).status_code == 404


@pytest.mark.parametrize(
    "then", ["//evil.example", "https://evil.example/", "/\\evil.example", "evil", "", "javascript:alert(1)", "/a\nb"]
)
async def test_signing_in_leads_nowhere_else(server: AsyncServer, keys: Keys, then: str) -> None:
    """Whatever a link to the form says."""
    async with asking(server, keys, DashboardSettings(token=TOKEN)) as client:
        assert 'name="then" value="/"' in (await client.get("/login", params={"then": then})).text
        answer = await client.post("/login", data={"token": TOKEN, "then": then})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
