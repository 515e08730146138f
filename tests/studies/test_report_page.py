"""The report's page in a browser: it opens, its tables sort and filter from the keyboard, and it asks the network for nothing."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hwsim
from hwsim.budgets.table import finite
from hwsim.studies.bench.budgets import write_runs
from hwsim.studies.report import load_report, write_page
from hwsim.studies.report.sites import budgets_hash
from hwsim.studies.store import Store

MAX_BYTES = 3 << 20
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install '.[test]'")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER),
    reason="needs a browser: apt-get install chromium chromium-driver (Debian), or Chrome and chromedriver",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study with made-up runs, and of one real step's budget."""
    folder = tmp_path_factory.mktemp("page")
    write_runs(folder, points=4, seeds=2, epochs=3)
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), (torch.randn(16, 8), torch.randint(4, (16,)))
    budget = hwsim.budget(model, nn.functional.cross_entropy, batch, "fp8_current")
    index = Store(folder).index()
    kept = {"hash": budgets_hash(index["hash"], index["study"]), "budgets": [budget.as_dict()]}
    (folder / "budgets.json").write_text(json.dumps(finite(kept)))
    return write_page(load_report(folder))


@pytest.fixture(scope="module")
def open_page(page: Path) -> Iterator[Callable[[str], Any]]:
    """Opens the page in light or dark."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))

    def opened(scheme: str) -> Any:
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        driver.get(page.as_uri())
        return driver

    yield opened
    driver.quit()


def texts(driver: Any, column: int, within: str = "#sites ~ .wide") -> list[str]:
    """The cells of a column of the table of sites that are shown."""
    script = "return [...document.querySelector(arguments[0]).querySelectorAll('tbody tr')].filter((r) => !r.hidden)"
    found: list[str] = driver.execute_script(script + ".map((r) => r.cells[arguments[1]].textContent)", within, column)
    return found


def press(driver: Any, element: Any, key: str) -> None:
    """Reach an element by the keyboard alone and press a key there."""
    driver.execute_script("arguments[0].focus()", element)
    driver.switch_to.active_element.send_keys(key)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_without_a_word_on_the_console_or_to_the_network(
    open_page: Callable[[str], Any], scheme: str, tmp_path: Path
) -> None:
    driver = open_page(scheme)
    assert driver.title == "large - hwsim"
    assert driver.find_element("css selector", ".headline").text.startswith("fp32, lr 0.01 reaches accuracy")
    assert driver.get_log("browser") == []
    assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0
    ground, ink = (
        driver.execute_script(f"return getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color")
    )
    assert (ground == "rgb(255, 255, 255)") is (scheme == "light")
    assert ground != ink
    picture = tmp_path / "page.png"
    assert driver.save_screenshot(str(picture))
    assert picture.stat().st_size > 10_000


def test_the_page_has_every_section_and_is_small(open_page: Callable[[str], Any], page: Path) -> None:
    driver = open_page("light")
    links = [link.get_attribute("href").rpartition("#")[2] for link in driver.find_elements("css selector", "nav a")]
    assert links == ["comparison", "cost", "error", "sites", "training", "datapaths", "repeat"]
    assert all(driver.find_element("id", name) for name in (*links, "audit"))
    figures = [svg.get_attribute("aria-label") for svg in driver.find_elements("css selector", "figure svg")]
    assert figures == [
        "accuracy at the end",
        *(f"accuracy against {table}" for table in ("gates", "horowitz_45nm", "operand_bits")),
        "causes by layer, fp8_current",
        "exponents, fp8_current",
        *(f"{metric} by epoch" for metric in ("accuracy", "test_loss", "train_loss")),
    ]
    assert page.stat().st_size < MAX_BYTES


def test_the_table_of_sites_sorts_by_the_keyboard(open_page: Callable[[str], Any]) -> None:
    driver = open_page("light")
    heading = driver.find_element("xpath", "//h3[@id='sites']/following-sibling::div[1]//th[6]/button")
    assert heading.text == "change alone"
    for descending in (False, True):
        press(driver, heading, "\n")
        numbers = [float(text) for text in texts(driver, 5) if text != "-"]
        assert len(numbers) >= 8
        assert numbers == sorted(numbers, reverse=descending)
    assert heading.find_element("xpath", "..").get_attribute("aria-sort") == "descending"


def test_the_table_of_sites_filters_by_all_words(open_page: Callable[[str], Any]) -> None:
    driver = open_page("light")
    before = texts(driver, 3)
    field = driver.find_element("css selector", "#sites ~ .filter input")
    for word in ("weight", " GRAD_input"):
        press(driver, field, word)
    assert set(zip(texts(driver, 2), texts(driver, 3), strict=True)) == {("grad_input", "weight")}
    status = driver.find_element("css selector", "#sites ~ .filter [role=status]").text
    assert status == f"{len(texts(driver, 3))} of {len(before)} rows"
    field.clear()
    press(driver, field, " ")
    assert texts(driver, 3) == before


def test_everything_that_acts_is_reached_by_the_tab_key_in_order(open_page: Callable[[str], Any]) -> None:
    driver = open_page("light")
    reached = []
    for _ in range(10):
        driver.switch_to.active_element.send_keys("\t")
        reached.append(driver.execute_script("const e = document.activeElement; return e.tagName + ' ' + e.textContent.trim()"))
    assert reached[0] == "A Skip to the results"
    assert reached[1] == "A Comparison"
    assert any(text.startswith("BUTTON datapath") for text in reached)
