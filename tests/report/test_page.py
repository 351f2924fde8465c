"""The results page, in a real browser, from a file. Without a browser the tests that need one are skipped, unless
BENCH_BROWSER=required.

Debian: apt-get install chromium chromium-driver
"""

from __future__ import annotations

import copy
import hashlib
import os
import re
import shutil

import pytest
import synthetic
from conftest import ROOT, command

from bench.config.registry import Registry
from bench.report import gather, page
from bench.report.analysis import analyse

PHONE, DESKTOP = (390, 844), (1440, 900)
registry = Registry()
quick, paper = registry.suite("quick"), registry.suite("paper")


def html_of(*suites):
    return page.html([(analyse(registry, suite, records), records) for suite, records in suites])


@pytest.fixture(scope="module")
def recorded():
    """The records of the quick suite that are committed."""
    return gather.load(ROOT / "results", "quick")


@pytest.fixture(scope="module")
def thousand():
    """A thousand records over the whole paper suite, some diverged, some cells missing."""
    return synthetic.records(registry, paper, 1000)


@pytest.fixture(scope="module")
def large(thousand, recorded):
    """Their page, with the quick suite behind them."""
    return html_of((paper, thousand), (quick, recorded))


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    binary, service = (
        next(filter(None, map(shutil.which, names)), None) for names in (("chromium", "google-chrome"), ("chromedriver",))
    )
    if not (binary and service):
        (pytest.fail if os.environ.get("BENCH_BROWSER") == "required" else pytest.skip)("no chromium and chromedriver here")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for word in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
    ):
        options.add_argument(f"--{word}")
    for word in ("disable-component-update", "disable-sync", f"user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(service))
    yield browser
    browser.quit()


@pytest.fixture
def show(driver, tmp_path):
    """Opens a page as a file, and fails in the end where the browser's console has heard of an error."""

    def show(text, address="", size=DESKTOP):
        (tmp_path / "index.html").write_text(text, encoding="utf-8")
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        driver.get("about:blank")
        driver.get_log("browser")
        driver.get((tmp_path / "index.html").as_uri() + address)
        return driver

    yield show
    assert [entry["message"] for entry in driver.get_log("browser")] == []


def all_of(driver, selector):
    return driver.find_elements("css selector", selector)


def one(driver, selector):
    return driver.find_element("css selector", selector)


def texts(driver, selector):
    return driver.execute_script("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector)


def cells_shown(driver):
    return driver.execute_script("return [...document.querySelectorAll('#rows tr')].map(row => row.dataset.cell)")


def press(driver, *keys):
    from selenium.webdriver import ActionChains

    ActionChains(driver).send_keys(*keys).perform()


def painted(driver, selector="dialog canvas"):
    """How many colours a canvas shows: those of lines, bands and text, or one where nothing is drawn."""
    return driver.execute_script(
        "const c = document.querySelector(arguments[0]), copy = new OffscreenCanvas(c.width, c.height).getContext('2d');"
        "copy.drawImage(c, 0, 0);"
        "return new Set(new Uint32Array(copy.getImageData(0, 0, c.width, c.height).data.buffer)).size",
        selector,
    )


def test_the_page_is_one_small_file_that_is_the_same_each_time(recorded):
    text = html_of((quick, recorded))
    assert text == html_of((quick, copy.deepcopy(recorded)))
    assert len(text.encode()) < 2**18
    assert not re.findall(r"""(?:src|href)=["']?(?!data:|#)[^"' >]+""", text.partition("<body>")[0])  # nothing is fetched
    assert "default-src 'none'" in text and "'unsafe-eval'" not in text
    assert str(ROOT) not in text


def test_the_chart_library_is_as_its_makers_released_it():
    listed = re.findall(r"^([0-9a-f]{64})  (\S+)$", (page.PARTS / "uPlot.sha256").read_text(), re.MULTILINE)
    assert len(listed) == 2
    for digest, name in listed:
        assert hashlib.sha256((page.PARTS / name).read_bytes()).hexdigest() == digest


def test_synthetic_records_are_such_as_a_report_accepts(tmp_path):
    records = synthetic.records(registry, paper, 100)
    synthetic.write(records, tmp_path, "paper")
    assert gather.load(tmp_path, "paper") == records and gather.mismatches(registry, paper, records) == []


def test_what_stands_in_the_table_is_what_the_analysis_says(show, recorded):
    driver = show(html_of((quick, recorded)))
    (arm,) = [arm for arm in analyse(registry, quick, recorded).cells[0].arms if arm.guidance == "guided"]
    row = one(driver, "#rows tr").text
    for value in (f"{arm.last.mean:.2f}", f"+{arm.gain.mean:.2f}", f"+{arm.gain.low:.2f} to", arm.gain.verdict, "3 / 3"):
        assert value in row
    assert texts(driver, "#count") == ["1 of 1 row shown"]
    one(driver, "#epoch button[value=best]").click()
    assert f"+{arm.gain_best.mean:.2f}" in one(driver, "#rows tr").text and "flatters" in one(driver, "#epoch-note").text


def test_sorting_by_click_and_by_keyboard(show, thousand, large):
    driver = show(large)
    in_order = cells_shown(driver)
    gains = {f"{c.model}/{c.dataset}": c.arm("guided").gain for c in analyse(registry, paper, thousand).cells}
    known = sorted((cell for cell in in_order if gains[cell]), key=lambda cell: -gains[cell].mean)
    unknown = [cell for cell in in_order if not gains[cell]]
    assert len(in_order) == 32 and unknown
    header = one(driver, "th[data-key=gain]")
    one(header, "button").click()
    assert header.get_attribute("aria-sort") == "descending" and cells_shown(driver) == known + unknown
    press(driver, "\ue007")  # Enter: the button has the focus
    assert header.get_attribute("aria-sort") == "ascending" and cells_shown(driver) == known[::-1] + unknown
    press(driver, " ")
    assert header.get_attribute("aria-sort") is None and cells_shown(driver) == in_order
    one(driver, "th[data-key=student] button").click()
    numbered = {cell: re.sub(r"\d+", lambda n: n[0].zfill(3), cell.partition("/")[0]) for cell in in_order}
    assert cells_shown(driver) == sorted(in_order, key=numbered.get)  # t2t_vit_7 before t2t_vit_14
    took = driver.execute_script(
        "const button = document.querySelector('th[data-key=time] button'), began = performance.now();"
        "button.click(); return performance.now() - began"
    )
    assert took < 2000  # ms, on a machine that is busy


def test_filtering_by_words_and_by_choice(show, large):
    from selenium.webdriver.support.select import Select

    driver = show(large)
    one(driver, "#filter-q").send_keys("tiny  CIFAR100 ")
    assert cells_shown(driver) == [f"{m}/cifar100" for m in paper.models if "tiny" in m]
    assert texts(driver, "#count") == ["4 of 32 rows shown"]
    one(driver, "#clear").click()
    assert len(cells_shown(driver)) == 32
    Select(one(driver, "#filter-dataset")).select_by_visible_text("chaoyang")
    assert cells_shown(driver) == [f"{m}/chaoyang" for m in paper.models]
    Select(one(driver, "#filter-state")).select_by_value("not run")
    assert cells_shown(driver) == ["cvt_13/chaoyang"] and one(driver, "#rows tr").text.count("not run") == 2
    one(driver, "#clear").click()
    Select(one(driver, "#filter-student")).select_by_visible_text("cvt_13")
    Select(one(driver, "#filter-state")).select_by_value("diverged")
    assert "cvt_13/flowers102" in cells_shown(driver) and "all 16 seeds" in one(driver, "#rows").text
    one(driver, "#filter-q").send_keys("nothing has this")
    assert one(driver, "#rows").text.startswith("No row matches")


def test_a_cell_opens_with_enter_and_closes_with_escape(show, recorded):
    records = copy.deepcopy(recorded)
    records[1]["set"] = ["train.device=cpu", "data.places=[it's here, x]"]
    driver = show(html_of((quick, records)))
    driver.execute_script("document.querySelector('#rows button').focus()")
    press(driver, "\ue007")
    dialog = one(driver, "dialog[open]")
    assert "deit_micro on digits" in dialog.text and painted(driver) > 20
    arm = analyse(registry, quick, records).cells[0].arm("guided")
    assert f"ends {arm.gain.mean:.2f} points above the baseline" in dialog.text
    assert f"after {arm.reach['epochs'].mean:.1f} epochs (3 of 3 seeds)" in dialog.text
    assert texts(driver, "dialog .command code") == [
        f"accelerate launch bench/run.py --recipe deit_micro/digits/{arm} --suite quick --seed 0" for arm in quick.guidance
    ]
    driver.execute_script("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    all_of(driver, "dialog .runs button")[1].click()
    assert driver.execute_script("return window.copied") == (
        "accelerate launch bench/run.py --recipe deit_micro/digits/baseline --suite quick --set train.device=cpu"
        """ --set 'data.places=[it'"'"'s here, x]' --seed 1"""
    )
    assert len(all_of(driver, "dialog .runs tbody tr")) == len(records)
    assert all(value in dialog.text for value in ("torch 2.15.0", "AMD EPYC", records[0]["code"]["commit"][:10]))
    recipe = texts(driver, "dialog pre")[1]
    assert "method: locality" in recipe and records[-1]["hash"] in recipe and "\nseed:" not in recipe
    by_epoch = painted(driver)
    driver.execute_script("document.querySelector('dialog').scrollTop = 0")
    one(driver, "dialog button[value=time]").click()
    one(driver, "#seeds").click()
    assert painted(driver) != by_epoch and "wall time" in one(driver, "dialog .chart").get_attribute("aria-label")
    press(driver, "\ue00c")
    assert all_of(driver, "dialog[open]") == []
    assert driver.switch_to.active_element.text.startswith("deit_micro")


def test_the_address_restores_the_view(show, large):
    driver = show(large)
    one(driver, "#suites button[value=quick]").click()
    assert cells_shown(driver) == ["deit_micro/digits"]
    one(driver, "#suites button[value=paper]").click()
    one(driver, "th[data-key=speedup] button").click()
    one(driver, "#filter-q").send_keys("pit")
    one(driver, "#epoch button[value=best]").click()
    one(driver, "#rows button").click()
    shown, address = cells_shown(driver), driver.execute_script("return location.hash")
    title = one(driver, "#detail-title").text
    show(large, address)
    assert cells_shown(driver) == shown and one(driver, "#detail-title").text == title
    assert one(driver, "#epoch button[value=best]").get_attribute("aria-pressed") == "true"
    assert one(driver, "th[data-key=speedup]").get_attribute("aria-sort") == "descending"
    one(driver, "#close").click()
    assert "cell" not in driver.execute_script("return location.hash")


@pytest.mark.parametrize("address", ["", "#cell=deit_tiny%2Fcifar100"])
def test_on_a_phone_nothing_hangs_over_the_edge_and_fingers_hit(show, large, address):
    driver = show(large, address, PHONE)
    assert driver.execute_script("return document.documentElement.scrollWidth") == PHONE[0]
    assert driver.execute_script("return getComputedStyle(document.body).fontSize") == "16px"
    where = "dialog[open] " if address else "main "
    heights = driver.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(e => e.offsetHeight).filter(Boolean)",  # 0: not shown
        ", ".join(where + kind for kind in ("button", "select", "input[type=search]", "summary")),
    )
    assert len(heights) > 3 and min(heights) >= 40
    assert driver.execute_script("const d = document.querySelector('dialog'); return d.scrollWidth <= d.clientWidth")


def test_both_themes(show, recorded):
    driver = show(html_of((quick, recorded)))

    def background():
        return driver.execute_script("return getComputedStyle(document.documentElement).backgroundColor")

    light = background()
    one(driver, "#theme").click()
    assert background() != light and painted(driver, "#overview canvas") > 20


HOSTILE = [
    "</script><script>window.attacked = 1</script>",
    "<img src=x onerror='window.attacked = 1'>",
    "javascript:window.attacked=1",
    "\u2028window.attacked = 1;\u2029//",
    "{{ data }}<!--<script>",
    '"><svg onload=window.attacked=1>',
]


def test_what_records_say_is_text_and_nothing_else(show, recorded):
    records = copy.deepcopy(recorded)
    assert len(records) == len(HOSTILE)
    for record, evil in zip(records, HOSTILE, strict=True):
        record["libraries"] = {evil: evil}
        record["hardware"] = {"device": evil, "processor": evil, evil: [evil]}
        record["precision"] = {"used": evil}
        record["code"] = {"version": evil, "commit": evil, "dirty": evil}
        record["dataset"] = {"fingerprint": "f", "evaluated_on": evil, "train_images": evil, "classes": None}
        record["set"] = [evil]
        record["recipe"]["data"] |= dict.fromkeys(HOSTILE, evil)
        if record["teacher"]:
            record["teacher"] |= {"id": evil, "key": evil}
    records[0] |= {"seed": 2**63 - 1, "parameters": HOSTILE[0], "compile": {HOSTILE[1]: None}}
    records[-1] |= {"set": HOSTILE[0], "libraries": [None]}
    driver = show(html_of((quick, records)), "#cell=deit_micro%2Fdigits")
    assert "deit_micro on digits" in one(driver, "dialog[open]").text and painted(driver) > 20
    facts, recipes = "".join(texts(driver, "dialog dd")), "".join(texts(driver, "dialog pre"))
    assert all(evil in facts and (evil in recipes or "\u2028" in evil) for evil in HOSTILE)  # YAML escapes that one
    assert any("--seed 9223372036854775807" in text for text in texts(driver, "dialog .command code"))
    assert driver.execute_script("return window.attacked") is None
    assert driver.execute_script("return [document.scripts.length, document.images.length]") == [3, 0]


def test_script_that_gets_in_all_the_same_does_not_run(driver, tmp_path, recorded):
    text = html_of((quick, recorded)).replace("<main>", "<main><script>window.attacked = 1</script>")
    (tmp_path / "index.html").write_text(text)
    driver.get((tmp_path / "index.html").as_uri())
    assert driver.execute_script("return window.attacked") is None
    assert any("Content Security Policy" in entry["message"] for entry in driver.get_log("browser"))


def test_the_page_needs_no_torch():
    done = command("-X", "importtime", "-c", "from bench.report import page", check=True)
    assert " torch" not in done.stderr and "page" in done.stderr
