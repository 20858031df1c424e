"""A large page in a browser, on a machine that is not busy otherwise (`tox -e base,speed`)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from massl_bench.report.page import leaderboard_page
from massl_bench.specs.registry import Registry
from tests.report.made import board

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.speed


def test_two_hundred_models_by_forty_columns(browser: Browser, tmp_path: Path) -> None:
    """Opens and sorts within a second each."""
    names = [f"model-{number:03d}" for number in range(200)]
    cells = [(task, dataset) for task in ("knn", "linear") for dataset in Registry().datasets][:40]
    file = tmp_path / "large.html"
    file.write_text(leaderboard_page(board(names, cells), Registry(), href=""))
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto("about:blank")
    start = time.perf_counter()
    page.goto(file.as_uri())
    page.locator("table[data-section]:visible").wait_for()
    opened = time.perf_counter() - start
    head = page.locator("table[data-section]:visible .heads th button").nth(10)
    start = time.perf_counter()
    head.evaluate("(button) => button.click()")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    ordered = time.perf_counter() - start
    print(f"{file.stat().st_size / 1e6:.1f} MB, opened in {opened:.2f} s, sorted in {ordered:.2f} s")
    assert page.locator("[aria-sort]:visible").count() == 1
    assert opened < 1
    assert ordered < 1
