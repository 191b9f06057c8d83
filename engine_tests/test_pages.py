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


def add(page, conn_id, **fields):
    browser.fill_in_connection(page, conn_id, **fields)
    browser.save_connection(page)


@pytest.mark.parametrize("host", ["http://127.0.0.1", "http://127.0.0.1:{port}", "http://127.0.0.1:{port}/hpc"])
def test_the_form_as_it_asks_to_be_filled_in_passes_its_test(play, page, host):
    _, scnet = play
    conn_id = f"by_hand_{len(host)}"
    port = str(scnet.port)
    add(page, conn_id, host=host.format(port=port), login="alice", password=scnet.token("alice"), port=port)
    answer = browser.press_test(page, conn_id)
    assert answer.startswith(
        "Test Connection Successful\nuser alice: 4 running, 5 queued; token of the connection"
    )


def test_access_keys_pass_the_test_with_a_port_and_without_an_endpoint(page):
    answer = browser.press_test(page, "scnet_keys")
    assert answer.startswith("Test Connection Successful\nuser alice: 4 running, 5 queued; access keys, region")


def test_a_wrong_token_fails_the_test_and_the_page_says_why(play, page):
    _, scnet = play
    add(page, "mistyped", host="http://127.0.0.1", login="alice", password="not-a-token", port=str(scnet.port))
    answer = browser.press_test(page, "mistyped")
    assert answer.startswith("Test Connection Failed\n")
    assert "code 10008" in answer
    assert "paste a fresh token" in answer
    assert "not-a-token" not in answer


def test_with_an_empty_port_airflow_refuses_to_test_which_is_why_the_form_asks_for_it(play, page):
    engine, scnet = play
    add(page, "no_port", host=scnet.url, login="alice", password=scnet.token("alice"))
    assert "Bad Request" in browser.press_test(page, "no_port")
    # It is the button alone: anything but the page takes a whole address.
    assert "Connection success!" in engine.airflow("connections", "test", "no_port")
