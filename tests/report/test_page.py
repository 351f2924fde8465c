"""The results page, in a real browser, from a file. Tests that need a browser are skipped if there is none, unless
BENCH_BROWSER=required.

Debian: apt-get install chromium chromium-driver
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from bench.config.registry import Registry
from bench.report import page
from bench.report.suite_report import build_suite_report
from bench.runs.record import Code, DatasetSummary, Hardware, Precision
from tests.helpers.synthetic import (
    make_run,
    make_teacher,
    methods,
    quick_run,
    registry_with_methods,
    runs_of_suite,
    three_seeds,
    varied_suite,
)

PHONE, DESKTOP = (390, 844), (1440, 900)
START = "accelerate launch bench/run.py --recipe deit_micro/digits/"
HOSTILE = [
    "</script><script>window.attacked = 1</script>",
    "<img src=x onerror='window.attacked = 1'>",
    "javascript:window.attacked=1",
    "\u2028window.attacked = 1;\u2029//",
    "{{ data }}<!--<script>",
    '"><svg onload=window.attacked=1>',
]
registry = Registry()
quick, paper = registry.suite("quick"), registry.suite("paper")


def made_report(suite, count, recipes=registry):
    """The report of a suite with `count` runs. In large suites some runs diverged and some cells have none."""
    return build_suite_report(recipes, suite, runs_of_suite(recipes, suite, count))


@pytest.fixture(scope="module")
def thousand():
    return made_report(paper, 1000)


@pytest.fixture(scope="module")
def large(thousand):
    return page.render_page([thousand, made_report(quick, 6)])


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """The page of three students, two datasets and fifteen methods: baseline, m1, m2 …"""
    names = [f"m{number}" for number in range(1, 15)]
    recipes = registry_with_methods(tmp_path_factory.mktemp("recipes"), names)
    parts = {"models": paper.models[:3], "datasets": paper.datasets[:2], "rows": methods("baseline", *names)}
    return page.render_page([made_report(dataclasses.replace(paper, **parts), 270, recipes)])


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    binary, service = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not (binary and service):
        (pytest.fail if os.environ.get("BENCH_BROWSER") == "required" else pytest.skip)("no chromium and chromedriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    words = "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-sync"
    for word in (*words.split(), "disable-component-update", f"user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(service))
    yield browser
    browser.quit()


@pytest.fixture
def show(driver, tmp_path):
    """Opens a page as a file. The test fails at its end if the browser's console has an error."""

    def show(text, address="", size=DESKTOP):
        (tmp_path / "index.html").write_text(text, encoding="utf-8")
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        driver.get("about:blank")
        driver.get_log("browser")
        driver.get((tmp_path / "index.html").as_uri() + address)
        # on a busy machine `get` sometimes returns while the page is loading
        WebDriverWait(driver, 30).until(lambda driver: driver.execute_script("return document.readyState") == "complete")
        return driver

    yield show
    assert [entry["message"] for entry in driver.get_log("browser")] == []


def one(driver, selector):
    return driver.find_element("css selector", selector)


def all_of(driver, selector):
    return driver.find_elements("css selector", selector)


def texts(driver, selector):
    return driver.execute_script("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector)


def rows_shown(driver):
    """The ids of the rows that the table shows, without the method if there is only `guided`."""
    script = "return [...document.querySelectorAll('tr[data-id]')].filter(r => r.offsetHeight).map(r => r.dataset.id)"
    return [name.removesuffix("/guided") for name in driver.execute_script(script)]


def press(driver, *keys):
    ActionChains(driver).send_keys(*keys).perform()


def colours_in(driver, selector):
    """The number of colours in a canvas: those of lines, bands and text, or one if it is empty."""
    script = """
        const canvas = document.querySelector(arguments[0]);
        const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        return new Set(new Uint32Array(data.buffer)).size"""
    return driver.execute_script(script, selector)


def test_the_page_is_one_small_file_that_is_the_same_each_time(thousand, large):
    report = made_report(quick, 6)
    assert large == page.render_page([thousand, report]) and len(large.encode()) < 2.3e6
    assert len(page.render_page([report]).encode()) < 2**18
    assert not re.findall(r"""(?:src|href)=["']?(?!data:|#)[^"' >]+""", large.partition("<body>")[0])  # nothing is fetched
    assert "default-src 'none'" in large and "'unsafe-eval'" not in large


def test_the_chart_library_is_as_its_authors_released_it():
    listed = re.findall(r"^([0-9a-f]{64})  (\S+)$", (page.PARTS / "uPlot.sha256").read_text(), re.MULTILINE)
    assert len(listed) == 2
    for digest, name in listed:
        assert hashlib.sha256((page.PARTS / name).read_bytes()).hexdigest() == digest


def test_a_row_shows_what_the_frame_says_in_both_themes(show):
    report = made_report(quick, 6)
    driver, row = show(page.render_page([report])), report.cells.set_index("method").loc["guided"]
    text = one(driver, "tr[data-id]").text
    for value in (f"{row['last_mean']:.2f}", f"{row['gain_mean']:+.2f}", f"{row['gain_low']:+.2f} to", row["verdict"]):
        assert value in text
    assert f"{row['speedup_epochs_mean']:.1f}×" in text and report.protocol_note in one(driver, ".suite").text
    background = "return getComputedStyle(document.documentElement).backgroundColor"
    light = driver.execute_script(background)
    one(driver, "#theme").click()
    assert driver.execute_script(background) != light and colours_in(driver, ".panel canvas") > 20


def test_sorting_by_click_and_by_key(show, thousand, large):
    driver = show(large)
    in_order = rows_shown(driver)
    guided = thousand.cells[(thousand.cells["method"] == "guided") & (thousand.cells["dataset"] == "cifar100")]
    by_gain = [f"{model}/cifar100" for model in guided.sort_values("gain_mean", ascending=False)["model"]]
    header = one(driver, ".suite:not([hidden]) th[data-key=gain]")
    header.find_element("css selector", "button").click()
    assert header.get_attribute("aria-sort") == "descending" and rows_shown(driver)[:8] == by_gain
    assert rows_shown(driver)[-1] == in_order[-1]  # has no gain, and is last in either direction
    press(driver, Keys.ENTER)  # the button has the focus
    assert header.get_attribute("aria-sort") == "ascending" and rows_shown(driver)[:8] == by_gain[::-1]
    assert rows_shown(driver)[-1] == in_order[-1]
    press(driver, " ")
    assert header.get_attribute("aria-sort") is None and rows_shown(driver) == in_order
    one(driver, "th[data-key=student] button").click()
    names = [name.partition("/")[0] for name in rows_shown(driver)[:8]]
    assert names[0] == "convit_tiny" and names.index("t2t_vit_7") < names.index("t2t_vit_14")


def test_filtering_by_words_and_by_choice(show, large):
    driver = show(large)
    one(driver, "[name=search]").send_keys("tiny  CIFAR100 ")
    assert rows_shown(driver) == [f"{model}/cifar100" for model in paper.models if "tiny" in model]
    assert texts(driver, ".shown")[0] == "Rows shown: 4 of 32"
    one(driver, "button[type=reset]").click()
    Select(one(driver, "[name=dataset]")).select_by_visible_text("chaoyang")
    assert rows_shown(driver) == [f"{model}/chaoyang" for model in paper.models]
    Select(one(driver, "[name=status]")).select_by_visible_text("not run")
    assert "cvt_13/chaoyang" in rows_shown(driver) and "deit_tiny/chaoyang" not in rows_shown(driver)
    one(driver, "[name=search]").send_keys("nothing has this")
    assert rows_shown(driver) == [] and texts(driver, ".shown")[0] == "No row passes the filters."
    one(driver, "button[type=reset]").click()
    assert len(rows_shown(driver)) == 32 and driver.switch_to.active_element.get_attribute("name") == "search"


def test_a_cell_opens_with_enter_and_closes_with_escape(show):
    runs = runs_of_suite(registry, quick, 6)
    settings = ["train.device=cpu", "data.places=[it's here, x]"]
    runs[1] = dataclasses.replace(runs[1], record=dataclasses.replace(runs[1].record, settings=settings))
    report = build_suite_report(registry, quick, runs)
    driver = show(page.render_page([report]))
    driver.execute_script("document.querySelector('tr[data-id] button').focus()")
    press(driver, Keys.ENTER)
    dialog, row = one(driver, "dialog[open]"), report.cells.set_index("method").loc["guided"]
    assert "deit_micro on digits" in dialog.text and f"guided ends {row['gain_mean']:.2f} points above" in dialog.text
    assert f"after {row['epochs_to_reach_mean']:.1f} epochs" in dialog.text and "Synthetic GPU" in dialog.text
    commands = [text.strip() for text in texts(driver, "dialog .command code")]
    assert commands == [f"{START}{method} --suite quick --seed 0" for method in quick.guidance]
    driver.execute_script("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    all_of(driver, "dialog .runs button")[1].click()
    assert driver.execute_script("return window.copied") == (
        f"{START}baseline --suite quick --set train.device=cpu --set 'data.places=[it'\"'\"'s here, x]' --seed 1"
    )
    assert len(texts(driver, "dialog .runs tbody tr")) == 6 and runs[0].record.code.commit[:10] in dialog.text
    whole, recipe = texts(driver, "dialog pre")
    assert "method: locality" in recipe and runs[-1].record.hash in recipe and "\nseed:" not in recipe
    assert "\ntrain:" in whole and "\ntrain:" not in recipe  # only what differs from the baseline's
    by_epoch = colours_in(driver, "dialog canvas")
    driver.execute_script("document.querySelector('dialog').scrollTop = 0")
    one(driver, "dialog label:has([value=time])").click()
    one(driver, "dialog [name=seeds]").click()
    assert colours_in(driver, "dialog canvas") != by_epoch
    assert "wall time" in one(driver, "dialog .chart").get_attribute("aria-label")
    press(driver, Keys.ESCAPE)
    assert all_of(driver, "dialog[open]") == []
    # the focus comes back with the event "close", which the browser sends after it has closed the dialog
    script = "return document.activeElement.textContent.startsWith('deit_micro')"
    WebDriverWait(driver, 30).until(lambda driver: driver.execute_script(script))


def test_the_address_restores_the_view(show, large):
    driver = show(large)
    one(driver, "#suites [value=quick]").click()
    assert rows_shown(driver) == ["deit_micro/digits"]
    one(driver, "#suites [value=paper]").click()
    one(driver, "th[data-key=speedup] button").click()
    one(driver, "[name=search]").send_keys("pit")
    one(driver, "tr[data-id]:not([hidden]) button").click()
    one(driver, "#next").click()
    shown, title = rows_shown(driver), one(driver, "#cell-title").text
    show(large, driver.execute_script("return location.hash"))
    assert rows_shown(driver) == shown and one(driver, "#cell-title").text == title != ""
    assert one(driver, "th[data-key=speedup]").get_attribute("aria-sort") == "descending"
    one(driver, "#close").click()
    WebDriverWait(driver, 10).until(lambda driver: "cell" not in driver.execute_script("return location.hash"))


@pytest.mark.parametrize("address", ["", "#cell=deit_tiny%2Fcifar100%2Fm7"])
def test_on_a_phone_nothing_is_wider_than_the_screen_and_buttons_are_large(show, many, address):
    driver = show(many, address, PHONE)
    assert driver.execute_script("return document.documentElement.scrollWidth") == PHONE[0]
    where = "dialog[open] " if address else "main "
    selector = ", ".join(where + kind for kind in ("button", "select", "input[type=search]", "summary"))
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.offsetHeight).filter(Boolean)"
    heights = driver.execute_script(script, selector)
    assert len(heights) > 3 and min(heights) >= 40
    assert driver.execute_script("const d = document.querySelector('dialog'); return d.scrollWidth <= d.clientWidth")


def test_fifteen_methods_have_rows_and_their_curves_are_chosen(show, many):
    driver = show(many, "#student=t2t_vit_7&dataset=cifar100&sort=gain-desc")
    assert len(rows_shown(driver)) == 14 and len(texts(driver, ".methods tbody tr")) == 14
    assert driver.execute_script("return document.documentElement.scrollWidth") <= DESKTOP[0]
    one(driver, "tr[data-method=m7]:not([hidden]) button").click()
    checked = "return [...document.querySelectorAll('dialog [name=method]:checked')].map(box => box.value)"
    chosen = driver.execute_script(checked)
    assert chosen[0] == "baseline" and "m7" in chosen and len(chosen) <= 5
    colours = "return [...document.querySelectorAll('dialog .readout span')].map(e => e.style.getPropertyValue('--colour'))"
    assert len(set(driver.execute_script(colours))) == len(chosen)  # the reference and each method have their own
    name = next(name for name in (f"m{number}" for number in range(1, 13)) if name not in chosen)
    one(driver, f".chooser tr:has([value={name}]) td").click()  # anywhere in its row
    assert set(driver.execute_script(checked)) == {*chosen, name} and name in one(driver, "dialog .readout").text
    driver.execute_script("document.querySelectorAll('dialog [name=method]:checked').forEach(box => box.click())")
    assert one(driver, "dialog .readout").text == "No method is selected."


def test_varied_values_have_rows_filters_curves_and_addresses(show, tmp_path):
    recipes, suite = varied_suite(tmp_path)
    report = made_report(suite, 12, recipes)
    driver = show(page.render_page([report]))
    few, many = (f"deit_micro/digits/data.train_limit={limit}" for limit in (100, 1000))
    assert rows_shown(driver) == [few, many]
    assert [text.strip() for text in texts(driver, ".panel h3")] == [
        f"deit_micro on digits, data.train_limit={n}" for n in (100, 1000)
    ]
    Select(one(driver, "[name=variant]")).select_by_visible_text("data.train_limit=1000")
    assert rows_shown(driver) == [many]
    one(driver, "button[type=reset]").click()
    one(driver, "[name=search]").send_keys("train_limit=100 ")
    one(driver, "tr[data-id]:not([hidden]) button").click()
    dialog, gains = one(driver, "dialog[open]"), report.cells.set_index(["variant", "method"])["gain_mean"]
    assert one(driver, "#cell-title").text == "deit_micro on digits, data.train_limit=100"
    assert f"{abs(gains['data.train_limit=100', 'guided']):.2f} points" in dialog.text
    assert colours_in(driver, "dialog canvas") > 20
    commands = [text.strip() for text in texts(driver, "dialog .command code")]
    assert commands[1] == f"{START}guided --suite varied --set data.train_limit=100 --recipes-dir DIR --seed 0"
    title = one(driver, "#cell-title").text
    show(page.render_page([report]), driver.execute_script("return location.hash"))
    assert one(driver, "#cell-title").text == title


def test_a_teacher_of_unknown_seconds_has_no_speed_up_with_its_training():
    text = page.render_page([build_suite_report(registry, quick, three_seeds())])
    assert "with the teacher’s training" in text
    unknown = dataclasses.replace(quick_run("guided", 0).record.teacher, seed=None, epochs=None, seconds=None)
    text = page.render_page([build_suite_report(registry, quick, three_seeds(teacher=unknown))])
    assert "in wall time" in text and "with the teacher’s training" not in text


def test_epochs_that_were_not_evaluated_have_no_points(show, tmp_path):
    recipes, suite = varied_suite(tmp_path, "vary: {train.evaluate_every: [1, 7]}")
    runs = runs_of_suite(recipes, suite, 12)
    report = build_suite_report(recipes, suite, runs)
    driver = show(page.render_page([report]), "#cell=deit_micro%2Fdigits%2Ftrain.evaluate_every%3D7%2Fguided")
    assert colours_in(driver, "dialog canvas") > 20
    mean = report.cells.set_index(["variant", "method"]).at[("train.evaluate_every=7", "guided"), "last_mean"]
    assert f"guided {mean:.1f} %" in one(driver, "dialog .readout").text
    (curve,) = {tuple(run.history["test_accuracy"]) for run in runs if run.key == runs[-1].key}
    assert [epoch for epoch, value in enumerate(curve, 1) if value is not None] == [7, 14, 20]
    figure = one(driver, "dialog .chart .u-over")
    ActionChains(driver).move_to_element(figure).perform()  # between two evaluations
    at_7 = report.curves[report.curves["variant"].str.endswith("=7") & (report.curves["epoch"] == 7)]
    means = at_7.groupby("method")["test_accuracy"].mean()
    assert f"guided {means['guided']:.1f} %" in one(driver, "dialog .readout").text


def test_another_reference_and_runs_without_a_pair(show):
    runs = runs_of_suite(registry, quick, 6)
    other = dataclasses.replace(runs[-1].record, precision=Precision("fp32", "fp32"))
    runs[-1] = dataclasses.replace(runs[-1], record=other)
    report = build_suite_report(registry, dataclasses.replace(quick, reference="guided"), runs)
    driver = show(page.render_page([report]), "#cell=deit_micro%2Fdigits%2Fbaseline")
    assert "over guided, last epoch" in one(driver, ".tiles").text
    assert "1 seed not paired: other precision" in one(driver, "tr[data-id]").text
    assert "points below" in one(driver, "dialog[open]").text.replace("\n", " ")
    assert "guided (2 seeds: too few seeds to say)" in one(driver, "dialog[open]").text.replace("\n", " ")


def test_text_in_records_stays_text(show):
    runs = []
    for number, evil in enumerate(HOSTILE):
        recipe = registry.compose(f"deit_micro/digits/{quick.guidance[number % 2]}", suite=quick)
        changes = {
            "hardware": Hardware(evil, evil, 8),
            "code": Code(evil, evil, True),
            "dataset": DatasetSummary(evil, 10, 1437, 360, None, evil),
            "precision": Precision(evil, evil),
            "teacher": make_teacher(recipe.teacher, id=evil, key=evil) if recipe.teacher else None,
        }
        changes |= {"compile": evil, "libraries": {evil: evil}, "settings": [evil, None], "seed": 2**63 - 1 - number}
        runs.append(make_run("quick", recipe, [20.0, 50.0 + number], **changes))
    driver = show(page.render_page([build_suite_report(registry, quick, runs)]), "#cell=deit_micro%2Fdigits%2Fguided")
    assert "deit_micro on digits" in one(driver, "dialog[open]").text and colours_in(driver, "dialog canvas") > 20
    facts = "".join(texts(driver, "dialog dd"))
    copied = "".join(button.get_attribute("data-copy") for button in all_of(driver, "dialog .runs button"))
    assert all(evil in facts and evil.replace("'", "'\"'\"'") in copied for evil in HOSTILE)
    assert "--seed 9223372036854775807" in copied
    assert driver.execute_script("return window.attacked") is None
    assert driver.execute_script("return [document.scripts.length, document.images.length]") == [3, 0]


def test_a_script_that_gets_in_does_not_run(driver, tmp_path):
    text = page.render_page([]).replace("<main>", "<main><script>window.attacked = 1</script>")
    (tmp_path / "index.html").write_text(text)
    driver.get((tmp_path / "index.html").as_uri())
    assert driver.execute_script("return window.attacked") is None
    assert any("Content Security Policy" in entry["message"] for entry in driver.get_log("browser"))
