# SPDX-License-Identifier: Apache-2.0
"""No key and no token is in anything that a real Airflow wrote: logs of workers and triggerer, database, XCom."""

from __future__ import annotations

from pathlib import Path

from airflow_provider_scnet.testing import Fault, ScnetSimulator
from engine_tests.conftest import engine_for

DAG = """
with new("secret") as dag:
    gate("passing", submits=0)
    gate("passing_worker", submits=0, use_worker=True, user_name="{{ 'alice' }}")
    gate("failing", submits=0, fail_when="queued == 0")
    gate("poking", submits=0, deferrable=False)
"""


def test_no_secret_is_in_anything_that_was_written(tmp_path: Path):
    with ScnetSimulator() as scnet:
        scnet.add_user("alice", lifetime=20)
        scnet.add_access_keys("alice")
        keys = scnet.key_connection("alice")["extra"]
        secrets = {keys["access_key"], keys["secret_key"]}
        # A server that echoes what it was sent.
        for secret in secrets:
            scnet.order(Fault.api("10001", f"busy {secret}"))
        env = {"AIRFLOW_CONN_SCNET_DEFAULT": scnet.key_connection_json("alice")}
        with engine_for(scnet, tmp_path, {"secret": DAG}, env) as engine:
            engine.trigger_dag("secret")
            engine.wait_until(lambda: engine.run_state("secret") in ("success", "failed"), 180, "the run")
            assert {task: state for (task, _), state in engine.task_states("secret").items()} == {
                "passing": "success",
                "passing_worker": "success",
                "failing": "failed",
                "poking": "success",
            }
            tokens = {request.headers["token"] for request in scnet.job_state_requests}
            written = {path: path.read_bytes() for path in engine.home.rglob("*") if path.is_file()}
    assert tokens
    assert any(path.suffix == ".db" for path in written)
    assert any(b"passes, queued < 5" in content for content in written.values())
    found = [path for path, content in written.items() for each in secrets | tokens if each.encode() in content]
    assert found == []
