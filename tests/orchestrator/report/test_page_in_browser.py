"""The page works in a real browser: by pointer and by keyboard, dark, narrow, and by itself."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.record.run_folder import read_rows
from orchestrator.report.page import write_page, write_report
from orchestrator.report.server import PageServer
from policy.types import JsonDict
from tests.browser import chromium, look, requested
from tests.written_runs import FAILURE, evaluation_row, metrics_row, write_run

EVIL = "</script><script>window.evil = 1</script><img src=x onerror='window.evil = 2'><b>bold</b>"
LONG = "averyveryverylongwordwithoutanyspace" * 6
LEFT, RIGHT, HOME, END, ESCAPE, ENTER = "\ue012\ue014\ue011\ue010\ue00c\ue007"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 80 steps with fixed prompts at five steps, and with groups of training."""
    at = {"seen": (0, 20, 40, 60, 80), "held_out": (0, 80)}
    path = tmp_path_factory.mktemp("runs") / "shapes"
    return write_run(path, 80, at, groups=(1, 41, 80))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Any, finished: Path) -> Any:
    """The report of the finished run, just opened."""
    return opened(browser, write_report(finished))


def opened(browser: Any, file: Path) -> Any:
    look(browser)
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(file.as_uri())
    return browser


def one(page: Any, selector: str) -> Any:
    return page.find_element("css selector", selector)


def texts(page: Any, selector: str) -> list[str]:
    return [found.text for found in page.find_elements("css selector", selector)]


def choose(page: Any, box: str, text: str) -> None:
    """Choose an option by the start of its text."""
    for option in page.find_elements("css selector", f"#{box} option"):
        if option.text.startswith(text):
            option.click()
            return
    raise AssertionError(f"{box} has no {text}")


def shown_scores(page: Any) -> list[float]:
    return [float(text) for text in texts(page, ".sample .caption b") if text != "failed"]


def test_a_page_from_the_disk_has_no_errors_and_asks_for_nothing(page: Any) -> None:
    """Not while it is used either: the console stays empty, and its own file is all it loads."""
    choose(page, "name", "groups of training")
    choose(page, "map", "over the image")
    one(page, ".views").click()
    one(page, "#zoom").send_keys(ESCAPE)
    one(page, "summary").click()
    assert page.get_log("browser") == []
    assert {address.partition("#")[0] for address in requested(page)} == {page.current_url}


def test_charts_show_their_values_by_keyboard_and_under_the_pointer(
    page: Any, finished: Path
) -> None:
    """The arrow keys walk through the steps, the pointer chooses the nearest one."""
    rows = read_rows(finished / "metrics.jsonl")
    chart = one(page, "#chart-1")
    chart.send_keys(LEFT)
    tip = one(page, "figure:nth-of-type(2) .tip")
    assert tip.text.split() == ["step", "80", "total", f"{rows[79]['reward/mean']:.3f}"]
    chart.send_keys(LEFT)
    assert tip.text.startswith("step 79")
    chart.send_keys(ESCAPE)
    assert not tip.is_displayed()
    page.execute_script(
        """const box = arguments[0].getBoundingClientRect();
        arguments[0].dispatchEvent(new PointerEvent("pointermove", {clientX: box.right - 2}));""",
        chart,
    )
    assert tip.text.startswith("step 80")


def test_a_chart_without_values_is_left_out(page: Any) -> None:
    """This run has no column of guidance; its charts are those that have a line to draw."""
    titles = texts(page, "figcaption b")
    assert "Guided minus conditional" not in titles
    assert {"Reward on fixed prompts", "Entropy", "Time of a step"} <= set(titles)
    drawn = page.find_elements("css selector", ".chart > svg")
    assert len(drawn) == len(titles)
    assert all(chart.find_elements("css selector", "path, circle") for chart in drawn)


def test_new_charts_are_as_high_as_the_old_ones(page: Any) -> None:
    """Before they are drawn, too: the page never becomes shorter, which would move what is read."""
    before, after = page.execute_script(
        """const data = JSON.parse(document.getElementById("data").textContent);
        const before = document.documentElement.scrollHeight;
        showCharts(document.getElementById("charts"), data.charts);
        return [before, document.documentElement.scrollHeight];"""
    )
    assert before == after


def test_the_slider_shows_the_same_prompts_at_another_step(page: Any) -> None:
    """By keyboard: the last of five recorded steps, then the one before it, then the first."""
    output, slider = one(page, "output"), one(page, "#step")
    prompts, pictures = texts(page, ".block h3"), [sources(page)]
    assert output.text == "80 (5 of 5 recorded)"
    slider.send_keys(LEFT)
    assert output.text == "60 (4 of 5 recorded)"
    pictures.append(sources(page))
    slider.send_keys(LEFT * 3)
    assert (output.text, slider.get_attribute("aria-valuetext")) == (
        "0 (1 of 5 recorded)",
        "step 0",
    )
    pictures.append(sources(page))
    assert texts(page, ".block h3") == prompts
    assert len(set(pictures)) == 3
    one(page, "#every").click()
    assert len(page.find_elements("css selector", ".sample")) == 5 * 6


def sources(page: Any) -> str:
    found = page.find_elements("css selector", ".sample img")
    return " ".join(picture.get_attribute("src") for picture in found)


def test_filters_leave_what_passes_them(page: Any) -> None:
    """By task, by the bounds of a score, and by what has failed, with the reason."""
    choose(page, "task", "spatial")
    assert texts(page, ".block .chip") == ["spatial"]
    choose(page, "task", "all tasks")
    before = shown_scores(page)
    middle = sorted(before)[3]
    one(page, "#least").send_keys(str(middle))
    assert shown_scores(page) == [score for score in before if score >= middle]
    one(page, "#most").send_keys("0")
    assert one(page, ".empty").text == "No sample passes these filters."
    page.refresh()
    choose(page, "name", "groups of training")
    choose(page, "shown", "failed")
    assert texts(page, ".sample .bad") == ["failed", f"structure: {FAILURE}"] * 2
    assert texts(page, ".sample .caption .soft") == ["not trained on"] * 2


def test_groups_are_sorted_by_score_and_by_entropy(page: Any, finished: Path) -> None:
    """Inside a group the images are in order too; a failed one comes last."""
    choose(page, "name", "groups of training")
    choose(page, "sort", "score, highest")
    group = texts(page, ".block:first-child .caption b")
    assert group[-1] == "failed"
    assert group[:-1] == sorted(group[:-1], reverse=True)
    rows = read_rows(finished / "samples" / "training.jsonl")
    rows = [row for row in rows if row["step"] == 80]
    choose(page, "sort", "image entropy, highest")
    means = [row["tokens"]["image"]["mean"] for row in rows]
    shown = texts(page, ".sample .caption b:first-child")
    first = rows[means.index(max(means))]
    assert shown.index("failed" if first["total"] is None else f"{first['total']:.3f}") in (0, 8)


def test_the_map_has_the_entropies_and_both_sets(page: Any, finished: Path) -> None:
    """The brightest cell is that of the highest entropy; a low cell has a blue rim, a high one an
    orange one."""
    sets = read_rows(finished / "samples" / "records.jsonl")
    (row,) = [
        r
        for r in sets
        if (r["set"], r["step"], r["prompt_id"], r["index"]) == ("seen", 80, "seen:0", 0)
    ]
    packed = row["tokens"]["image"]
    pixels = page.execute_script(
        """const canvas = document.querySelector(".sample canvas"), pen = canvas.getContext("2d");
        const cell = canvas.width / 8;
        const at = (x, y) => [...pen.getImageData(x, y, 1, 1).data].slice(0, 3);
        return [...Array(64).keys()].map((token) => {
          const [x, y] = [token % 8 * cell, Math.floor(token / 8) * cell];
          return [at(x + cell / 2, y + cell / 2), at(x + 2, y + cell / 2)];
        });"""
    )
    greys = [middle[0] for middle, _ in pixels]
    levels = page.execute_script("return [...bytes(arguments[0])]", packed["entropy"])
    assert [greys[token] for token in sorted(range(64), key=levels.__getitem__)] == sorted(greys)
    for token, (middle, rim) in enumerate(pixels):
        letter, left = packed["sets"][token], packed["sets"][token - 1] if token % 8 else "|"
        if letter != "-" and letter != left:
            assert rim[0] < rim[2] if letter == "l" else rim[0] > rim[2], (token, rim)
        elif letter == "-":
            assert rim == middle


def test_the_cot_is_shaded_and_its_sets_are_marked(page: Any, finished: Path) -> None:
    """Each token is a piece of its own, with its entropy and its set as a title."""
    rows = read_rows(finished / "samples" / "records.jsonl")
    row = next(row for row in rows if row["step"] == 80)
    packed = row["tokens"]["cot"]
    tokens = one(page, ".sample .cot").find_elements("css selector", "span")
    said = [token.get_attribute("textContent") for token in tokens]
    assert said == [*packed["pieces"][:-1], " ⏎"]
    sets = [token.get_attribute("class") or "-" for token in tokens]
    assert "".join(sets) == packed["sets"]
    colours = [token.value_of_css_property("background-color") for token in tokens]
    shades = [float(colour.rpartition(",")[2].strip(" )")) for colour in colours]
    levels = page.execute_script("return [...bytes(arguments[0])]", packed["entropy"])
    in_order = [shades[token] for token in sorted(range(len(levels)), key=levels.__getitem__)]
    assert in_order == sorted(shades)
    assert shades[levels.index(max(levels))] > 0.4


def test_an_image_opens_and_the_arrow_keys_walk_on(page: Any) -> None:
    """By keyboard alone: Enter opens it, the arrows show its neighbours, Escape closes it."""
    choose(page, "name", "groups of training")
    one(page, ".views").send_keys(ENTER)
    dialog = one(page, "#zoom")
    assert dialog.is_displayed()
    assert "advantage" in texts(dialog, "dt")
    assert one(dialog, ".small").text.startswith("1 of 16")
    one(dialog, "#next").send_keys(RIGHT)
    assert one(dialog, ".small").text.startswith("2 of 16")
    one(dialog, "#next").send_keys(LEFT * 2)
    assert one(dialog, ".small").text.startswith("16 of 16")
    assert FAILURE in dialog.text
    for _ in range(2):  # also after the dialog was filled again
        page.execute_script(HOVER, one(dialog, "canvas"))
        assert re.fullmatch(r"row 1, column 1: h 0\.\d\d, (low|high|neither) set", hint_of(page))
        one(dialog, "#next").send_keys(RIGHT)
    one(dialog, "#next").send_keys(ESCAPE)
    assert not dialog.is_displayed()
    assert page.get_log("browser") == []


def test_prompts_of_equal_text_are_told_apart(browser: Any, tmp_path: Path) -> None:
    """Each has its own block, and its own strip of steps in the dialog. After a click on a step of
    the strip the arrow keys still walk on, wherever the focus is."""
    folder = write_run(tmp_path / "run", 1, {"seen": (0, 20)}, prompts=2)
    file = folder / "samples" / "records.jsonl"
    rows = [row | {"prompt": "a red circle"} for row in read_rows(file)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = opened(browser, write_report(folder))
    assert texts(page, ".block h3") == ["a red circle"] * 2
    one(page, ".views").click()
    dialog = one(page, "#zoom")
    assert one(dialog, ".small").text.startswith("1 of 4")
    first, second = dialog.find_elements("css selector", ".strip button")
    assert (first.text, second.text) == ("step 0", "step 20")
    first.click()
    assert one(dialog, ".small").text.startswith("1 of 2")
    active = page.switch_to.active_element
    assert active.get_attribute("id") == "of-step-0"
    active.send_keys(RIGHT)
    assert one(dialog, ".small").text.startswith("2 of 2")
    one(dialog, "dt").click()
    page.switch_to.active_element.send_keys(RIGHT)
    assert one(dialog, ".small").text.startswith("1 of 2")


def test_maps_are_as_large_as_they_show(page: Any) -> None:
    """240 pixels in the list and 480 in the dialog; a map that is hidden is not drawn at all."""
    assert one(page, ".sample canvas").get_attribute("width") == "240"
    one(page, ".views").click()
    assert one(page, "#zoom canvas").get_attribute("width") == "480"
    one(page, "#zoom").send_keys(ESCAPE)
    choose(page, "map", "hidden")
    assert page.find_elements("css selector", ".sample canvas") == []


HOVER = """const box = arguments[0].getBoundingClientRect();
arguments[0].dispatchEvent(
  new PointerEvent("pointermove", {clientX: box.left + 3, clientY: box.top + 3}));"""


def hint_of(page: Any) -> str:
    hint = one(page, "#hint")
    assert hint.is_displayed()
    return str(hint.text)


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_readable_at_400_pixels(page: Any, dark: bool) -> None:
    """Nothing is wider than the window, and all text has a contrast of 4.5 or more."""
    look(page, 400, 900, dark)
    assert page.execute_script(
        "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )
    assert page.execute_script(CONTRASTS) == []
    one(page, ".views").click()
    box = one(page, "#zoom").rect
    assert 0 <= box["x"] <= box["x"] + box["width"] <= 400


CONTRASTS = """
function light(text) {
  const parts = text.match(/[0-9.]+/g).map(Number).slice(0, 3).map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
}
const paper = light(getComputedStyle(document.body).backgroundColor);
return [...document.querySelectorAll("h1, h2, h3, p, a, b, th, td, dt, dd, label, .chart text")]
  .filter((node) => node.textContent.trim())
  .map((node) => [node, getComputedStyle(node)])
  .map(([node, style]) => [node, light(node instanceof SVGElement ? style.fill : style.color)])
  .filter(([, ink]) => (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05) < 4.5)
  .map(([node]) => node.outerHTML.slice(0, 80));
"""


def test_words_of_the_model_stay_text(browser: Any, tmp_path: Path) -> None:
    """HTML in a prompt, a CoT, a token, a reason or a name is shown as it is and runs nothing; a
    word without spaces does not widen the page."""
    folder = write_run(tmp_path / "run", 2, {"seen": (0,)}, prompts=1)
    record = read_rows(folder / "samples" / "records.jsonl")[0]
    record["tokens"]["cot"] |= {"pieces": [EVIL, LONG], "sets": "lh"}
    record |= {"prompt": EVIL + LONG, "failures": {EVIL: EVIL + LONG}, "task": EVIL, "set": EVIL}
    (folder / "samples" / "records.jsonl").write_text(json.dumps(record) + "\n")
    (folder / "dropped.jsonl").write_text(
        json.dumps({"step": 1, "prompt": EVIL, "prompt_id": "1", "reasons": {EVIL + LONG: 1}})
    )
    (folder / "config.yaml").write_text(json.dumps({"name": EVIL + LONG}))
    page = opened(browser, write_report(folder))
    assert page.execute_script("return window.evil === undefined")
    assert page.get_log("browser") == []
    assert one(page, "h1").text == EVIL + LONG
    assert one(page, ".block h3").text == EVIL + LONG
    assert one(page, ".sample .cot span").text == EVIL
    assert page.find_elements("css selector", "main b:not([class]) b, img[src=x]") == []
    look(page, 400, 900)
    assert page.execute_script("return document.documentElement.scrollWidth") <= 400


def test_runs_are_compared_side_by_side(browser: Any, tmp_path: Path) -> None:
    """One line of each run in a chart, one row of each in the table, and the same prompt of both
    next to each other. The values of a step are those of both runs, though a point of the long one
    is the mean of two steps."""
    at = {"seen": (0, 20)}
    runs = [
        write_run(tmp_path / name, steps, at, planned=steps)
        for name, steps in (("a", 100), ("b", 480))
    ]
    page = opened(browser, write_page(runs, tmp_path / "comparison.html"))
    assert texts(page, "#charts figure:first-of-type .legend li") == ["a", "b"]
    assert texts(page, "#overview tbody th") == ["a", "b"]
    block = one(page, ".block")
    left, right = block.find_elements("css selector", ".row")
    assert [texts(row, ".runlabel")[0].split(",")[0] for row in (left, right)] == ["a", "b"]
    assert left.rect["y"] == right.rect["y"]
    assert left.rect["x"] < right.rect["x"]
    one(page, "#chart-1").send_keys(HOME)
    tip = one(page, "figure:nth-of-type(2) .tip")
    assert tip.text.startswith("step 1\n")
    assert texts(tip, "th") == ["a", "b"]
    assert page.get_log("browser") == []


def test_a_page_that_is_served_follows_its_run(browser: Any, tmp_path: Path) -> None:
    """New rows appear by themselves, and only this server is asked.

    The controls, what was typed into them, the values that show in a chart and the place on the
    page stay through new rows. Through new samples stay the controls, the one that has the focus
    and the prompts that show; the step stays too, but at the end of the slider the newest shows.
    """
    folder = write_run(tmp_path / "run", 20, {"seen": (0, 10)}, prompts=25)
    with PageServer([folder], port=0) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            address = server.address
            look(browser)
            browser.get(address)
            requested(browser)
            choose(browser, "sort", "score, lowest")
            least = one(browser, "#least")
            least.send_keys("0.")
            one(browser, "#chart-1").send_keys(LEFT)
            place = "return window.scrollY"
            browser.execute_script("window.scrollTo(0, 1e6)")
            before = browser.execute_script(place)
            add(folder / "metrics.jsonl", metrics_row(21, np.random.default_rng(0)))
            wait_for(browser, "#head", "21 of 80 training steps")
            tip = one(browser, "figure:nth-of-type(2) .tip")
            assert tip.text.startswith("step 20\n")
            assert browser.execute_script(place) == before
            least.send_keys("01")
            assert least.get_attribute("value") == "0.01"
            one(browser, ".more").click()
            slider = one(browser, "#step")
            slider.send_keys(LEFT)
            samples = read_rows(folder / "samples" / "records.jsonl")[-50:]
            records = folder / "samples" / "records.jsonl"
            add(records, *(sample | {"step": 20} for sample in samples))
            add(folder / "evaluations.jsonl", evaluation_row(20, "seen"))
            wait_for(browser, "#overview", "step 0 → 20, paired by prompt")
            wait_for(browser, "#images", "0 (1 of 3 recorded)")
            assert browser.switch_to.active_element == slider == one(browser, "#step")
            assert least == one(browser, "#least")
            assert one(browser, "#sort").get_attribute("value") == "worst"
            assert len(browser.find_elements("css selector", ".block")) == 25
            slider.send_keys(END)
            assert one(browser, "output").text == "20 (3 of 3 recorded)"
            add(records, *(sample | {"step": 21} for sample in samples))
            wait_for(browser, "#images", "21 (4 of 4 recorded)")
            assert set(requested(browser)) == {address + "data.json"}
            assert [e for e in browser.get_log("browser") if e["level"] != "INFO"] == []
        finally:
            server.shutdown()
            serving.join()


def add(file: Path, *rows: JsonDict) -> None:
    with file.open("a") as opened_file:
        opened_file.writelines(json.dumps(row) + "\n" for row in rows)


def wait_for(page: Any, part: str, text: str) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(page, 120).until(lambda _: text in one(page, part).text)
