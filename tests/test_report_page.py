"""The page of `entropyctl report` in a real browser: it asks for nothing, obeys nothing, and can be used by all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from entropyctl import registry

from .report_run import make_run

sync_api = pytest.importorskip("playwright.sync_api")
pytest.importorskip("plotly")
pytest.importorskip("tokenizers")

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
BROWSER = os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium; tests/install_browser.sh installs one")
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
SECTIONS = ["progress", "changes", "law", "passk", "rates", "discriminator", "difficulty", "forking"]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


@dataclass
class Seen:
    """What a page said and asked for while it was open."""

    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with hostile texts; its third step has a response of more tokens than are shown at first."""
    folder = tmp_path_factory.mktemp("page")
    run = make_run(folder / "run <b>&amp;", longest=900)
    page = folder / "report.html"
    assert registry.load_module("stages", "report").run([str(run), "-o", str(page), "--quiet"]) == 0
    return page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def opened(browser: Any, report: Path, seen: Seen) -> Iterator[Any]:
    """Opens the page: `opened(viewport=PHONE)`. Whatever it says or asks for is a fault."""
    contexts = []

    def open_page(path: Path = report, viewport: dict[str, int] = DESKTOP, **options: Any) -> Any:
        context = browser.new_context(viewport=viewport, **options)
        contexts.append(context)
        context.route("**/*", lambda route: watch(route, path))
        page = context.new_page()
        page.on("console", lambda message: seen.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: seen.said.append(str(error)))
        page.on("dialog", lambda dialog: (seen.said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(path.as_uri())
        page.wait_for_selector(".chart .main-svg")
        return page

    def watch(route: Any, path: Path) -> None:
        if route.request.url == path.as_uri():
            route.continue_()
        else:
            seen.asked.append(route.request.url)
            route.abort()

    yield open_page
    for context in contexts:
        context.close()
    assert (seen.said, seen.asked) == ([], [])


def all_drawn(page: Any) -> None:
    """Scroll through the page, as a reader does."""
    for name in SECTIONS:
        page.locator(f"#{name}").scroll_into_view_if_needed()
        page.wait_for_selector(f"#{name} .main-svg")


def open_response(page: Any, number: int = 0) -> Any:
    head = page.locator(".head").nth(number)
    head.click()
    return page.locator(".item", has=page.locator("[aria-expanded=true]"))


def test_every_section_is_drawn(opened: Any) -> None:
    page = opened()
    all_drawn(page)
    assert page.locator("main > section").evaluate_all("all => all.map((one) => one.id)") == [*SECTIONS, "responses"]
    for name in SECTIONS:
        marks = page.locator(f"#{name} .scatterlayer .point, #{name} .scatterlayer .js-line, #{name} .barlayer .point")
        assert marks.count() > 0, name
        titles = page.locator(f"#{name} .xtitle, #{name} .ytitle").all_text_contents()
        assert len(titles) >= 2 and all(titles), name
    assert page.locator("#forking tbody tr").count() == 20
    assert page.locator(".head").count() == 20


def test_figures_have_tooltips_for_the_mouse(opened: Any) -> None:
    page = opened()
    point = page.locator("#progress .scatterlayer .point").first
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#progress .hoverlayer .hovertext")
    assert "step 1" in page.locator("#progress .hoverlayer").text_content()


def test_figures_have_tooltips_for_the_keyboard(opened: Any) -> None:
    page = opened()
    chart = page.locator("#progress .chart")
    chart.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#progress .hoverlayer .hovertext")
    assert page.locator("#spoken").inner_text() == "entropy: 1, 1.35"
    page.keyboard.press("End")
    assert page.locator("#spoken").inner_text() == "entropy: 5, 0.885735"
    page.keyboard.press("ArrowDown")
    assert page.locator("#spoken").inner_text().startswith("reward: 5, ")
    page.wait_for_selector("#progress .hovertext:has-text('reward')")  # plotly holds back what comes too fast
    page.keyboard.press("Escape")
    page.wait_for_selector("#progress .hoverlayer .hovertext", state="detached")


def test_a_figure_has_its_numbers_as_a_table(opened: Any) -> None:
    page = opened()
    page.locator("#progress summary").click()
    rows = page.locator("#progress .numbers tr")
    assert [" ".join(rows.nth(i).inner_text().split()) for i in (0, 1)] == ["training step value", "entropy 1 1.35"]
    assert rows.count() == 11


def test_tokens_have_tooltips_for_mouse_and_keyboard(opened: Any) -> None:
    page = opened()
    tokens = open_response(page).locator(".tokens span")
    tip = page.locator("#tip")
    assert tip.is_hidden()
    tokens.nth(1).hover()
    assert tip.is_visible() and "place\n2, id" in tip.inner_text()
    for name in ("entropy H", "S*", "S* − E[S]", "advantage", "weight", "mismatch", "log p"):
        assert f"{name}\n" in tip.inner_text(), name
    page.mouse.move(5, 5)
    assert tip.is_hidden()
    tokens.nth(0).focus()
    assert tip.is_visible() and "place\n1, id" in tip.inner_text()
    for key, place in (("ArrowRight", 2), ("ArrowRight", 3), ("ArrowLeft", 2), ("End", tokens.count()), ("Home", 1)):
        page.keyboard.press(key)
        assert f"place\n{place}, id" in tip.inner_text(), key
    before = tokens.nth(0).bounding_box()["y"]
    page.keyboard.press("ArrowDown")
    focused = page.evaluate("document.activeElement.getBoundingClientRect().top + scrollY")
    assert focused > before and page.evaluate("document.activeElement.token.place") > 0
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_a_long_response_is_cut_and_can_be_seen_whole(opened: Any) -> None:
    page = opened()
    page.locator("[name=sort]").select_option("length-down")
    item = open_response(page)
    assert item.locator(".tokens span").count() == 500
    length = int(item.locator(".more").inner_text().split()[2])
    item.locator(".more").click()
    assert item.locator(".tokens span").count() == length > 500
    assert page.evaluate("document.activeElement.token.place") == 500


def test_filters_order_and_pages(opened: Any) -> None:
    page = opened()
    count, heads = page.locator(".count"), page.locator(".head")
    assert count.inner_text() == "1 to 20 of 60 responses" and page.locator("[name=back]").is_disabled()
    page.locator("[name=forth]").click()
    assert count.inner_text() == "21 to 40 of 60 responses"
    page.locator("[name=outcome]").select_option("correct")
    number = int(count.inner_text().split()[4])
    assert 0 < number < 60 and count.inner_text().startswith("1 to 20 of")
    assert set(page.locator(".head .outcome").all_inner_texts()) == {"correct"}
    page.locator("[name=outcome]").select_option("")
    page.locator("[name=step]").select_option("3")
    assert count.inner_text() == "1 to 12 of 12 responses that fit"
    page.locator("[name=prompt]").select_option("p1")
    assert count.inner_text() == "1 to 4 of 4 responses that fit"
    page.locator("[name=search]").fill("PROMPT 7 OF STEP 3")
    assert count.inner_text() == "1 to 1 of 1 responses that fit"
    page.locator("[name=search]").fill("nothing has this")
    assert (count.inner_text(), heads.count()) == ("No response fits these filters", 0)
    page.locator("[name=search]").fill("")
    page.locator("[name=step]").select_option("")
    page.locator("[name=prompt]").select_option("")
    page.locator("[name=why]").select_option("longest")
    assert 0 < heads.count() < 60
    page.locator("[name=why]").select_option("")
    for order, reverse in (("length-up", False), ("length-down", True)):
        page.locator("[name=sort]").select_option(order)
        lengths = [int(text.split(" tokens")[0].split()[-1]) for text in page.locator(".facts").all_inner_texts()]
        assert lengths == sorted(lengths, reverse=reverse) and lengths[0] != lengths[-1]


def test_the_colours_of_tokens_can_be_switched(opened: Any) -> None:
    page = opened()
    tokens = open_response(page).locator(".tokens span")

    def colours() -> list[str]:
        return tokens.evaluate_all("all => all.slice(0, 40).map((one) => one.style.backgroundColor)")

    by_entropy, about = colours(), page.locator("p.legend").inner_text()
    assert len(set(by_entropy)) > 10 and "entropy of the distribution" in about
    page.locator(".choices input").first.focus()
    page.keyboard.press("ArrowRight")
    by_score = colours()
    assert by_score != by_entropy and "S* = p (H + log p)" in page.locator("p.legend").inner_text()
    assert any("120, 220" in one for one in by_score) and any("240, 120" in one for one in by_score)
    page.locator(".choices label", has_text="advantage").click()
    assert len(set(colours())) == 1
    assert page.locator(".tokens .masked").count() > 0
    line = page.locator(".tokens .masked").first.evaluate("one => getComputedStyle(one).textDecorationLine")
    assert line == "line-through"


def lightness(color: str) -> float:
    numbers = [float(part) for part in color.partition("(")[2].rstrip(")").split(",")[:3]]
    return sum(numbers) / 765


def test_the_theme_is_that_of_the_system_and_can_be_chosen(opened: Any) -> None:
    page = opened(color_scheme="dark")
    style = "getComputedStyle(document.querySelector"
    look = f"[{style}('body')).backgroundColor, {style}('.xtick text')).fill]"
    back, text = page.evaluate(look)
    assert lightness(back) < 0.2 and lightness(text) > 0.5
    page.locator("#theme").select_option("light")
    page.wait_for_function("() => document.documentElement.dataset.theme === 'light'")
    back, text = page.evaluate(look)
    assert lightness(back) > 0.8 and lightness(text) < 0.5
    page.locator("#theme").select_option("")
    page.emulate_media(color_scheme="light")
    page.wait_for_function("() => document.documentElement.dataset.theme === 'light'")


def contrast(page: Any, selector: str) -> float:
    """The contrast of a text with the page's surfaces, by WCAG."""
    script = """(one) => {
      const light = (color) => {
        const linear = (n) => n / 255 <= 0.03928 ? n / 3294.6 : ((n / 255 + 0.055) / 1.055) ** 2.4;
        const [r, g, b] = color.match(/[\\d.]+/g).map(linear);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ground = getComputedStyle(document.querySelector("section")).backgroundColor;
      const pair = [getComputedStyle(one).color, ground].map(light);
      return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    }"""
    return float(page.locator(selector).first.evaluate(script))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(opened: Any, theme: str) -> None:
    page = opened(color_scheme=theme)
    for selector in ("h2", ".lead", ".kind", ".facts", "summary", ".count", "th", ".about"):
        assert contrast(page, selector) >= 4.5, selector


def test_a_phone_never_scrolls_sideways(opened: Any) -> None:
    page = opened(viewport=PHONE, is_mobile=True, has_touch=True)
    all_drawn(page)
    page.locator("[name=search]").fill("a line without an end")
    item = open_response(page)
    item.locator("summary", has_text="Prompt").tap()
    assert item.locator(".quoted").inner_text().endswith("more characters")
    page.locator("#forking summary").tap()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    item.locator(".tokens span").nth(2).tap()
    page.locator("#tip").wait_for()
    box = page.locator("#tip").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]


def test_what_models_wrote_stays_text(opened: Any) -> None:
    page = opened()
    all_drawn(page)
    item = open_response(page)
    item.locator("summary", has_text="Prompt").click()
    for text in ("<script>window.obeyed=1</script>", "\\u202eright to left", "\\x1b[31mred", "\\x00", "<b>bold</b>"):
        page.locator("[name=search]").fill(text)
        assert page.locator(".head").count() > 0, text
    words = open_response(page).locator(".tokens").inner_text()
    assert not {"\u202e", "\x1b", "\x00", "\u2028"} & set(words)
    assert page.evaluate("window.obeyed") is None
    assert page.locator("main img, main b:not(.about-row b), main script, main iframe").count() == 0
    assert page.locator("h1").inner_text() == "run <b>&amp;"
    assert page.title() == "run <b>&amp; · entropyctl report"


def test_the_page_can_neither_ask_nor_run_what_it_was_not_made_with(opened: Any, seen: Seen) -> None:
    page = opened()
    script = (
        "const one = document.createElement('script'); one.textContent = 'window.obeyed = 1'; document.body.append(one)"
    )
    page.evaluate(script)
    assert page.evaluate("window.obeyed") is None
    failed = page.evaluate("fetch('https://example.invalid/').then(() => 'answered', (error) => error.name)")
    assert failed == "TypeError"
    page.evaluate("document.body.append(Object.assign(new Image(), { src: 'https://example.invalid/a.png' }))")
    page.wait_for_timeout(200)
    assert seen.asked == []
    refused = [line for line in seen.said if "Content Security Policy" in line]
    assert len(refused) >= 3
    seen.said.clear()


def focus_of(page: Any) -> str:
    return str(
        page.evaluate("""(() => {
      const one = document.activeElement;
      const name = one.name || one.id || one.className || one.tagName.toLowerCase();
      return `${one.tagName.toLowerCase()} ${one.closest("section")?.id ?? ""} ${name}`;
    })()""")
    )


def test_the_keyboard_alone_reaches_everything(opened: Any) -> None:
    page = opened()
    page.locator("[name=search]").wait_for()
    reached = []
    for _ in range(90):
        page.keyboard.press("Tab")
        reached.append(focus_of(page))
        if reached[-1].endswith("forth"):
            break
    assert reached[0] == "a  skip" and "select  theme" in reached
    for name in SECTIONS:
        assert any(one.startswith(f"div {name} chart") for one in reached), name
        assert f"summary {name} summary" in reached, name
    for name in ("search", "outcome", "step", "prompt", "why", "sort", "colour", "forth"):
        assert any(one.endswith(f"responses {name}") for one in reached), (name, reached)
    assert sum(one == "button responses head" for one in reached) == 20
    assert reached.count("div responses tokens") == 0
    page.locator(".head").first.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.token.place") == 0
    assert page.locator("#tip").is_visible()
    page.keyboard.press("Tab")
    assert page.locator("#tip").is_hidden()


def test_a_page_without_responses_says_so(opened: Any, report: Path, tmp_path: Path) -> None:
    metrics = next(report.parent.glob("run*")) / "metrics"
    page_file = tmp_path / "metrics.html"
    assert registry.load_module("stages", "report").run([str(metrics), "-o", str(page_file), "--quiet"]) == 0
    page = opened(page_file)
    assert page.locator("#progress .chart").count() == 1
    for name in ("passk", "rates", "discriminator", "difficulty", "forking", "responses"):
        assert page.locator(f"#{name} .missing").inner_text().startswith("Nothing to show: it needs "), name
