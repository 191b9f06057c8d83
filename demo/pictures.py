# SPDX-License-Identifier: Apache-2.0
"""``make pictures``: what people see in Airflow, for the documentation, from a real one in a Chromium."""

# What it prints is what it is for.

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, expect

from airflow_provider_scnet.testing import ScnetSimulator
from demo import browser
from demo.ending import Ended, ignore_signals, raise_on_signals
from demo.engine import Engine, EngineError
from demo.play import FOR_LONG, airflow_with_pages
from demo.run import DAG, GATE, MOST_QUEUED, SLOTS, USER

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
#: A page has few colours.
COLOURS = 64

GATES = 6
#: Seconds for a run of the DAG, whose jobs are short here.
RUN = 180


def connection_form(page: Page, run: str) -> Locator:
    """
    Show the form of a connection, filled in.

    :param page: the browser's page
    :param run: the path of the run that waits
    """
    page.set_viewport_size({"width": 960, "height": 900})
    browser.fill_in_connection(
        page,
        "scnet_default",
        host="https://hpc.example.com",
        login=USER,
        password="the token of the region",
        port="65051",
    )
    return page.get_by_role("dialog")


def waiting_gates(page: Page, run: str) -> Locator:
    """
    Show the grid of a DAG, and the gates of its last run, which wait.

    :param page: the browser's page
    :param run: the path of that run
    """
    page.set_viewport_size({"width": 1280, "height": 740})
    page.goto(f"{run}/tasks/{GATE}/mapped")
    page.get_by_role("button", name="Expand all task groups").click()
    page.get_by_text("submit [ ]").wait_for()
    page.get_by_role("link", name=str(GATES - 1), exact=True).wait_for()
    # A step to the right, so that the grid has room for all runs.
    page.get_by_role("separator").press("ArrowRight")
    page.get_by_role("separator").blur()
    return page.locator("[data-panel-group]")


def log_of_a_gate(page: Page, run: str) -> Locator:
    """
    Show the log of a gate that waits.

    :param page: the browser's page
    :param run: the path of the run that waits
    """
    page.set_viewport_size({"width": 1600, "height": 460})
    page.goto(f"{run}/tasks/{GATE}/mapped/{GATES - 1}")
    page.get_by_text("waiting, needs").first.wait_for()
    return page.locator("#details-panel")


def _make(picture: Callable[[Page, str], Locator], page: Page, run: str) -> None:
    file = FOLDER / f"{picture.__name__}.png"
    subject = picture(page, run)
    # Whatever is still being loaded is shown in grey.
    page.wait_for_load_state("networkidle")
    expect(page.locator(".chakra-skeleton")).to_have_count(0)
    shown = Image.open(io.BytesIO(subject.screenshot(animations="disabled")))
    shown.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file.relative_to(FOLDER.parents[1])}: {file.stat().st_size / 1000:.0f} kB", flush=True)


def _let_gates_wait(engine: Engine, scnet: ScnetSimulator) -> str:
    """Two runs go through an empty cluster; then it is full, and the gates of a third wait: return its path."""
    scnet.cancel(USER)
    for _ in range(2):
        engine.trigger_dag(DAG, {"inputs": 3})
        engine.wait_until(lambda: engine.run_state(DAG) == "success", RUN, "a run")
    scnet.cancel(USER)
    scnet.submit(USER, SLOTS + MOST_QUEUED, FOR_LONG)
    run_id = engine.trigger_dag(DAG, {"inputs": GATES})
    engine.wait_until(
        lambda: (
            list(engine.task_states(DAG).values()).count("deferred") == GATES
            and "waiting, needs" in engine.log_of(DAG, GATE, GATES - 1)
        ),
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
        print("starting Airflow, and letting gates wait, which takes about two minutes", flush=True)
        with contextlib.ExitStack() as stack:
            engine, scnet = stack.enter_context(airflow_with_pages())
            stack.callback(ignore_signals)
            run = _let_gates_wait(engine, scnet)
            with browser.new_page(engine.url) as page:
                for picture in (connection_form, waiting_gates, log_of_a_gate):
                    _make(picture, page, run)
    except EngineError as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
        return 1
    except Ended as end:
        return 128 + end.signum
    return 0


if __name__ == "__main__":
    sys.exit(main())
