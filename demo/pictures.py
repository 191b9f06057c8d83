# SPDX-License-Identifier: Apache-2.0
"""``make pictures``: what people see in Airflow, for the documentation, from a real one in a Chromium."""

# What it prints is what it is for.

from __future__ import annotations

import contextlib
import io
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, expect

from airflow_provider_scnet.testing import ScnetSimulator
from demo import browser
from demo.ending import Ended, ignore_signals, raise_on_signals
from demo.engine import Engine, EngineError
from demo.play import FOR_LONG, airflow_with_pages
from demo.run import DAG, GATE, INTERVAL, MOST_QUEUED, SLOTS, USER

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
#: A page has few colours.
COLOURS = 64

LOCALES = {"en": "en-GB", "zh": "zh-CN"}
GATES = 6
#: Seconds for a run of the DAG, whose jobs are short here.
RUN = 180


def connection_form(page: Page, run: str) -> Image.Image:
    """
    Show the form of a connection with access keys, filled in, down to the last of them.

    :param page: the browser's page
    :param run: the path of the run that waits
    """
    page.set_viewport_size({"width": 720, "height": 1500})
    browser.fill_in_connection(
        page,
        "scnet_default",
        access_key="85f96a42b13f4d2c",
        secret_key="the secret of the access key",
        cluster_id="11112",
        platform_user="alice@example.com",
    )
    form = page.get_by_role("dialog")
    shown = _shot(page, form)
    box, last = form.bounding_box(), form.locator("[name=element_timeout]").bounding_box()
    return shown.crop((0, 0, shown.width, int(last["y"] - box["y"]) - 24))


def waiting_gates(page: Page, run: str) -> Image.Image:
    """
    Show the grid of a DAG, and the gates of its last run, which wait.

    :param page: the browser's page
    :param run: the path of that run
    """
    page.set_viewport_size({"width": 1280, "height": 740})
    page.goto(f"{run}/tasks/{GATE}/mapped")
    page.get_by_role("button", name=re.compile("Expand all task groups|展开所有任务分组")).click()
    page.get_by_text("submit [ ]").wait_for()
    page.get_by_role("link", name=str(GATES - 1), exact=True).wait_for()
    # A step to the right, so that the grid has room for all runs.
    page.get_by_role("separator").press("ArrowRight")
    page.get_by_role("separator").blur()
    return _shot(page, page.locator("[data-panel-group]"))


def log_of_a_gate(page: Page, run: str) -> Image.Image:
    """
    Show the log of a gate that waited, and opened.

    :param page: the browser's page
    :param run: the path of its run
    """
    page.set_viewport_size({"width": 1600, "height": 560})
    page.goto(f"{run}/tasks/{GATE}/mapped/{GATES - 1}")
    page.get_by_text("waiting, needs").first.wait_for()
    return _shot(page, page.locator("#details-panel"))


def _shot(page: Page, subject: Locator) -> Image.Image:
    # Whatever is still being loaded is shown in grey.
    page.wait_for_load_state("networkidle")
    expect(page.locator(".chakra-skeleton")).to_have_count(0)
    return Image.open(io.BytesIO(subject.screenshot(animations="disabled")))


def _make(pictures: Sequence[Callable[[Page, str], Image.Image]], engine: Engine, run: str) -> None:
    """Make pictures in both languages, as Airflow itself speaks them."""
    for language, locale in LOCALES.items():
        with browser.new_page(engine.url, locale=locale) as page:
            for picture in pictures:
                file = FOLDER / f"{picture.__name__}.{language}.png"
                shown = picture(page, run).convert("RGB")
                shown.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
                print(f"{file.relative_to(FOLDER.parents[1])}: {file.stat().st_size / 1000:.0f} kB", flush=True)


def _let_gates_wait(engine: Engine, scnet: ScnetSimulator) -> str:
    """Two runs go through an empty cluster; then it is full, and the gates of a third wait: return its path."""
    scnet.cancel(USER)
    for _ in range(2):
        engine.trigger_dag(DAG, {"inputs": 3})
        engine.wait_until(lambda: engine.run_state(DAG) == "success", RUN, "a run")
    scnet.cancel(USER)
    scnet.submit(USER, SLOTS + MOST_QUEUED, FOR_LONG)
    full_since = time.monotonic()
    # Gates that come now would open on the last poll, which saw an empty cluster.
    engine.wait_until(lambda: time.monotonic() > full_since + INTERVAL, RUN)
    run_id = engine.trigger_dag(DAG, {"inputs": GATES})
    engine.wait_until(
        lambda: all("waiting, needs" in engine.log_of(DAG, GATE, index) for index in range(GATES)),
        RUN,
        "the gates",
    )
    return f"/dags/{DAG}/runs/{run_id}"


def main() -> int:
    """Make all pictures, and return the status."""
    if not browser.chromium():
        print(browser.NO_CHROMIUM, file=sys.stderr)
        return 1
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        raise_on_signals()
        print("starting Airflow, and letting gates wait and open, which takes about three minutes", flush=True)
        with contextlib.ExitStack() as stack:
            engine, scnet = stack.enter_context(airflow_with_pages())
            stack.callback(ignore_signals)
            run = _let_gates_wait(engine, scnet)
            _make((connection_form, waiting_gates), engine, run)
            # Room for all of them, so that the log ends with the opening.
            scnet.cancel(USER)
            engine.wait_until(lambda: engine.run_state(DAG) == "success", RUN, "the gates")
            _make((log_of_a_gate,), engine, run)
    except EngineError as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
        return 1
    except Ended as end:
        return 128 + end.signum
    return 0


if __name__ == "__main__":
    sys.exit(main())
