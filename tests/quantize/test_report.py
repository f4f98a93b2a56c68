"""The report: one page that stands alone, in which nothing of others is markup, and the same as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from mimo_mobile.hub import Source
from mimo_mobile.manifest import Manifest
from mimo_mobile.progress import Progress
from mimo_mobile.quantize import report_data, report_file
from mimo_mobile.quantize.divergences import histogram_of
from mimo_mobile.quantize.gate import Check, Limits
from mimo_mobile.quantize.pipeline import quantize_checkpoint
from mimo_mobile.quantize.report_drawing import escaped
from mimo_mobile.quantize.report_file import Histogram, RecipeReport, Report, Shown
from mimo_mobile.quantize.report_page import page, write_page
from mimo_mobile.quantize.tensor_errors import TensorError
from mimo_mobile.ranges import LayerRange, ModelRanges
from mimo_mobile.scores import Divergence, Drafts, Score
from tests.schemas import check

EVIL = "</title></pre><script>alert(1)</script><img src=x onerror=alert(1)>" + "\"'&\0\x1b[31m\u202e{}javascript:"
SCORE = Score(20, 0.9, {EVIL: 0.9}, 1.1, 0.98, 88.0, "set", Drafts(800, 0.765))
APART = Divergence(4096, 2.1, 2.0, 0.2, 0.01, 0.1, 1.0, 4.0, 0.0, 0.8)
ERRORS = tuple(
    TensorError(f"model.{layer}.{kind}.weight", 0.01 * (number + 1))
    for number, layer in enumerate(("layers.0", "layers.1", "layers.10", "mtp_layers.0"))
    for kind in ("self_attn.q_proj", "mlp.down_proj")
)
RECIPE = RecipeReport(
    "q4_0", "gguf", "m-q4_0.gguf", "normal", 4.5, 4_300_000_000, "0" * 16, False, (Check("kld", 0.2, 0.8, True),),
    SCORE, APART, histogram_of(np.array([0.0, 1e-5, 0.3, 2.0])), ERRORS,
)  # fmt: skip
LOST = dataclasses.replace(
    RECIPE, recipe="int4_b128", rejected=True, size_bytes=4_100_000_000, checks=(Check("kld", 1.5, 0.8, False),),
    divergence=dataclasses.replace(APART, mean_kld=1.5),
)  # fmt: skip
RANGES = ModelRanges((LayerRange("layers.0", 1e5, 1, 2, 3, 4, 5, 6, 7, 8),), 0.25)
REPORT = Report(
    "m", {"fingerprint": "f"}, ("q4_0",), SCORE, (RECIPE, LOST),
    (Shown("What is 1 + 1?", "2", {"bf16": "<think>…</think>2", "q4_0": "<think>…</think>3"}),), RANGES,
)  # fmt: skip


class Seen(HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "rect", "line", "circle", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "line", "circle", "path"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def seen(report: Report) -> Seen:
    made = Seen(page(report))
    assert not made.open, "every element is closed"
    assert not made.tags & {"script", "img", "iframe", "object", "embed", "link", "base", "form", "a", "image", "use"}
    names = {name for name, _ in made.attributes}
    assert not {name for name in names if name.startswith("on")} and not names & {"src", "href", "xlink:href", "action"}
    assert not re.search(r"url\(|@import|https?:|//[a-z]", page(report).replace("http-equiv", ""))
    return made


def test_the_page_stands_alone_and_has_every_part() -> None:
    made = seen(REPORT)
    for words in (
        "Rejected: int4_b128 lost too much", "Summary", "Size and quality", "Errors by layer", "layer 10",
        "KL divergence of single predictions", "Answers side by side", "✗ wrong", "Ranges", "mean KL divergence 1.5000",
    ):  # fmt: skip
        assert words in made.text, words
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in made.attributes
    assert "prefers-color-scheme: dark" in page(REPORT)
    assert page(REPORT) == page(REPORT)
    assert all(("role", "img") in made.attributes for _ in range(1)) and "caption" in made.tags


@pytest.mark.parametrize(
    "report",
    [
        dataclasses.replace(REPORT, model=EVIL),
        dataclasses.replace(REPORT, source={"repository": EVIL, "revision": EVIL}),
        dataclasses.replace(
            REPORT, chosen=(EVIL,), recipes=(dataclasses.replace(RECIPE, recipe=EVIL, path=EVIL), LOST)
        ),
        dataclasses.replace(REPORT, shown=(Shown(EVIL, EVIL, {"bf16": EVIL, "q4_0": EVIL}),)),
        dataclasses.replace(
            REPORT, recipes=(dataclasses.replace(RECIPE, errors=(*ERRORS, TensorError(EVIL, 9.0))), LOST)
        ),
        dataclasses.replace(REPORT, ranges=ModelRanges((dataclasses.replace(RANGES.layers[0], layer=EVIL),))),
    ],
)
def test_what_comes_from_files_is_no_markup(report: Report, tmp_path: Path) -> None:
    made = seen(report)
    assert "<script>alert(1)</script>" in made.text
    for character in "\0\x1b\u202e":
        assert character not in made.text
    write_page(report, tmp_path).read_text(encoding="utf-8")


def test_escaped_texts_keep_lines_and_letters() -> None:
    assert escaped("a\n\t<ü计>") == "a\n\t&lt;ü计&gt;"


def test_what_was_not_measured_is_left_out() -> None:
    bare = dataclasses.replace(RECIPE, checks=(), score=None, divergence=None, histogram=None, errors=())
    made = seen(Report("m", {}, (), None, (bare,)))
    assert "Nothing was measured that could be judged." in made.text and "Errors by layer" not in made.text
    assert seen(Report("m", {})).text


def test_the_share_of_right_drafts_is_shown_where_there_is_an_mtp_layer() -> None:
    assert "right drafts" in seen(REPORT).text and seen(REPORT).text.count("76.5 %") == 3
    bare = dataclasses.replace(SCORE, drafts=None)
    recipes = tuple(dataclasses.replace(each, score=bare) for each in REPORT.recipes)
    without = seen(dataclasses.replace(REPORT, baseline=bare, recipes=recipes)).text
    assert "right drafts" not in without and "exact match" in without


def test_bf16_has_a_row_where_only_predictions_were_compared() -> None:
    recipes = tuple(dataclasses.replace(each, score=None) for each in REPORT.recipes)
    made = seen(dataclasses.replace(REPORT, baseline=None, recipes=recipes)).text
    assert "bf16, not kept" in made and "2.0000" in made and "exact match" not in made


def test_infinite_losses_and_no_losses_are_drawn(tmp_path: Path) -> None:
    broken = dataclasses.replace(APART, mean_kld=math.inf, p99_kld=math.inf, perplexity=math.inf)
    none = dataclasses.replace(APART, mean_kld=0.0, p99_kld=0.0)
    recipes = tuple(
        dataclasses.replace(RECIPE, recipe=name, divergence=apart, errors=(TensorError(ERRORS[0].tensor, error),))
        for name, apart, error in (("a", broken, math.inf), ("b", none, 0.0), ("c", APART, 0.1))
    )
    report = dataclasses.replace(REPORT, recipes=recipes, baseline=None)
    assert "inf" in seen(report).text
    report.write(tmp_path)
    check("report", tmp_path / "report.json")
    again = report_file.read(tmp_path / "report.json")
    assert again.recipes[0].errors[0].error == math.inf and math.isnan(again.recipes[0].divergence.mean_kld)  # type: ignore[union-attr]


def test_report_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    REPORT.write(tmp_path)
    assert report_file.read(tmp_path / "report.json") == REPORT


def test_histograms_count_what_lies_outside_in_the_outer_bars() -> None:
    found = histogram_of(np.array([0.0, 1e-30, 0.5, 1e6]))
    assert (found.counts[0], found.counts[-1], sum(found.counts)) == (2, 1, 4)
    assert list(found.edges) == sorted(found.edges) and len(found.edges) == len(found.counts) + 1


def test_a_run_leaves_a_report_and_the_next_one_keeps_what_it_knows(nano: Source, tmp_path: Path) -> None:
    steps: list[Progress] = []
    strict = {"q4_0": Limits(answer_growth=0.5), "q8_0": Limits()}
    quantize_checkpoint(nano, tmp_path, ["q8_0", "q4_0"], problems=5, tokens=256, limits=strict, progress=steps.append)
    first = report_file.read(tmp_path / "report.json")
    assert [(each.recipe, each.rejected) for each in first.recipes] == [("q8_0", False), ("q4_0", True)]
    assert all(each.errors and each.histogram and each.divergence for each in first.recipes)
    assert sum(first.recipes[0].histogram.counts) == first.recipes[0].divergence.tokens  # type: ignore[union-attr]
    assert len(first.shown) == 5 and set(first.shown[0].answers) == {"bf16", "q8_0", "q4_0"}
    assert first.recipes[1].path.endswith(".gguf.rejected")
    lost = json.loads((tmp_path / "manifest.json").read_text())["rejected"][0]
    assert re.search(r"; most was lost in (model\.\S+ \(\d+\.\d %\)(, )?){3}$", lost["reasons"][-1])
    assert "compare nano-q4_0.gguf" in {step.stage.replace("mimo-", "") for step in steps}
    steps.clear()
    quantize_checkpoint(nano, tmp_path, ["q8_0", "q4_0"], problems=5, tokens=256, limits=strict, progress=steps.append)
    assert not {step.stage for step in steps} & {"calibrate", "reference", "read"}
    assert report_file.read(tmp_path / "report.json") == first
    (tmp_path / "report.json").write_text("{")
    quantize_checkpoint(nano, tmp_path, ["q8_0"], problems=0, limits=strict)
    again = report_file.read(tmp_path / "report.json")
    assert again.chosen == ("q8_0",) and again.recipes[0].errors == first.recipes[0].errors and not again.shown


@pytest.mark.slow
def test_answers_of_a_file_that_was_made_anew_are_left_out(nano: Source, tmp_path: Path) -> None:
    quantize_checkpoint(nano, tmp_path, ["q8_0", "q4_0"], problems=3)
    quantize_checkpoint(nano, tmp_path, ["q4_0"], problems=0, effort="none")
    quantize_checkpoint(nano, tmp_path, ["q8_0"], problems=0)
    shown = report_file.read(tmp_path / "report.json").shown
    assert shown and all(set(each.answers) == {"bf16", "q8_0"} for each in shown)


def test_a_damaged_report_is_reported_and_counts_as_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "report.json").write_text("[]")
    state = Manifest("m", {"fingerprint": "f"})
    assert report_data.earlier(tmp_path, state) is None
    assert "report.json: not what mimo writes" in caplog.text


def test_a_report_on_another_checkpoint_counts_as_none(tmp_path: Path) -> None:
    REPORT.write(tmp_path)
    assert report_data.earlier(tmp_path, Manifest("m", {"fingerprint": "f"})) == REPORT
    assert report_data.earlier(tmp_path, Manifest("m", {"fingerprint": "g"})) is None


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium-headless-shell"), reason="apt-get install chromium-headless-shell")
@pytest.mark.parametrize("report", [REPORT, dataclasses.replace(REPORT, model=EVIL)])
def test_chromium_shows_the_page_without_scripts_and_network(report: Report, tmp_path: Path) -> None:
    place = write_page(report, tmp_path)
    command = ["chromium-headless-shell", "--no-sandbox", "--dump-dom", f"file://{place}"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.count("<section>") == 6 and "<script" not in result.stdout
    drawn = tmp_path / "page.png"
    subprocess.run([*command[:2], f"--screenshot={drawn}", command[-1]], check=True, capture_output=True, timeout=120)
    assert drawn.stat().st_size > 20_000


def test_a_histogram_is_kept_with_its_recipe() -> None:
    assert REPORT.of("q4_0", "0" * 16) is RECIPE and REPORT.of("q4_0", "1" * 16) is None
    assert isinstance(RECIPE.histogram, Histogram)
