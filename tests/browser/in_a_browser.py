"""`make browser`: the page in a real browser, with an application that goes on meanwhile.

Not collected by `make test`, which has the same page and data over HTTP: it needs a Chromium.
"""

import json
import time
import urllib.parse
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from chromium import Chromium, Tab, chromium
from playing import playing

from sidestream.dashboard.address import VIEWS
from sidestream.dashboard.words import name as shown

UPDATES = "Number(document.documentElement.dataset.updates || 0)"
LIVE = "document.getElementById('live')?.dataset.state === 'live'"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """Play an application, and give the page's address."""
    with playing(tmp_path_factory.mktemp("playing"), sessions=150) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Generator[Chromium]:
    """Start a browser."""
    with chromium() as found:
        yield found


@pytest.fixture
def tab(browser: Chromium) -> Generator[Tab]:
    """Open a tab; afterwards nothing may have gone wrong in it."""
    found = browser.tab()
    found.resize(1280, 900)
    yield found
    assert found.complaints == []


def path_of(view: str) -> str:
    """Return the path of a view."""
    return "/" if view == "overview" else f"/{view}"


def text_of(tab: Tab, element: str) -> str:
    """Return the text of an element."""
    return str(tab.ask(f"document.querySelector({json.dumps(element)})?.textContent ?? ''")).strip()


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_drawn_without_a_complaint(tab: Tab, address: str, view: str) -> None:
    """No error in the console, nothing refused by the policy, nothing wider than the window; then it is live."""
    tab.open(f"{address}{path_of(view)}?range=24h")
    tab.wait(LIVE)
    assert tab.ask("document.querySelectorAll('.panel').length") > 1
    assert tab.ask("[...document.querySelectorAll('.plot svg.lines')].every((svg) => svg.clientHeight > 100)")
    for wide in (1280, 768, 390):
        tab.resize(wide, 900, mobile=wide < 500)
        assert tab.ask("document.documentElement.scrollWidth") <= wide


def test_every_tile_shows_what_the_document_says(tab: Tab, address: str) -> None:
    """The same view as a page and as JSON, of a range that is over: the same figures in both."""
    over_s = int(time.time()) - 120
    at = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(over_s - back)) for back in (6 * 3600, 0)]
    query = urllib.parse.urlencode({"from": at[0], "until": at[1]})
    tab.open(f"{address}/?{query}")
    tab.wait(LIVE)
    document = cast("dict[str, Any]", httpx.get(f"{address}/api/view?view=overview&{query}", trust_env=False).json())
    totals = document["reports"]["agent"]["totals"]
    assert text_of(tab, "#p-tile-requests .value") == f"{totals['requests']['count']:,}"
    rows = tab.ask("[...document.querySelectorAll('#p-agents tbody th')].map((row) => row.textContent.trim())")
    assert rows == [shown(group["name"]) for group in document["reports"]["agent"]["groups"]][:8]


def test_a_live_update_arrives(tab: Tab, address: str) -> None:
    """The number of requests grows without anybody loading the page; what is open stays open, focus stays."""
    tab.open(f"{address}/tokens?range=1h")
    tab.wait(LIVE)
    tab.ask("document.querySelector('#d-token-trend').open = true")
    tab.ask("document.querySelector('#d-token-trend summary').focus()")
    tab.ask("window.stayed = true")
    before = text_of(tab, "#p-tile-total .about")
    tab.wait(f"document.querySelector('#p-tile-total .about').textContent.trim() !== {json.dumps(before)}")
    assert int(text_of(tab, "#p-tile-total .about").replace(",", "")) > int(before.replace(",", ""))
    assert tab.ask("window.stayed") is True
    assert tab.ask("document.querySelector('#d-token-trend').open") is True
    assert tab.ask("document.activeElement.tagName") == "SUMMARY"


def test_the_page_asks_where_there_is_no_stream(tab: Tab, address: str) -> None:
    """A proxy that holds streams back leaves it up to date all the same."""
    tab.open(f"{address}/tokens?range=1h")
    tab.ask("delete window.EventSource; document.dispatchEvent(new Event('visibilitychange'))")
    tab.wait("document.getElementById('live').dataset.state === 'polling'")
    before = text_of(tab, "#p-tile-total .about")
    tab.wait(f"document.querySelector('#p-tile-total .about').textContent.trim() !== {json.dumps(before)}")


def test_a_filter_goes_into_the_address(tab: Tab, address: str) -> None:
    """Chosen by hand it is looked at; a click on a name does the same; the link of another view keeps it."""
    tab.open(f"{address}/tokens?range=24h")
    tab.ask(
        "(() => { const one = document.querySelector('select[name=agent]'); one.value = 'writer';"
        " one.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )
    tab.wait("location.search.includes('agent=writer') && document.readyState === 'complete'")
    tab.wait("document.querySelectorAll('#p-agents tbody tr').length === 1")
    assert text_of(tab, "#p-agents tbody th") == "writer"
    tab.ask("[...document.querySelectorAll('nav a')].find((one) => one.textContent === 'Cost').click()")
    tab.wait("location.pathname === '/cost' && document.readyState === 'complete'")
    assert "agent=writer" in str(tab.ask("location.search"))
    tab.ask("document.querySelector('.clear').click()")
    tab.wait("!location.search.includes('agent=') && document.readyState === 'complete'")


def test_charts_say_what_is_under_the_pointer_and_the_keys(tab: Tab, address: str) -> None:
    """A time and a value for each line; Escape ends it."""
    tab.open(f"{address}/tokens?range=24h")
    tab.wait(LIVE)
    tab.ask("document.querySelector('.plot').focus()")
    for key in ("ArrowLeft", "ArrowLeft"):
        tab.call("Input.dispatchKeyEvent", type="keyDown", key=key)
    tab.wait("document.querySelector('.tip') && !document.querySelector('.tip').hidden")
    assert "input" in text_of(tab, ".tip")
    assert ":00" in text_of(tab, ".tip p")
    tab.call("Input.dispatchKeyEvent", type="keyDown", key="Escape")
    tab.wait("document.querySelector('.tip').hidden")


def test_colours_follow_the_system_and_the_address(tab: Tab, address: str) -> None:
    """Dark where the system is dark, and as the address says where it says something."""
    colour = "getComputedStyle(document.body).backgroundColor"
    tab.resize(1280, 900, dark=True)
    tab.open(f"{address}/alerts")
    dark = tab.ask(colour)
    tab.resize(1280, 900, dark=False)
    light = tab.ask(colour)
    assert dark != light
    tab.open(f"{address}/alerts?theme=dark")
    assert tab.ask(colour) == dark
    tab.ask("document.querySelector('.theme').click()")
    tab.wait("location.search.includes('theme=light')")
    assert tab.ask(colour) == light


def test_a_tip_stays_while_figures_change(tab: Tab, address: str) -> None:
    """The chart that has focus is drawn anew, and keeps it."""
    tab.open(f"{address}/tokens?range=1h")
    tab.wait(LIVE)
    tab.ask("document.querySelector('.plot').focus()")
    tab.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowLeft")
    tab.wait(f"{UPDATES} >= {tab.ask(UPDATES) + 3}", 30)
    assert tab.ask("document.querySelector('.tip').hidden") is False
    assert tab.ask("document.activeElement.className") == "plot"


def test_nothing_moves_under_a_selection_or_a_pointer(tab: Tab, address: str) -> None:
    """A name can be copied, a slow click arrives; afterwards everything that has changed is there."""
    tab.open(f"{address}/tokens?range=1h")
    tab.wait(LIVE)
    tab.ask(
        "(() => { const range = document.createRange(), name = document.querySelector('#p-agents th');"
        " range.selectNodeContents(name); getSelection().removeAllRanges(); getSelection().addRange(range); })()"
    )
    marked, before = tab.ask("getSelection().toString()"), tab.ask(UPDATES)
    time.sleep(4)
    assert (tab.ask("getSelection().toString()"), tab.ask(UPDATES)) == (marked, before)
    tab.ask("getSelection().removeAllRanges()")
    tab.wait(f"{UPDATES} > {before}")
    tab.ask("document.dispatchEvent(new PointerEvent('pointerdown', {bubbles: true}))")
    before = tab.ask(UPDATES)
    time.sleep(3)
    assert tab.ask(UPDATES) == before
    tab.ask("dispatchEvent(new PointerEvent('pointerup'))")
    tab.wait(f"{UPDATES} > {before}")


def test_a_filter_is_chosen_by_the_keys_and_forgotten_on_the_way_back(tab: Tab, address: str) -> None:
    """A step through the names is no choice: Enter is; and what comes back is what the address says."""
    tab.open(f"{address}/tokens?range=1h")
    tab.wait(LIVE)
    tab.ask("document.querySelector('select[name=agent]').focus()")
    for kind in ("rawKeyDown", "keyUp"):
        tab.call("Input.dispatchKeyEvent", type=kind, key="ArrowDown", code="ArrowDown", windowsVirtualKeyCode=40)
    time.sleep(0.5)
    assert tab.ask("location.search") == "?range=1h"
    chosen = tab.ask("document.querySelector('select[name=agent]').value")
    assert chosen
    tab.call("Input.dispatchKeyEvent", type="rawKeyDown", key="Enter", code="Enter", windowsVirtualKeyCode=13)
    tab.wait(f"location.search.includes('agent={chosen}') && document.readyState === 'complete'")
    tab.ask("history.back()")
    tab.wait("location.search === '?range=1h' && document.readyState === 'complete'")
    tab.wait("document.querySelector('select[name=agent]').value === ''")


def test_ten_visible_pages_leave_room_for_an_eleventh(browser: Chromium, address: str) -> None:
    """A browser opens six connections to one place: some pages have a stream, the others ask."""
    tabs = [browser.tab() for _ in range(10)]
    for tab in tabs:
        tab.call("Emulation.setFocusEmulationEnabled", enabled=True)
        tab.open(f"{address}/?range=1h")
    for tab in tabs:
        tab.wait(f"['live', 'polling'].includes(document.getElementById('live').dataset.state) && {UPDATES} > 0", 30)
    states = [tab.ask("document.getElementById('live').dataset.state") for tab in tabs]
    assert 1 <= states.count("live") <= 4
    tabs[-1].open(f"{address}/cost")
    tabs[-1].wait(f"{UPDATES} > 0", 30)
    for tab in tabs:
        assert tab.complaints == []
        tab.close()


def test_a_session_is_followed_from_wherever_it_is_named(tab: Tab, address: str) -> None:
    """From the list to what happened, and back to the list."""
    tab.open(f"{address}/sessions")
    tab.wait(LIVE)
    name = text_of(tab, "#p-live tbody th a")
    tab.ask("document.querySelector('#p-live tbody th a').click()")
    tab.wait("location.pathname === '/session' && document.readyState === 'complete'")
    tab.wait(LIVE)
    assert text_of(tab, "#p-which h1 .id") == name
    assert tab.ask("document.querySelectorAll('#p-timeline tbody tr').length") > 0
    assert tab.ask("document.documentElement.scrollWidth") <= 1280
    tab.ask("document.querySelector('#p-which a').click()")
    tab.wait("location.pathname === '/sessions'")


def test_a_page_that_is_left_open_does_not_grow(tab: Tab, address: str) -> None:
    """Thirty updates later it holds about as much memory as before, and as many nodes."""
    tab.open(f"{address}/?range=1h")
    tab.wait(f"{UPDATES} >= 3")
    tab.call("HeapProfiler.collectGarbage")
    before, nodes = tab.heap_bytes(), tab.ask("document.querySelectorAll('*').length")
    tab.wait(f"{UPDATES} >= 33", 90)
    tab.call("HeapProfiler.collectGarbage")
    assert tab.heap_bytes() < before * 1.5
    assert abs(tab.ask("document.querySelectorAll('*').length") - nodes) < nodes // 5


def test_a_hidden_page_costs_nothing(browser: Chromium, address: str) -> None:
    """It hangs up, and is live again when it is seen."""
    tab = browser.tab()
    tab.open(f"{address}/?range=1h")
    tab.wait(LIVE)
    tab.ask("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    tab.ask("document.dispatchEvent(new Event('visibilitychange'))")
    assert tab.ask("document.getElementById('live').dataset.state") == "paused"
    tab.ask("Object.defineProperty(document, 'hidden', {value: false, configurable: true})")
    tab.ask("document.dispatchEvent(new Event('visibilitychange'))")
    tab.wait(LIVE)
    assert tab.complaints == []


def test_pictures_of_it_are_in_the_repository() -> None:
    """Each view in both themes and on a phone, small enough to be looked at (`make screenshots`)."""
    folder = Path(__file__).parents[2] / "docs" / "images"
    for view in (*VIEWS, "session"):
        for look in ("light", "dark", "phone"):
            assert 0 < (folder / f"{view}-{look}.png").stat().st_size < 100_000
