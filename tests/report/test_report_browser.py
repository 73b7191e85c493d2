"""The page in a real browser: nothing of the data runs, and the rows table does what it says."""

import base64
import json
import shutil
import time

import pytest
from fake_run import NASTY, add_conflicts, add_grid, make_run

from ilpjax.report import write_report
from ilpjax.rundir import read_table

selenium = pytest.importorskip("selenium", reason="selenium is not installed")
from selenium import webdriver  # noqa: E402
from selenium.common.exceptions import NoAlertPresentException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update"
    " --disable-sync --no-first-run --disable-dev-shm-usage --window-size=1280,2400"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium and chromedriver on this machine: the report's page is not tested in a browser")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("run"))
    add_grid(run)
    add_conflicts(run, judge="<b>judge</b>")
    write_report(run, "Title <script>alert(0)</script> & {{7*7}}")
    return run


@pytest.fixture
def page(browser, run):
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.get_log("browser")
    browser.get((run / "report.html").resolve().as_uri())
    yield browser
    with pytest.raises(NoAlertPresentException):
        _ = browser.switch_to.alert.text
    assert browser.get_log("browser") == []


def lines(page):
    return page.find_elements(By.CSS_SELECTOR, "#table tbody tr.line")


def search(page, text):
    box = page.find_element(By.ID, "search")
    box.clear()
    box.send_keys(text)
    time.sleep(0.4)


def choose(page, name, text):
    Select(page.find_element(By.ID, name)).select_by_visible_text(text)


def open_card(page, row_id):
    choose(page, "verdict", "any")
    search(page, row_id)
    row = next(line for line in lines(page) if line.get_attribute("data-row") == row_id)
    row.find_element(By.CSS_SELECTOR, ".opener").click()
    return page.find_element(By.CSS_SELECTOR, ".card")


def test_card_says_how_many_protocols_flag_the_row(page, run):
    rows = read_table(run / "robust_rows.parquet").set_index("row_id")
    means = {"core": "robust core", "rim": "fragile rim", "never": "never flagged"}
    for group, words in means.items():
        row_id = rows.index[(rows["group"] == group) & rows.index.str.startswith("r")][0]
        text = open_card(page, row_id).text
        assert f"Flagged by {rows.loc[row_id, 'votes']} of 8 protocols: {words}." in text
        assert ("The options alone, without the question, are flagged too." in text) == rows.loc[row_id, "artefact"]
        page.find_element(By.CSS_SELECTOR, ".opener").click()
    ids = set(read_table(run / "rows.parquet")["row_id"]) - set(rows.index)
    row_id = min(one for one in ids if one.startswith("r"))
    assert "protocols" not in open_card(page, row_id).text


def test_card_says_what_the_judge_says(page, run):
    says = {
        "right": "The judge (<b>judge</b>) takes this row's answer to be right.",
        "wrong": "The judge (<b>judge</b>) takes the other row's answer to be right.",
        "both": "takes both answers to be right.",
        "neither": "takes neither answer to be right.",
        "undecided": "The judge (<b>judge</b>) does not decide between the two.",
        "unjudged": "No judge has ruled on the two.",
    }
    causes = read_table(run / "diagnose.parquet")
    causes["verdict"] = [json.loads(text)["partner"]["verdict"] for text in causes["evidence"]]
    for verdict, words in says.items():
        row_id = next(i for i in causes.loc[causes["verdict"] == verdict, "row_id"] if i.startswith("r"))
        assert words in open_card(page, row_id).text
        page.find_element(By.CSS_SELECTOR, ".opener").click()


def test_a_pair_leads_to_the_cards_of_its_rows(page):
    section = page.find_element(By.ID, "conflicts")
    assert section.find_elements(By.CSS_SELECTOR, "script, img, b b, i, u") == []
    search(page, "no such words anywhere")
    links = section.find_elements(By.CSS_SELECTOR, "bdi[data-card] a")
    assert len(links) == 100
    for link in links[::33]:
        row_id = link.find_element(By.XPATH, "..").get_attribute("data-card")
        page.execute_script("arguments[0].click()", link)
        opened = page.find_elements(By.CSS_SELECTOR, "#table tr.line.open")
        assert [line.get_attribute("data-row") for line in opened] == [row_id]


def test_title_and_answer_are_text(page, run):
    assert page.find_element(By.TAG_NAME, "h1").text == "Title <script>alert(0)</script> & {{7*7}}"
    unlearned = int(read_table(run / "detect.parquet")["unlearned"].sum())
    assert f"{unlearned} of 288 rows were not learned" in page.find_element(By.CLASS_NAME, "answer").text


def test_table_starts_with_the_worst_unlearned_row(page, run):
    verdicts = read_table(run / "detect.parquet")
    worst = verdicts[verdicts["unlearned"]].sort_values("severity", ascending=False, kind="stable")
    assert [line.get_attribute("data-row") for line in lines(page)] == worst["row_id"].tolist()[:20]
    assert page.find_element(By.ID, "count").text == f"{len(worst)} of 300 rows, worst first"


def test_search_narrows(page):
    choose(page, "verdict", "any")
    search(page, "QUESTION 241:")  # every word, in any case
    assert [line.get_attribute("data-row") for line in lines(page)] == ["r0241"]
    search(page, "treaty dolly")
    assert page.find_element(By.ID, "count").text.startswith("38 of 300")  # i = 3 mod 8, which are all of data set 3
    search(page, "no such words anywhere")
    assert lines(page) == [] and "No row fits" in page.find_element(By.ID, "table").text


def test_search_finds_what_only_the_card_holds(page):
    choose(page, "verdict", "any")
    search(page, "last letter")  # behind 20,000 characters of prompt
    assert lines(page)


@pytest.mark.parametrize(("name", "column", "place"), [("p tuned", "tuned", 4), ("severity", "severity", 8)])
def test_header_sorts_both_ways(page, name, column, place):
    def shown():
        return [float(line.find_elements(By.TAG_NAME, "td")[place].text.replace("−", "-")) for line in lines(page)]

    header = next(b for b in page.find_elements(By.CSS_SELECTOR, "#table thead button") if b.text.startswith(name))
    header.click()
    down = shown()
    assert down == sorted(down, reverse=True) and len(set(down)) > 3
    header.send_keys(Keys.ENTER)
    up = shown()
    assert up == sorted(up) and max(up) <= min(down)
    cell = page.find_element(By.CSS_SELECTOR, "#table thead th[aria-sort]")
    assert cell.get_attribute("aria-sort") == "ascending" and cell.text.startswith(name)


def test_filters_and_pages(page, run):
    choose(page, "verdict", "any")
    choose(page, "dataset", "arc<b>easy</b>")
    assert page.find_element(By.ID, "count").text.startswith("75 of 300")
    page.find_element(By.ID, "next").click()
    assert page.find_element(By.ID, "page").text == "Page 2 of 4" and len(lines(page)) == 20
    choose(page, "dataset", "all")
    choose(page, "problem", "duplicate option")
    problems = read_table(run / "plumbing.parquet")
    assert page.find_element(By.ID, "count").text.startswith(f"{(problems['problem'] == 'duplicate_option').sum()} of")
    choose(page, "problem", "any or none")
    choose(page, "verdict", "no verdict")
    assert page.find_element(By.ID, "count").text.startswith("12 of 300")


def test_a_cause_can_be_chosen_and_its_card_says_what_it_rests_on(page, run):
    named = read_table(run / "diagnose.parquet")
    choose(page, "verdict", "any")
    choose(page, "cause", "forgetting")
    chosen = named[named["cause"] == "forgetting"]
    assert page.find_element(By.ID, "count").text.startswith(f"{len(chosen)} of 300")
    lines(page)[0].find_element(By.CSS_SELECTOR, ".opener").click()
    card = page.find_element(By.CSS_SELECTOR, ".card")
    row_id = lines(page)[0].get_attribute("data-row")
    evidence = json.loads(chosen.set_index("row_id").loc[row_id, "evidence"])
    text = card.get_attribute("textContent")
    assert "forgetting: " in text and evidence["partner"]["response"] in text and "<b>who</b> · is" in text
    assert card.find_elements(By.CSS_SELECTOR, "script, img, b b, i, u") == []
    choose(page, "cause", "any or none")


@pytest.mark.parametrize("nasty", range(len(NASTY)))
def test_card_shows_the_very_text(page, run, nasty):
    row_id = f"r{63 + 7 * nasty:04d}"
    row = read_table(run / "rows.parquet").set_index("row_id").loc[row_id]
    item = read_table(run / "items.parquet").set_index("row_id").loc[row_id]
    card = open_card(page, row_id)
    texts = [e.get_attribute("textContent") for e in card.find_elements(By.CSS_SELECTOR, ".body")]
    prompt, response = texts[-2:]
    assert response == row["response"]
    if len(row["prompt"]) <= 4000:
        assert prompt == row["prompt"]
    else:
        assert "characters left out" in prompt and len(prompt) < 5000
    names = [e.get_attribute("textContent") for e in card.find_elements(By.CSS_SELECTOR, ".options .name")]
    expected = [f"{'ABCD'[k]}. {text}" for k, text in enumerate(item["options"])]
    expected[item["answer"]] += " ✓ right"
    assert names == expected
    assert row["source"] in card.text
    assert card.find_elements(By.CSS_SELECTOR, "script, img, b b, i, u") == []


def test_card_numbers(page, run):
    verdicts = read_table(run / "detect.parquet").set_index("row_id")
    card = open_card(page, "r0021")
    facts = {
        d.text: d.find_element(By.XPATH, "following-sibling::dd").text for d in card.find_elements(By.TAG_NAME, "dt")
    }
    row = verdicts.loc["r0021"]
    assert facts["pass@5, tuned"].startswith(f"{row['pass_at_n']:.3f}")
    assert facts["P(flag), tuned"] == f"{row['p_flag']:.3f}"
    span = f"{row['skill']:.2f} ({row['skill_low']:.2f} to {row['skill_high']:.2f})"
    assert facts["Skill, interval"] == span.replace("-", "−")
    scores = read_table(run / "scores_tuned.parquet")
    mean = sum(scores.loc[scores["row_id"] == "r0021", "p"]) / 2
    bars = [e.text for e in card.find_elements(By.CSS_SELECTOR, ".options .pbar:last-child span:last-child")]
    assert bars == [f"{p:.3f}" for p in mean]
    assert len(card.find_elements(By.CSS_SELECTOR, ".curve circle.p")) == 3
    assert len(card.find_elements(By.CSS_SELECTOR, ".curve circle.loss")) == 3


def test_card_names_where_a_distractor_came_from(page, run):
    item = read_table(run / "items.parquet").set_index("row_id").loc["r0001"]
    origins = [text for text in item["option_sources"] if text != "answer"]
    card = open_card(page, "r0001").text
    sources = read_table(run / "rows.parquet").set_index("row_id")["source"]
    for origin in origins:
        assert f"the answer of row {origin} ({sources[origin]})" in card


def test_keyboard_alone_opens_and_closes_a_card(page):
    opener = lines(page)[0].find_element(By.CSS_SELECTOR, ".opener")
    opener.send_keys(Keys.SPACE)
    assert opener.get_attribute("aria-expanded") == "true" and page.find_elements(By.CSS_SELECTOR, ".card")
    opener.send_keys(Keys.ENTER)
    assert opener.get_attribute("aria-expanded") == "false" and not page.find_elements(By.CSS_SELECTOR, ".card")


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_and_can_be_pictured(page, tmp_path, width, scheme):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    lines(page)[0].find_element(By.CSS_SELECTOR, ".opener").click()
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    paper = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(23, 28, 34)")
    broken = "return [...document.images].filter(i => i.offsetParent && !i.naturalWidth).length"
    assert page.execute_script(broken) == 0
    shot = page.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    picture = tmp_path / "page.png"
    picture.write_bytes(base64.b64decode(shot["data"]))
    assert picture.stat().st_size > 20_000


def test_without_training_the_card_says_so(browser, tmp_path):
    run = make_run(tmp_path, rows=60, trained=False, orders=1)
    write_report(run, "Brought")
    browser.get((run / "report.html").resolve().as_uri())
    assert "was brought, not trained here" in browser.find_element(By.ID, "training").text
    lines(browser)[0].click()
    assert "was brought, not trained here" in browser.find_element(By.CSS_SELECTOR, ".card").text


@pytest.mark.slow
def test_a_table_of_twenty_thousand_rows(browser, tmp_path):
    run = make_run(tmp_path, rows=21_000, orders=1)
    write_report(run, "Many")
    assert (run / "report.html").stat().st_size < 20 << 20
    began = time.time()
    browser.get((run / "report.html").resolve().as_uri())
    choose(browser, "verdict", "any")
    search(browser, "question 20001:")
    assert [line.get_attribute("data-row") for line in lines(browser)] == ["r20001"]
    assert time.time() - began < 15
