"""The page in a real browser: sorting, filters, records, comparisons, keyboard, narrow, dark, print, accessibility."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from massl_bench.core.galleries import FeatureMap, Gallery, Look, Neighbour, Query, Thumbnail
from massl_bench.records.activity import Activity
from massl_bench.records.comparison import Refusal, compare_rows
from massl_bench.report import serving
from massl_bench.report.comparison import comparison_page
from massl_bench.report.models import models_page
from massl_bench.report.page import leaderboard_page
from massl_bench.specs.registry import Registry
from tests.report.made import HOSTILE, board, record, write
from tests.report.served import served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.browser

CELLS = [
    ("knn", "cifar10"), ("linear", "cifar10"), ("knn", "imagenet-1k"), ("few-shot", "cifar10"), ("spectrum", "cifar10"),
]  # fmt: skip
MODELS = ["alpha", "beta", "gamma", "delta", "timm:vit_small_patch16_224.dino"]


def wait_for_text(found: Locator, text: str | re.Pattern[str]) -> None:
    """Waits until an element holds a text; a script in the page could not look for it, which its policy forbids."""
    from playwright.sync_api import expect

    expect(found).to_contain_text(text, timeout=30_000)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of five models on five cells, and of the hostile names."""
    folder = tmp_path_factory.mktemp("site")
    registry = Registry()
    (folder / "board.html").write_text(leaderboard_page(board(MODELS, CELLS), registry, href=""))
    (folder / "hostile.html").write_text(leaderboard_page(board(HOSTILE, CELLS), registry, href=""))
    write(folder, [record(MODELS[0], *CELLS[0], 0.7)])  # what a link may lead to
    return folder


@pytest.fixture
def visit(browser: Browser, site: Path) -> Iterator[Callable[..., Page]]:
    """Opens a page in a window of its own; at the end no console said anything, and nothing was asked of a network."""
    wrong: list[str] = []
    contexts = []

    def opened(name: str | Path = "board.html", width: int = 1400, **options: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: request.url.startswith("file:") or wrong.append(f"request: {request.url}"))  # type: ignore[call-overload, func-returns-value]
        page.goto((site / name).as_uri())  # an absolute name stays itself
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def column(page: Page, head: str, body: str = "ours") -> list[str]:
    """The values of a column of the table that is seen, from top to bottom."""
    return page.evaluate(
        """([head, body]) => {
            const table = [...document.querySelectorAll('table[data-section]')].find((t) => t.offsetParent);
            const cell = [...table.querySelectorAll('.heads th')].find((th) => th.innerText.includes(head));
            return [...table.querySelectorAll(`tbody.${body} tr:not(.title):not([hidden])`)]
                .map((row) => row.cells[cell.cellIndex])
                .map((found) => (found.querySelector('button, a') ?? found).innerText);
        }""",
        [head, body],
    )


def test_sorting(visit: Callable[..., Page]) -> None:
    page = visit()
    head = page.locator("th:visible", has_text="imagenet-1k").locator("button")
    head.click()
    down = [float(text) for text in column(page, "imagenet-1k")]
    assert down == sorted(down, reverse=True)
    published = [float(text) for text in column(page, "imagenet-1k", "published") if text]
    assert published == sorted(published, reverse=True)
    assert page.locator("th[aria-sort=descending]:visible").count() == 1
    head.click()
    assert [float(text) for text in column(page, "imagenet-1k")] == down[::-1]
    page.locator("th:visible", has_text="Model").locator("button").click()
    assert column(page, "Model") == sorted(MODELS)
    assert page.locator("[aria-sort]:visible").count() == 1


def test_filters(visit: Callable[..., Page]) -> None:
    page = visit()
    seen = lambda: sorted(column(page, "Model"))  # noqa: E731
    form = page.locator("form:visible")
    form.get_by_label("Model").fill("A")
    assert seen() == ["alpha", "beta", "delta", "gamma", MODELS[4]]
    form.get_by_label("Model").fill("amm")
    assert seen() == ["gamma"]
    assert form.locator("output").inner_text() == "1 of 5 models"
    form.get_by_role("button", name="Reset").click()
    wait_for_text(form.locator("output"), re.compile("^5"))
    form.get_by_label("Method").select_option("massl")
    assert seen() == ["alpha", "delta"]
    assert column(page, "Model", "published") == []
    form.get_by_label("Method").select_option("")
    form.get_by_label("Parameters, in millions, from").fill("2")
    form.get_by_label("Parameters, in millions, to").fill("3")
    assert seen() == ["beta", "gamma"]
    form.get_by_label("Epochs, from").fill("300")
    assert seen() == ["gamma"]
    form.get_by_role("button", name="Reset").click()
    wait_for_text(form.locator("output"), re.compile("^5"))
    form.get_by_label("published values").uncheck()
    assert column(page, "Model", "published") == []
    form.get_by_label("Precision").select_option("fp32")
    assert len(seen()) == 5


def test_a_value_opens_its_record(visit: Callable[..., Page]) -> None:
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    page.locator('td a[href^="#r"]:visible').first.click()
    dialog = page.locator("dialog")
    text = dialog.inner_text()
    for part in ("95 % interval", "temperature", "0.07", "sha256", "torch", "faiss-cpu", "massl-bench verify"):
        assert part in text, part
    assert dialog.locator("svg .curve").count() >= 3
    dialog.get_by_role("button", name="Copy").first.click()
    wait_for_text(page.locator("dialog"), "Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert re.fullmatch(r"massl-bench run --task [\w-]+ --dataset [\w-]+ --model \S+", copied)
    assert dialog.locator("a").get_attribute("href", timeout=1000).endswith(".json")
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert page.evaluate("document.activeElement.hash").startswith("#r")  # the focus is back where it was
    page.locator('td a[href^="#p"]:visible').first.click()
    assert "source" in dialog.inner_text()
    dialog.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()


def test_comparing_two_models(visit: Callable[..., Page]) -> None:
    page = visit()
    button = page.locator("button.compare:visible")
    assert button.is_disabled()
    page.get_by_label("Compare alpha", exact=True).locator("visible=true").check()
    assert button.is_disabled()
    page.get_by_label("Compare beta", exact=True).locator("visible=true").check()
    button.click()
    text = page.locator("dialog").inner_text()
    assert "2 models" in text
    assert re.search(r"[+−]\d+\.\d\d, (different|not told apart)", text)
    assert "massl-bench compare" in text


def test_the_keyboard_alone(visit: Callable[..., Page]) -> None:
    page = visit()
    focused = "(document.activeElement.innerText || document.activeElement.name || '').trim()"
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "To the tables"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('role')") == "tab":
            break
    first = page.evaluate(focused)
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) != first
    stops = 0
    while page.evaluate("document.activeElement.closest('table') === null"):
        page.keyboard.press("Tab")
        stops += 1
        assert stops < 20  # the table is one stop, and it is reached
    assert page.evaluate(focused) == "Model"
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort=ascending]:visible").count() == 1
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator("dialog").is_visible()  # the model
    page.keyboard.press("Escape")
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.hash").startswith("#r")
    page.keyboard.press("Enter")
    assert page.locator("dialog").is_visible()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.hash").startswith("#r")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.type") == "checkbox"
    page.keyboard.press("Space")
    assert page.locator("td.tick input:checked").count() == 1
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('table')") is None


@pytest.mark.parametrize("name", ["board.html", "hostile.html"])
def test_a_narrow_window(visit: Callable[..., Page], name: str) -> None:
    page = visit(name, width=400)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.locator("form:visible details").get_attribute("open") is None
    page.locator('td a[href^="#r"]:visible').first.click()
    box = page.locator("dialog").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 400
    inside = "(body => body.scrollWidth - body.clientWidth)(document.querySelector('#dialog-body'))"
    assert page.evaluate(inside) <= 1


def test_light_and_dark(visit: Callable[..., Page]) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = visit(color_scheme="light"), visit(color_scheme="dark")
    assert light.evaluate(ground) == "rgb(255, 255, 255)"
    assert dark.evaluate(ground) == "rgb(18, 22, 28)"
    dark.get_by_role("button", name="Change between light and dark").click()
    assert dark.evaluate(ground) == "rgb(255, 255, 255)"
    dark.reload()
    assert dark.evaluate(ground) == "rgb(255, 255, 255)"  # the choice is remembered


def test_print(visit: Callable[..., Page]) -> None:
    page = visit(color_scheme="dark")
    page.emulate_media(media="print")
    assert not page.locator("form").first.is_visible()
    assert page.locator("table[data-section]:visible").count() == 1
    assert page.evaluate("getComputedStyle(document.querySelector('.scroll')).overflow") == "visible"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_hostile_names_are_text(visit: Callable[..., Page]) -> None:
    page = visit("hostile.html")
    assert page.locator("img").count() == 0
    assert "<img src=x onerror=alert(1)>" in column(page, "Model")
    for place in range(len(HOSTILE)):
        page.locator("tbody.ours tr:visible").nth(place).locator("button").first.click()
        assert page.locator("dialog").is_visible()
        page.keyboard.press("Escape")
    for box in page.locator("tbody.ours tr:visible td.tick input").all():
        box.check()
    page.locator("button.compare:visible").click()
    assert page.locator("dialog img").count() == 0


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (1400, "dark"), (400, "light"), (400, "dark")])
def test_accessibility(visit: Callable[..., Page], width: int, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = visit(width=width, color_scheme=scheme, bypass_csp=True)
    findings = Axe().run(page).response["violations"]
    page.locator('td a[href^="#r"]:visible').first.click()
    findings += Axe().run(page, context="dialog").response["violations"]
    serious = [f for f in findings if f["impact"] in ("serious", "critical")]
    assert serious == [], [(f["id"], [node["html"][:200] for node in f["nodes"]][:3]) for f in serious]


def test_the_served_page_follows_its_records(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from axe_playwright_python.sync_playwright import Axe

    monkeypatch.setattr(serving, "_SECONDS_BETWEEN_LOOKS", 0.1)
    results = write(tmp_path / "results", [record(name, *CELLS[0], 0.7) for name in ("alpha", "beta")])
    wrong: list[str] = []
    with served(results) as port:
        context = browser.new_context(viewport={"width": 1400, "height": 900}, bypass_csp=True)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        own = f"http://127.0.0.1:{port}/"
        page.on("request", lambda request: request.url.startswith(own) or wrong.append(request.url))  # type: ignore[call-overload, func-returns-value]
        page.goto(own)
        page.get_by_text("Nothing is running").wait_for()
        head = page.locator("th:visible", has_text="Model").locator("button")
        head.click()
        head.click()
        page.locator("form:visible").get_by_label("Model").fill("a")
        page.get_by_label("Compare alpha", exact=True).locator("visible=true").check()
        run = Activity(results, total=2)
        with run.shown():
            run.begin(("gamma", *CELLS[0]))
            page.get_by_text("gamma knn cifar10").wait_for()
            assert page.locator("#live progress").get_attribute("max") == "2"
            names = ("alpha", "beta", "gamma")
            write(results, [record(name, *CELLS[0], 0.7) for name in names])
            wait_for_text(page.locator("table[data-section] tbody").first, "gamma")
            run.end(("gamma", *CELLS[0]), None)
            run.end(("<img src=x>", *CELLS[1]), "no such file")
        assert column(page, "Model") == ["gamma", "beta", "alpha"]  # still from z to a
        assert page.locator("form:visible").get_by_label("Model").input_value() == "a"
        assert page.locator("td.tick input:checked").count() == 1
        page.get_by_text("Nothing is running, failed: 1").wait_for()
        page.locator("#live-failed summary").click()
        assert "<img src=x> linear cifar10: no such file" in page.locator("#live-failed").inner_text()
        for width, scheme in itertools.product((1400, 400), ("light", "dark")):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            findings = Axe().run(page).response["violations"]
            assert [f["id"] for f in findings if f["impact"] in ("serious", "critical")] == []
        with page.expect_response(lambda answer: "/records/" in answer.url) as answer:
            page.locator('td a[href^="#r"]:visible').first.click()
            page.locator("#dialog a").last.click()
        assert answer.value.json()["identity"]["task"]["name"] == "knn"
        context.close()
    assert wrong == []


@pytest.fixture(scope="module")
def other_pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison, with a refusal and a hostile name, and a report with images."""
    folder = tmp_path_factory.mktemp("pages")
    rows = board(["alpha", HOSTILE[0]], CELLS).rows
    pairs = [(one, other) for one, other in zip(rows[:4], rows[len(CELLS) :], strict=False)]
    found, _ = compare_rows(pairs)
    refused = [Refusal(first=rows[0], second=rows[-1], reason="other items")]
    (folder / "comparison.html").write_text(comparison_page(found, refused))
    image = io.BytesIO()
    Image.new("RGB", (40, 40), (200, 90, 30)).save(image, "JPEG")
    thumbnail = Thumbnail(jpeg=image.getvalue(), label=HOSTILE[0])
    near = [Neighbour(image=thumbnail, right=right, similarity=0.5) for right in (True, False, None)]
    gallery = Gallery(title="Failures", text="1 of 3", queries=[Query(image=thumbnail, note="cat", neighbours=near)])
    points = FeatureMap(
        text="t-SNE of two items", points=[(0.2, 0.2), (0.8, 0.8)], classes=[0, 9], class_names=list("abcdefghij"),
        images=[thumbnail, Thumbnail(jpeg=image.getvalue(), label="second")],
    )  # fmt: skip
    look = Look(dataset="cifar10", galleries=[gallery], map=points, attention=[(thumbnail, thumbnail)])
    models = {name: [row for row in rows if row.record.identity.model.name == name] for name in ("alpha", HOSTILE[0])}
    (folder / "report.html").write_text(models_page(models, {}, {"alpha": [look]}, {"alpha": gallery}))
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["comparison.html", "report.html"])
def test_accessibility_of_other_pages(
    browser: Browser, other_pages: Path, visit: Callable[..., Page], name: str, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    for width in (1400, 400):
        page = visit(other_pages / name, width=width, color_scheme=scheme, bypass_csp=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("img[src=x]").count() == 0
        findings = Axe().run(page).response["violations"]
        serious = [f for f in findings if f["impact"] in ("serious", "critical")]
        assert serious == [], [(f["id"], [node["html"][:200] for node in f["nodes"]][:3]) for f in serious]
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_a_map_of_features(visit: Callable[..., Page], other_pages: Path) -> None:
    page = visit(other_pages / "report.html")
    page.locator(".map circle").nth(1).hover()
    assert page.locator(".map figcaption").inner_text() == "second"
    assert page.evaluate("document.querySelector('.map figure img').naturalWidth") == 40
    page.locator(".map > svg").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".map figcaption").inner_text() == HOSTILE[0]
    assert page.locator(".map circle.at").count() == 1
