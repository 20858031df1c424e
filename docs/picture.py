"""The picture of the leaderboard in the README: `python docs/picture.py` takes it, `--check` says whether it is stale.

Taking it needs Playwright and Chromium (MASSL_BENCH_BROWSER, where it has another name); checking it needs neither: the
picture carries the hash of the table that it shows.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

_DOCS = Path(__file__).parent
_PICTURE = _DOCS / "leaderboard.png"
_KEY = "sha256 of LEADERBOARD.md"


def table_sha256() -> str:
    """Returns the hash of the committed table, which has every value that the page shows."""
    return hashlib.sha256((_DOCS.parent / "LEADERBOARD.md").read_bytes()).hexdigest()


def is_fresh() -> bool:
    """Tells whether the picture is of the table as it is."""
    with Image.open(_PICTURE) as picture:
        return picture.info.get(_KEY) == table_sha256()


def take() -> None:
    """Takes the picture, 1,400 by 900 pixels."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = shutil.which(os.environ.get("MASSL_BENCH_BROWSER", "chromium"))
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900}, color_scheme="light")
        page.goto((_DOCS / "leaderboard.html").as_uri())
        page.locator("table tbody tr").first.wait_for()
        page.screenshot(path=_PICTURE)
        browser.close()
    told = PngInfo()
    told.add_text(_KEY, table_sha256())
    with Image.open(_PICTURE) as picture:
        picture.load()
        picture.save(_PICTURE, optimize=True, pnginfo=told)


if __name__ == "__main__":
    if "--check" not in sys.argv[1:]:
        take()
    elif not is_fresh():
        sys.exit(f"{_PICTURE.name} is of another table: python docs/picture.py takes it anew")
