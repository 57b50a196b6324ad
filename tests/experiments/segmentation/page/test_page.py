"""The page of a run: what is in it, and what a browser makes of it."""

import dataclasses
import json
import re
import shutil
import time

import jax
import numpy as np
import pytest

from experiments import view_run
from experiments.common.program import exit_code
from experiments.segmentation.data.camvid import CAMVID
from experiments.segmentation.page.document import document
from experiments.segmentation.saved_run import open_run
from experiments.segmentation.training.box_history import BoxHistory
from jaxbox.analysis import box_layers
from tests.cases.runs import SETTINGS, make_run

STEPS = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with boxes that were recorded at four steps, and move right by a pixel each."""
    run = make_run(tmp_path_factory.mktemp("runs") / "run")
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        layers = box_layers(open_run(run, history=False).trained)
    history = BoxHistory(run, 0)
    for step in STEPS:
        moved = [
            layer._replace(theta=np.asarray(layer.theta) + np.array([step - 3, step - 3, 0, 0]))
            for layer in layers
        ]
        history.add(step, moved)
    return run


@pytest.fixture(scope="module")
def page(run):
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        assert exit_code(view_run.main, [str(run), "--images", "2"]) == 0
    return run / "page.html"


def content_of(page):
    match = re.search(r'id="content">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    return json.loads(match[1])


def test_a_page_has_everything_and_loads_nothing(page):
    content = content_of(page)
    assert len(content["predictions"]) == 2
    assert content["boxes"]["steps"] == list(STEPS)
    assert len(content["boxes"]["layers"]) == 12
    before, after = (np.array(content["boxes"]["layers"][0]["theta"])[at] for at in (0, 3))
    np.testing.assert_allclose(after - before, np.tile([3, 3, 0, 0], (len(after), 1)), atol=0.02)
    assert [field["caption"] for field in content["fields"]] == [
        "before training",
        "after training",
    ]
    assert content["fields"][0]["energy"][-1] == pytest.approx(1, abs=1e-3)
    assert len(content["scores"]["shares"]) == len(content["scores"]["classes"])
    text = page.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
    assert "://" not in text
    assert "default-src 'none'" in text
    for lacking in ("page.css", "page.js", "{{"):
        assert lacking not in text


def test_names_cannot_break_out_of_the_page():
    name = "</script><script>alert(1)</script> {{program}}"
    text = document({"title": name, "classes": [name]}).decode()
    assert "<script>alert" not in text
    assert text.count("</script>") == 2
    assert json.loads(re.search(r'id="content">(.*?)</script>', text)[1])["classes"] == [name]


@pytest.mark.usefixtures("relaxed_promotion")
def test_a_page_of_an_old_run_without_its_data_says_what_it_lacks(tmp_path, capsys):
    settings = dataclasses.replace(SETTINGS, data="camvid:nowhere")
    run = make_run(tmp_path / "run", settings, CAMVID, saved_steps=(1, 3))
    assert exit_code(view_run.main, [str(run)]) == 0
    content = content_of(run / "page.html")
    assert content["boxes"]["steps"] == [0, 1, 3]
    assert content["fields"] is None
    assert content["scores"] is None
    missing = "\n".join(content["missing"])
    assert "no predictions and no receptive fields" in missing
    assert "few steps of which a checkpoint was kept" in missing
    (run / "page.html").write_text("mine")
    assert exit_code(view_run.main, [str(run)]) == 2
    assert "was not written by this program" in capsys.readouterr().err


@pytest.fixture
def browser(tmp_path):
    """A headless browser with an empty profile."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    binary = next(filter(None, map(shutil.which, names)), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("there is no Chromium with its chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1200,900",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


def test_a_browser_draws_the_page_and_the_slider_moves_boxes(page, browser):
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.dataset.drawn") == "true"

    def read(script):
        return browser.execute_script(f"return {script}")

    titles = read("[...document.querySelectorAll('h2')].map((each) => each.textContent)")
    assert titles == [
        "Predictions",
        "Boxes through training",
        "Importance of boxes",
        "Receptive fields",
        "Learning curves",
        "Scores of the classes",
        "Confusion matrix",
    ]
    assert read("[...document.images].every((each) => each.complete && each.naturalWidth > 0)")

    # Every box of every layer goes back by the three pixels that it moved.
    places = "[...document.querySelectorAll('.box')].map((each) => each.x.baseVal.value)"
    after = np.array(read(places))
    browser.execute_script(
        "const slider = document.getElementById('moment'); slider.value = 0;"
        "slider.dispatchEvent(new Event('input'));"
    )
    deadline = time.monotonic() + 10
    while np.abs(after - read(places) - 3).max() > 0.02 and time.monotonic() < deadline:
        time.sleep(0.05)
    np.testing.assert_allclose(after - read(places), 3, atol=0.02)
    assert "step 0" in read("document.getElementById('moment').getAttribute('aria-valuetext')")

    play = "document.getElementById('play')"
    for pressed in ("Pause", "Play"):
        browser.execute_script(f"{play}.click()")
        assert read(f"{play}.textContent") == pressed

    source = "document.querySelector('.stage img').src"
    first = read(source)
    browser.execute_script("document.getElementById('next-image').click()")
    assert read(source) != first
    browser.execute_script("document.querySelector('input[value=errors]').click()")
    assert read("document.querySelector('.stage img + img').alt").startswith("pixels whose class")
    assert read("document.documentElement.scrollWidth <= window.innerWidth")
    loaded = read("performance.getEntriesByType('resource').map((each) => each.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []
    assert browser.get_log("browser") == []
