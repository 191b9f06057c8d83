# SPDX-License-Identifier: Apache-2.0
"""``make pictures``: what people see in Airflow, for the documentation, from a real one in a Chromium."""

# What it prints is what it is for.

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from airflow_provider_scnet.testing import ScnetSimulator
from demo import browser
from demo.ending import Ended, ignore_signals, raise_on_signals
from demo.engine import Engine, EngineError
from demo.play import FOR_LONG, airflow_with_pages
from demo.run import DAG, GATE, MOST_QUEUED, SLOTS, USER

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
#: A page has few colours.
COLOURS = 64

GATES = 8
#: Seconds for a run of the DAG, whose jobs are short here.
RUN = 180


def connection_form(page: Page) -> Locator:
    """
    Show the form of a connection, filled in.

    :param page: the browser's page
    """
    browser.fill_in_connection(
        page,
        "scnet_default",
        host="https://hpc.example.com",
        login=USER,
        password="the token of the region",
        port="65051",
    )
    return page.get_by_role("dialog")


def waiting_gates(page: Page) -> Locator:
    """
    Show the grid of a DAG in which gates wait.

    :param page: the browser's page
    """
    page.goto(f"/dags/{DAG}")
    return page.locator("body")


def log_of_a_gate(page: Page) -> Locator:
    """
    Show the log of a gate that waits.

    :param page: the browser's page
    """
    page.goto(f"/dags/{DAG}")
    return page.locator("body")


def _make(picture: Callable[[Page], Locator], page: Page) -> None:
    file = FOLDER / f"{picture.__name__}.png"
    shown = Image.open(io.BytesIO(picture(page).screenshot(animations="disabled")))
    shown.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file.relative_to(FOLDER.parents[1])}: {file.stat().st_size / 1000:.0f} kB", flush=True)


def _let_gates_wait(engine: Engine, scnet: ScnetSimulator) -> None:
    """Two runs go through an empty cluster; then it is full, and the gates of a third wait."""
    scnet.cancel(USER)
    for _ in range(2):
        engine.trigger_dag(DAG, {"inputs": 3})
        engine.wait_until(lambda: engine.run_state(DAG) == "success", RUN, "a run")
    scnet.submit(USER, SLOTS + MOST_QUEUED, FOR_LONG)
    engine.trigger_dag(DAG, {"inputs": GATES})
    engine.wait_until(
        lambda: (
            list(engine.task_states(DAG).values()).count("deferred") == GATES
            and "waiting, needs" in engine.log_of(DAG, GATE, GATES - 1)
        ),
        RUN,
        "the gates",
    )


def main() -> int:
    """Make all pictures, and return the status."""
    if not browser.chromium():
        print(browser.NO_CHROMIUM, file=sys.stderr)
        return 1
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        raise_on_signals()
        with contextlib.ExitStack() as stack:
            engine, scnet = stack.enter_context(airflow_with_pages())
            stack.callback(ignore_signals)
            _let_gates_wait(engine, scnet)
            with browser.new_page(engine.url) as page:
                for picture in (connection_form, waiting_gates, log_of_a_gate):
                    _make(picture, page)
    except EngineError as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
        return 1
    except Ended as end:
        return 128 + end.signum
    return 0


if __name__ == "__main__":
    sys.exit(main())
