"""The chat page in headless Chromium, on a real server: what a person sees, types and hears of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from mimo_mobile.runtime import Model
from tests.runtime.server.conftest import Gate, Served, serving
from tests.runtime.server.test_server import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium-headless-shell")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs("playwright"),
    pytest.mark.skipif(CHROMIUM is None, reason="apt-get install chromium-headless-shell"),
]

FORMULAS = {
    r"\frac{a+1}{2b}": "<mfrac><mrow><mi>a</mi><mo>+</mo><mn>1</mn></mrow><mrow><mn>2</mn><mi>b</mi></mrow></mfrac>",
    r"x_1^{n+1}": "<msubsup><mi>x</mi><mn>1</mn><mrow><mi>n</mi><mo>+</mo><mn>1</mn></mrow></msubsup>",
    r"x^23": "<msup><mi>x</mi><mn>2</mn></msup><mn>3</mn>",
    r"\sqrt[3]{8}": "<mroot><mn>8</mn><mn>3</mn></mroot>",
    r"\sum_{k=1}^n k": "<munderover><mo>∑</mo><mrow><mi>k</mi><mo>=</mo><mn>1</mn></mrow><mi>n</mi></munderover>"
    "<mi>k</mi>",
    r"\begin{pmatrix}1&2\\3&4\end{pmatrix}": "<mrow><mo>(</mo><mtable>"
    "<mtr><mtd><mn>1</mn></mtd><mtd><mn>2</mn></mtd></mtr>"
    "<mtr><mtd><mn>3</mn></mtd><mtd><mn>4</mn></mtd></mtr></mtable><mo>)</mo></mrow>",
    r"\text{if } x \le \pi": "<mtext>if </mtext><mi>x</mi><mo>≤</mo><mi>π</mi>",
    r"\mathbb{R}": "<mi>ℝ</mi>",
    r"\left( x \right)": '<mrow><mo stretchy="true">(</mo><mi>x</mi><mo stretchy="true">)</mo></mrow>',
    r"f'": "<msup><mi>f</mi><mo>′</mo></msup>",
}
UNREADABLE = (r"\frac{1", r"\foo", "}", "{" * 5000, r"\begin{x}\end{x}", r"\begin{cases}", "x^", r"\left(")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


def opened(browser: Browser, running: Served) -> Page:
    """The page, whose errors and requests to elsewhere fail the test."""
    page = browser.new_page()
    page.set_default_timeout(60_000)

    def fail(what: Any) -> None:
        raise AssertionError(what)

    page.on("pageerror", fail)
    page.on("request", lambda request: None if request.url.startswith((running.url, "blob:")) else fail(request.url))
    page.goto(running.url)
    return page


def test_a_question_is_answered_edited_and_forgotten(browser: Browser, served: Served) -> None:
    from playwright.sync_api import expect

    page = opened(browser, served)
    expect(page.get_by_role("heading", level=1)).to_have_text("nano")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Your question").fill("What is 348 + 27 * 6?")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("The answer is complete.")
    expect(page.locator("article").nth(1)).to_contain_text("510")
    thinking = page.locator(".thinking")
    expect(thinking).to_be_hidden()
    page.get_by_text("Thinking (").click()
    expect(thinking).to_contain_text("348+162")
    page.get_by_label("Your question").fill("And 12 + 30?")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("article")).to_have_count(4)
    expect(page.get_by_role("status")).to_have_text("The answer is complete.")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as Markdown").click()
    saved = download.value.path().read_text("utf-8")
    assert saved.count("## ") == 2 and "## What is 348 + 27 * 6?" in saved and "\n510\n" in saved
    page.get_by_role("button", name="Edit").first.click()
    expect(page.locator("article")).to_have_count(0)
    expect(page.get_by_label("Your question")).to_have_value("What is 348 + 27 * 6?")
    page.close()


def test_escape_stops_an_answer_and_the_server_hears_of_it(browser: Browser, model: Model, gate: Gate) -> None:
    from playwright.sync_api import expect

    with serving(model) as running:
        page = opened(browser, running)
        page.get_by_label("Your question").fill("What is 779 - 343?")
        page.keyboard.press("Enter")
        until(gate.reached.is_set)
        page.keyboard.press("Escape")
        expect(page.get_by_role("status")).to_have_text("Stopped.")
        expect(page.get_by_label("Your question")).to_have_value("What is 779 - 343?")
        until(lambda: running.metric("mimo_requests_running") == 0)
        page.close()


def test_a_server_with_a_key_is_asked_once_the_key_is_in_the_settings(browser: Browser, model: Model) -> None:
    from playwright.sync_api import expect

    with serving(model, api_key="secret") as running:
        page = opened(browser, running)
        expect(page.get_by_role("status")).to_contain_text("the API key is missing or wrong")
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("API key").fill("secret")
        page.get_by_label("Your question").fill("What is 5 + 5 + 5 + 5?")
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_have_text("The answer is complete.")
        page.close()


def test_formulas_are_drawn_and_what_is_none_stays_as_it_is(browser: Browser, served: Served) -> None:
    page = opened(browser, served)
    for source, expected in FORMULAS.items():
        drawn = page.evaluate("(source) => formula(source, false).firstChild.innerHTML", source)
        assert drawn.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "") == expected
    for source in UNREADABLE:
        assert page.evaluate("(source) => formula(source, false).outerHTML", source) == f"<code>{source}</code>"
    page.close()


def test_what_a_model_says_is_text_and_never_html(browser: Browser, served: Served) -> None:
    page = opened(browser, served)
    hostile = (
        "<img src=x onerror=alert(1)> **<b>x</b>** `</code>` $\\text{<script>}$\n\n| <i>a</i> |\n|---|\n| $5 and $6 |"
    )
    tags = page.evaluate(
        """(text) => { const place = document.createElement("div"); place.append(...blocks(text));
        return [...place.querySelectorAll("*")].map((each) => each.localName); }""",
        hostile,
    )
    assert set(tags) == {"p", "strong", "code", "math", "mrow", "mtext", "table", "thead", "tbody", "tr", "th", "td"}
    assert page.evaluate("fetch('https://example.org').then(() => 'sent', () => 'refused')") == "refused"
    page.close()


def test_both_themes_have_text_that_can_be_read(browser: Browser, served: Served) -> None:
    def brightness(colour: str) -> float:
        parts = [int(each) / 255 for each in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    page = opened(browser, served)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        for selector in ("body", "#status", "#clear"):
            back, front = page.evaluate(
                "(each) => [document.body, document.querySelector(each)].map((place, at) =>"
                " getComputedStyle(place)[at ? 'color' : 'backgroundColor'])",
                selector,
            )
            light, dark = sorted([brightness(back), brightness(front)], reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (scheme, selector, back, front)  # WCAG 2.2, level AA
    page.close()
