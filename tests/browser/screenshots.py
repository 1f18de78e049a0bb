"""`make screenshots`: each view in both themes and on a phone, as small PNGs into docs/images/."""

import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, cast

from chromium import INSTALL, Tab, chromium, found_chromium
from PIL import Image
from playing import playing

from sidestream.dashboard.address import VIEWS

FOLDER: Final = Path(__file__).parents[2] / "docs" / "images"
COLOURS: Final = (255, 160, 128)
"""A flat page needs no more, and its picture takes half; fewer where that is still too much."""

MOST_BYTES: Final = 100_000
WARM_UP_S: Final = 330
"""Until alerts have looked at their windows, a request has hung for long, and the growth of Redis is known."""

PAGES: Final = {
    **{view: "/" if view == "overview" else f"/{view}" for view in VIEWS},
    "session": "/session?session=deck-0135",
}

LOOKS: Final = {"light": (1280, 900, False), "dark": (1280, 900, True), "phone": (390, 844, False)}


def main() -> int:
    """Take the pictures; return 2 where there is no browser."""
    if found_chromium() is None:
        sys.stderr.write(f"make screenshots needs a Chromium: {INSTALL}\n")
        return 2
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, playing(Path(folder), hung=True) as address, chromium() as browser:
        tab = browser.tab()
        time.sleep(WARM_UP_S)
        for name, path in PAGES.items():
            for look, (wide, high, dark) in LOOKS.items():
                tab.resize(wide, high, dark=dark, mobile=look == "phone")
                _take(tab, f"{address}{path}", FOLDER / f"{name}-{look}.png")
    return 0


def _take(tab: Tab, address: str, file: Path) -> None:
    tab.open(address)
    # The second read knows how fast the handlers are.
    tab.wait("Number(document.documentElement.dataset.updates || 0) >= 2")
    picture = Image.open(io.BytesIO(tab.picture(most_high=1_500))).convert("RGB")
    size = MOST_BYTES
    for most in COLOURS:
        _with_few_colours(picture, most).save(file, optimize=True)
        size = file.stat().st_size
        if size < MOST_BYTES:
            break
    sys.stdout.write(f"{file.name}: {size:,} bytes\n")
    if size >= MOST_BYTES:
        raise SystemExit(f"{file.name} has {size} bytes, more than {MOST_BYTES}")


def _with_few_colours(picture: Image.Image, most: int) -> Image.Image:
    """Return a picture of the colours that most of it has, exactly; what is between them takes the nearest."""
    counted = cast("list[tuple[int, tuple[int, int, int]]]", picture.getcolors(1 << 24))
    common = [colour for _, colour in sorted(counted, reverse=True)[:most]]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for colour in common for part in colour])
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)


if __name__ == "__main__":
    sys.exit(main())
