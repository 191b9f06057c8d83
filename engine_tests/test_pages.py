# SPDX-License-Identifier: Apache-2.0
"""The connection form and its Test button, as people meet them: in a browser."""

from __future__ import annotations

import pytest
from conftest import AIRFLOW

from demo import browser
from demo.play import airflow_with_pages

pytestmark = [
    pytest.mark.skipif(AIRFLOW < (3, 3), reason="the browser is driven from the environment of Airflow 3.3 only"),
    pytest.mark.skipif(not browser.chromium(), reason=browser.NO_CHROMIUM),
]


@pytest.fixture(scope="module")
def play():
    with airflow_with_pages() as (engine, scnet):
        yield engine, scnet


@pytest.fixture
def page(play):
    engine, _ = play
    with browser.new_page(engine.url) as page:
        yield page


@pytest.mark.parametrize(
    "host",
    ["http://127.0.0.1", "http://127.0.0.1:{port}", "http://127.0.0.1:{port}/hpc"],
)
def test_a_form_that_is_filled_in_with_the_port_passes_the_test(play, page, host):
    _, scnet = play
    browser.fill_in_connection(
        page,
        "by_hand",
        host=host.format(port=scnet.port),
        login="alice",
        password=scnet.token("alice"),
        port=str(scnet.port),
    )
    browser.save_connection(page)
    answer = browser.test_connection(page, "by_hand")
    assert "Test Connection Successful" in answer
    assert "user alice: 4 running, 5 queued" in answer
