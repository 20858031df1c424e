"""A browser of this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    name = os.environ.get("MASSL_BENCH_BROWSER", "chromium")
    path = shutil.which(name)
    if path is None:
        assert "MASSL_BENCH_NEEDS_BROWSER" not in os.environ, f"no browser {name} on this machine"
        pytest.skip(f"no browser {name} on this machine; MASSL_BENCH_BROWSER names another")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield launched
        launched.close()
