# SPDX-License-Identifier: Apache-2.0
"""Whole DAGs, run by Airflow itself through ``dag.test()``: the examples, and what users build of gates."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import airflow
import pytest

from airflow_provider_scnet.client.access_keys import TOKENS_PATH
from airflow_provider_scnet.testing import SUBMISSION_PATH, Fault, JobPlan, ScnetSimulator

from pages import ROOT, blocks

VERSION = tuple(int(part) for part in airflow.__version__.split(".")[:2])
EXAMPLES = sorted((Path(__file__).parent.parent / "example_dags").glob("*.py"))

# On 3.0 each part of a task builds an API of its own, which takes a busy machine a while.
pytestmark = pytest.mark.timeout(600)

AIRFLOW_MENDED = """
import asyncio, functools
import airflow

if airflow.__version__.startswith(("3.1.", "3.2.")):
    # Before 3.3 nothing waits until the API inside dag.test() has started, and its first request may be lost.
    start = asyncio.run_coroutine_threadsafe

    def start_and_wait(coroutine, loop):
        started = start(coroutine, loop)
        if coroutine.__name__ == "start_lifespan":
            started.result()
        return started

    asyncio.run_coroutine_threadsafe = start_and_wait

    # Nor does one API serve all tasks; building one takes seconds.
    from airflow.sdk.execution_time import supervisor

    supervisor.in_process_api_server = functools.lru_cache(maxsize=1)(supervisor.in_process_api_server)
"""

RUNNER = (
    AIRFLOW_MENDED
    + """
import importlib.util, json, os, sys, traceback
from airflow.providers.common.compat.sdk import DAG

def run(path, dag_id, conf):
    spec = importlib.util.spec_from_file_location(dag_id, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    dag = module.dag if isinstance(module.dag, DAG) else getattr(module, dag_id)()
    run = dag.test(run_conf=conf)
    tis = run.get_task_instances()
    return {
        "state": str(run.state.value if hasattr(run.state, "value") else run.state),
        "tasks": {f"{ti.task_id}[{ti.map_index}]": str(ti.state.value if hasattr(ti.state, "value") else ti.state) for ti in tis},
    }

answers = os.fdopen(os.dup(1), "w")
for line in sys.stdin:
    environment, printed, *given = json.loads(line)
    os.environ.clear()
    os.environ.update(environment)
    with open(printed, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        answer = run(*given)
    except BaseException:
        traceback.print_exc()
        answer = None
    sys.stdout.flush()
    sys.stderr.flush()
    print(json.dumps(answer), file=answers, flush=True)
"""
)


@pytest.fixture(scope="session")
def dag_process(airflow_db: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that runs one DAG after another: to start Airflow takes much longer than most of them do."""
    command = [sys.executable, "-c", RUNNER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


@pytest.fixture
def run_dag(airflow_db: Path, scnet: ScnetSimulator, connect, tmp_path: Path, dag_process):
    """
    Run a DAG file in the DAGs folder; return the run's and the tasks' states, and all that was printed.

    Each test has a DAG id of its own: Airflow 3.1 and 3.2 keep a DAG by its id for as long as the process lives.
    """

    def run(source: str | Path, dag_id: str, **conf: object) -> tuple[dict, str]:
        file = airflow_db / f"{dag_id}.py"
        if isinstance(source, Path):
            shutil.copy(source, file)
        else:
            file.write_text(HEAD + textwrap.dedent(source))
        environment = {**os.environ, "SCNET_SIMULATOR_URL": scnet.url, "SCNET_POKE_INTERVAL": "0.2"}
        log = tmp_path / "printed"
        print(json.dumps([environment, str(log), str(file), dag_id, conf]), file=dag_process.stdin, flush=True)
        try:
            answer = dag_process.stdout.readline()
        except BaseException:
            # Its answer must not be taken for that to the next.
            dag_process.kill()
            raise
        file.unlink()
        printed = log.read_text(errors="replace")
        result = json.loads(answer or "null")
        assert result, printed
        return result, printed

    return run


HEAD = """\
from datetime import datetime
from airflow.providers.common.compat.sdk import DAG, task, task_group
from airflow_provider_scnet.sensors.scnet import ScnetJobCountSensor

def gate(**given):
    return ScnetJobCountSensor(**{"task_id": "gate", "condition": "queued < 5", "poke_interval": 0.2, "timeout": 30, **given})

def new(dag_id, **given):
    return DAG(dag_id, schedule=None, start_date=datetime(2024, 1, 1), catchup=False, **given)
"""


def test_the_examples_parse_without_a_word():
    code = "import airflow.providers.common.compat.sdk as sdk, sys, warnings; sdk.dag, sdk.task, sdk.task_group\n"
    code += "warnings.simplefilter('error')\n"
    code += "for path in sys.argv[1:]: exec(compile(open(path).read(), path, 'exec'), {'__name__': 'example'})"
    subprocess.run([sys.executable, "-c", code, *map(str, EXAMPLES)], check=True, capture_output=True)


def test_a_gate_and_its_submission(scnet: ScnetSimulator, run_dag):
    (example,) = [path for path in EXAMPLES if path.stem == "scnet_gate"]
    result, printed = run_dag(example, "scnet_gate")
    assert result["state"] == "success", printed
    assert scnet.totals("alice").submitted == 1
    # Nobody answers there about Variables, and nobody is asked.
    assert "Variables" not in printed


def test_a_mapped_group_of_gates_and_submissions(scnet: ScnetSimulator, run_dag):
    (example,) = [path for path in EXAMPLES if path.stem == "scnet_gate_mapped"]
    result, printed = run_dag(example, "scnet_gate_mapped", inputs=3)
    assert result["state"] == "success", printed
    assert scnet.totals("alice").submitted == 3
    assert sum("wait_for_room" in task for task in result["tasks"]) == 3


def test_jobs_behind_gates(scnet: ScnetSimulator, run_dag):
    scnet.plan_jobs(JobPlan(run_for=0.3), times=None)
    (example,) = [path for path in EXAMPLES if path.stem == "scnet_submit"]
    result, printed = run_dag(example, "scnet_submit", inputs=2)
    assert result["state"] == "success", printed
    assert len({job.name for job in scnet.jobs("alice")}) == scnet.totals("alice").submitted == 2


def test_jobs_of_every_kind_of_task_that_submits(scnet: ScnetSimulator, run_dag):
    scnet.plan_jobs(
        JobPlan(run_for=0.3, outcome="FAILED", exit_code="37:0", output="no such file"), name="failing"
    )
    scnet.plan_jobs(JobPlan(run_for=0.3), times=None)
    scnet.order(Fault.refusal("user's limit"), path=SUBMISSION_PATH)
    result, printed = run_dag(
        """
        from airflow_provider_scnet.operators.scnet import ScnetSubmitJobOperator

        asked = {"work_dir": "/public/home/alice", "wall_time": "01:00:00", "poll_interval": 0.3, "settle": 1}
        with new("submitting", params={"queue": "comp", "cores": 4, "word": "hello"}) as dag:
            @task
            def inputs():
                return [{"command": f"echo {n}", "cores": n} for n in (1, 2)]

            @task
            def check(job, expected):
                assert (job["state"], job["job_id"].isdigit()) == (expected, True), job

            for deferrable in (True, False):
                templated = ScnetSubmitJobOperator(
                    task_id=f"templated_{deferrable}", command=["echo {{ params.word }}"], cores="{{ params.cores }}",
                    queue_name="{{ params.queue }}", deferrable=deferrable, **asked,
                )
                check.override(task_id=f"check_{deferrable}")(templated.output, "completed")

            @task_group
            def group(found):
                mapped = ScnetSubmitJobOperator.partial(
                    task_id="mapped", queue_name="comp", **asked
                ).expand_kwargs(found)
                check.override(task_id="check").partial(expected="completed").expand(job=mapped.output)
            group(inputs())

            failing = ScnetSubmitJobOperator(task_id="failing", command="x", queue_name="comp", **asked)

            @task(trigger_rule="all_done")
            def look(ti=None):
                assert ti.xcom_pull(task_ids="failing", key="job")["exit_code"] == "37:0"
                assert ti.xcom_pull(task_ids="failing", key="job_id").isdigit()
            failing >> look()
        """,
        "submitting",
    )
    succeed = [f"{name}_{way}[-1]" for name in ("templated", "check") for way in (True, False)]
    succeed += [f"group.{name}[{n}]" for name in ("mapped", "check") for n in (0, 1)] + ["inputs[-1]", "look[-1]"]
    assert result["tasks"] == {**dict.fromkeys(succeed, "success"), "failing[-1]": "failed"}, printed
    assert "no such file" in printed
    jobs = {job.name: job.terms for job in scnet.jobs("alice")}
    assert len(jobs) == 5
    assert sorted((terms.command, terms.cores) for terms in jobs.values()) == [
        ("echo 1", 1),
        ("echo 2", 2),
        ("echo hello", 4),
        ("echo hello", 4),
        ("x", 1),
    ]


def test_submissions_to_whichever_cluster_has_room(scnet: ScnetSimulator, run_dag, connect, monkeypatch):
    (example,) = [path for path in EXAMPLES if path.stem == "scnet_any_cluster"]
    connect("scnet_west")
    with ScnetSimulator() as east:
        east.add_user("alice")
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_EAST", east.connection_json())
        scnet.submit("alice", 6, run_for=3600)
        result, printed = run_dag(example, "scnet_any_cluster", inputs=2)
        assert result["state"] == "success", printed
        assert (scnet.totals("alice").submitted, east.totals("alice").submitted) == (6, 2)


def test_the_connection_that_a_gate_opened_on_reaches_the_submission_in_every_way_to_wait(run_dag, connect):
    connect("scnet_west")
    result, printed = run_dag(
        """
        ways = [{}, {"use_worker": True}, {"deferrable": False}, {"deferrable": False, "mode": "reschedule"}]
        with new("opened_on") as dag:
            @task
            def check(conn_id):
                assert conn_id == "scnet_west"
            for n, way in enumerate(ways):
                waited = gate(task_id=f"gate_{n}", scnet_conn_id=["scnet_west", "nowhere"], submits=0, **way)
                check.override(task_id=f"check_{n}")(waited.output["scnet_conn_id"])
        """,
        "opened_on",
    )
    expected = {f"{name}_{n}[-1]": "success" for name in ("gate", "check") for n in range(4)}
    assert result == {"state": "success", "tasks": expected}, printed


def test_the_dag_gets_the_decision_as_a_dict_in_every_way_to_wait(scnet: ScnetSimulator, run_dag):
    scnet.set_counts("alice", running=3, queued=2)
    result, printed = run_dag(
        """
        ways = [{}, {"use_worker": True}, {"deferrable": False}, {"deferrable": False, "mode": "reschedule"}]
        with new("as_a_dict") as dag:
            @task
            def check(decision):
                assert decision["counts"]["running"] == 3
            for n, way in enumerate(ways):
                waited = gate(task_id=f"gate_{n}", submits=0, **way)
                check.override(task_id=f"check_{n}")(waited.output)
        """,
        "as_a_dict",
    )
    expected = {f"{name}_{n}[-1]": "success" for name in ("gate", "check") for n in range(4)}
    assert result == {"state": "success", "tasks": expected}, printed


def test_the_connections_condition_is_heeded_by_gates_that_wait(scnet: ScnetSimulator, run_dag, connect):
    connect(condition="queued < 3")
    # Each gate sees a full queue once, so they take turns: in dag.test() of 3.0 a rescheduled sensor fails when it
    # waits on, as Airflow hands it the time of its first poke as text.
    for queued in [4, 0] * 2:
        reported = [{"name": "运行", "y": 0}, {"name": "排队", "y": queued}]
        scnet.order(Fault.api("0", "success", reported))
    result, printed = run_dag(
        """
        ways = [{}, {"deferrable": False, "mode": "reschedule"}]
        with new("two_conditions") as dag:
            deferred, rescheduled = [gate(task_id=f"gate_{n}", submits=0, **way) for n, way in enumerate(ways)]
            deferred >> rescheduled
        """,
        "two_conditions",
    )
    assert result == {"state": "success", "tasks": {f"gate_{n}[-1]": "success" for n in range(2)}}, printed
    assert len(scnet.job_state_requests) == 4
    assert "running 0, queued 4: waiting, the connection needs queued < 3" in printed


def test_a_dag_with_delimiters_of_its_own(scnet: ScnetSimulator, run_dag):
    result, printed = run_dag(
        """
        marks = {"variable_start_string": "[[", "variable_end_string": "]]"}
        with new("marked", jinja_environment_kwargs=marks, params={"most": 3, "user": "alice"}) as dag:
            gate(condition="queued < [[ params.most ]]", user_name="[[ params.user ]]")
            gate(task_id="wrong", condition="queued < [[ params.user ]]")
        """,
        "marked",
    )
    assert result["tasks"] == {"gate[-1]": "success", "wrong[-1]": "failed"}, printed


def test_the_decision_is_in_the_same_place_in_every_way_to_wait(scnet: ScnetSimulator, run_dag):
    scnet.set_counts("alice", running=3, queued=2)
    result, printed = run_dag(
        """
        import json
        ways = [{}, {"use_worker": True}, {"deferrable": False}, {"deferrable": False, "mode": "reschedule"}]
        with new("same_place") as dag:
            @task
            def check(name, returns, ti=None):
                decision = json.loads(ti.xcom_pull(task_ids=name, key="decision"))
                assert decision["counts"]["running"] == 3
                assert ti.xcom_pull(task_ids=name) == (decision if returns else None)
            for n, way in enumerate(ways):
                gate(task_id=f"gate_{n}", submits=0, **way) >> check.override(task_id=f"check_{n}")(
                    f"gate_{n}", bool(way)
                )
        """,
        "same_place",
    )
    expected = {f"{name}_{n}[-1]": "success" for name in ("gate", "check") for n in range(4)}
    assert result == {"state": "success", "tasks": expected}, printed


def test_templated_mapped_and_soft_gates(scnet: ScnetSimulator, run_dag):
    scnet.set_counts("alice", queued=2, held=1)
    result, printed = run_dag(
        """
        with new("templated", params={"limit": 3, "user": "alice"}) as dag:
            gate(task_id="right", condition="queued < {{ params.limit }}", user_name="{{ params.user }}")
            gate(task_id="wrong", condition="{{ params.user }} < 5")
            gate(task_id="empty", user_name="{{ '' }}")
            ScnetJobCountSensor.partial(task_id="mapped", poke_interval=0.2, timeout=30, submits=0).expand(
                condition=["queued < 5", "queued < {{ 1 + 2 }}", "pending < 5"]
            )
            ScnetJobCountSensor.partial(task_id="soft", soft_fail=True).expand(condition=["pending < 5"])

            @task
            def after(): ...
            for deferrable in (True, False):
                soft = gate(task_id=f"held_{deferrable}", soft_fail=True, fail_when="held > 0", deferrable=deferrable)
                soft >> after.override(task_id=f"after_{deferrable}")()
        """,
        "templated",
    )
    assert result["tasks"] == {
        "right[-1]": "success",
        "wrong[-1]": "failed",
        "empty[-1]": "failed",
        "mapped[0]": "success",
        "mapped[1]": "success",
        "mapped[2]": "failed",
        "soft[0]": "skipped",
        "held_True[-1]": "skipped",
        "after_True[-1]": "skipped",
        "held_False[-1]": "skipped",
        "after_False[-1]": "skipped",
    }, printed
    assert "unknown state 'alice'" in printed
    assert "user_name is given but empty" in printed
    assert "did you mean 'queued'" in printed


def pass_and_fail(run_dag, dag_id: str) -> str:
    """Run a DAG whose gates pass and fail, and return what was printed."""
    source = f"""
        with new("{dag_id}") as dag:
            gate(user_name="{{{{ 'alice' }}}}", use_worker=True)
            gate(task_id="failing", fail_when="total == 0", deferrable=False)
    """
    result, printed = run_dag(source, dag_id)
    assert result["tasks"] == {"gate[-1]": "success", "failing[-1]": "failed"}, printed
    # On 3.0 dag.test() prints what Airflow itself is told to mask, and nothing else does.
    lines = [line for line in printed.splitlines() if not (VERSION < (3, 1) and "MaskSecret(value=" in line)]
    return "\n".join(lines)


def files_with(secret: str, home: Path) -> list[Path]:
    """Return the files that hold a text, of all that Airflow wrote, its database among them."""
    written = [path for path in home.rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in written)
    return [path for path in written if secret.encode() in path.read_bytes()]


def test_the_token_is_in_nothing_that_a_failing_and_a_passing_run_wrote(
    scnet: ScnetSimulator, run_dag, airflow_db
):
    token = scnet.token("alice")
    scnet.order(Fault.api("10001", f"busy {token}"), times=3)
    printed = pass_and_fail(run_dag, "secret")
    assert "busy ***" in printed
    assert token not in printed
    assert files_with(token, airflow_db.parent) == []


def test_keys_and_tokens_are_in_nothing_that_a_failing_and_a_passing_run_wrote(
    scnet: ScnetSimulator, run_dag, airflow_db, monkeypatch: pytest.MonkeyPatch
):
    scnet.add_access_keys("alice")
    conn = scnet.key_connection()
    keys = conn["extra"]
    monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", json.dumps(conn))
    scnet.order(Fault.api("10001", f"busy {keys['secret_key']} {keys['access_key']}"), path=TOKENS_PATH)
    # Airflow masks no token that was issued; one that is known beforehand can be echoed.
    token = scnet.token("alice")
    issued = [{"clusterId": "11112", "clusterName": "x", "token": token}]
    scnet.order(Fault.api("0", "success", issued), times=None, path=TOKENS_PATH)
    scnet.order(Fault.api("10001", f"lazy {token}"))
    printed = pass_and_fail(run_dag, "keys")
    assert "busy *** ***" in printed
    assert "lazy ***" in printed
    assert {request.headers["token"] for request in scnet.job_state_requests} == {token}
    for secret in (keys["access_key"], keys["secret_key"], token):
        assert secret not in printed
        assert files_with(secret, airflow_db.parent) == []


def test_the_tests_of_a_dag_that_the_page_shows_pass(airflow_db: Path, tmp_path: Path):
    folder = airflow_db / "shown"
    folder.mkdir()
    files = {}
    for block in blocks(ROOT / "docs" / "en" / "testing.md"):
        if block.language == "python":
            files[block.text.splitlines()[0].removeprefix("# ")] = block.text
    assert files.keys() == {
        *("conftest.py", "my_dag.py", "test_my_dag.py", "test_my_jobs.py", "test_my_dag_with_requests_mock.py")
    }
    files["conftest.py"] = AIRFLOW_MENDED + files["conftest.py"]
    for name, text in files.items():
        (folder / name).write_text(text)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        str(tmp_path / "none.ini"),
        "--rootdir",
        str(folder),
        str(folder),
    ]
    (tmp_path / "none.ini").touch()
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    shutil.rmtree(folder)
    assert done.returncode == 0, done.stdout
    assert "5 passed" in done.stdout
