# SPDX-License-Identifier: Apache-2.0
"""Airflow's pages, as a person uses them: in a Chromium that is installed already, without a window."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

#: Milliseconds that something on a page may take to appear.
PATIENCE = 30_000

#: Fields of the form of a connection that are not extras.
STANDARD = ("host", "login", "password", "port")

# In Airflow's English and Chinese.
ADD_CONNECTION = re.compile("^(Add Connection|添加连接)$")
EXTRA_FIELDS = re.compile("^(Extra Fields|额外字段)$")

NO_CHROMIUM = "no Chromium was found: install your system's, on Debian `apt-get install chromium`"


def chromium() -> str | None:
    """Return the path of a Chromium, or None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextlib.contextmanager
def new_page(url: str, width: int = 1200, height: int = 800, locale: str = "en-GB") -> Iterator[Page]:
    """
    Open a page, in daylight.

    :param url: what addresses are relative to
    :param width: of the page, in pixels
    :param height: of the page, in pixels
    :param locale: the language that the browser asks for
    """
    from playwright.sync_api import sync_playwright

    # Chromium's sandbox refuses to serve root, which is who works in a container.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=arguments)
        try:
            page = browser.new_page(
                base_url=url,
                viewport={"width": width, "height": height},
                locale=locale,
                color_scheme="light",
                reduced_motion="reduce",
            )
            page.set_default_timeout(PATIENCE)
            yield page
        finally:
            browser.close()


def fill_in_connection(page: Page, conn_id: str, **fields: str) -> None:
    """
    Fill in the form of a new connection of type SCnet, up to its last step, which is to save.

    :param page: the browser's page
    :param conn_id: the connection's id
    :param fields: the texts of ``host``, ``login``, ``password``, ``port``, or of extras; the others stay empty
    """
    page.goto("/connections")
    page.get_by_role("button", name=ADD_CONNECTION).click()
    form = page.get_by_role("dialog")
    form.locator("[name=connection_id]").fill(conn_id)
    form.get_by_role("combobox").fill("SCnet")
    page.get_by_role("option", name="SCnet", exact=True).click()
    if any(name not in STANDARD for name in fields):
        # The standard fields fold up where the extras unfold.
        form.get_by_role("button", name=EXTRA_FIELDS).click()
    for name, text in fields.items():
        form.locator(f"[name={name}]" if name in STANDARD else f"[name=element_{name}]").fill(text)


def save_connection(page: Page) -> None:
    """
    Save the connection whose form is open, and wait until the form has closed.

    :param page: the browser's page
    """
    page.get_by_role("button", name="Save").click()
    page.get_by_role("dialog").wait_for(state="hidden")


def press_test(page: Page, conn_id: str) -> str:
    """
    Press the Test button of a connection, and return the title and the text of the answer.

    :param page: the browser's page
    :param conn_id: the connection's id
    """
    # Anew: what was said before is gone, and no help text lies over the button.
    page.goto("/connections")
    page.get_by_role("row").filter(has_text=conn_id).get_by_label("Test Connection").click()
    answer = page.get_by_role("status").filter(has_text="Test Connection")
    answer.wait_for()
    return answer.inner_text()
