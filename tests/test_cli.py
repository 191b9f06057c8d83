# SPDX-License-Identifier: Apache-2.0
"""The command line, in processes of its own and against a simulator: what it says, where, and how it ends."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import os
import pty
import signal
import socket
import subprocess
import sys
import time
import weakref
from argparse import Namespace
from types import SimpleNamespace
from unittest import mock

import pytest
from airflow import __version__ as airflow_version

from airflow_provider_scnet import __main__ as command_line
from airflow_provider_scnet.cli import commands, definition
from airflow_provider_scnet.client.job_manager import LIMITS_PATH, SCHEDULER_PATH
from airflow_provider_scnet.hooks.polled_connection import PolledConnection
from airflow_provider_scnet.hooks.scnet import ScnetHook
from airflow_provider_scnet.testing import Fault

MODULE = [sys.executable, "-m", "airflow_provider_scnet"]
AIRFLOW = [sys.executable, "-m", "airflow", "scnet"]
since_3_2 = pytest.mark.skipif(
    tuple(int(part) for part in airflow_version.split(".")[:2]) < (3, 2),
    reason="Airflow takes commands from providers since 3.2",
)

#: An answer that says nothing of jobs that are held.
REPORTED = {"运行": 4, "排队": 2, "挂起": 0, "其他": 0}
WITHOUT_HELD = Fault.api("0", "success", [{"name": name, "y": number} for name, number in REPORTED.items()])

TOO_MUCH = "warning: with 300 jobs queued, all that SCnet lets this user submit (userMaxSubmitJob), the condition "


def run(*args: str, way: list[str] = MODULE) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*way, *args], capture_output=True, text=True, timeout=100, check=False)


def here(*args: str) -> subprocess.CompletedProcess[str]:
    """Do the same in this process: what starts one is tested elsewhere, and takes seconds."""
    out, err, disabled = io.StringIO(), io.StringIO(), logging.root.manager.disable
    with mock.patch.dict(os.environ), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            command_line.main(list(args))
        except SystemExit as end:
            status = end.code
        finally:
            logging.disable(disabled)
    return subprocess.CompletedProcess(args, status, out.getvalue(), err.getvalue())


#: Both ways to say the same.
ways = pytest.mark.parametrize(
    "way", [here, pytest.param(functools.partial(run, way=AIRFLOW), marks=since_3_2)], ids=["python", "airflow"]
)


def check_of(condition: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Check a connection that works; the warning, if there is one, is on stderr."""
    done = here("check", "--condition", condition, *args)
    assert done.returncode == 0
    first, *limit = done.stdout.splitlines()
    assert first.startswith("user alice")
    assert len(limit) <= 1
    return done


def in_one_line(text: str) -> str:
    (line,) = text.splitlines()
    return line


class TestJobs:
    @ways
    def test_a_table_tells_the_counts_of_a_user(self, scnet, way):
        scnet.submit("alice", jobs=6)
        done = way("jobs")
        assert (done.returncode, done.stderr) == (0, "")
        heading, _, row, *_ = done.stdout.splitlines()
        assert [cell.strip() for cell in heading.split("|")][:4] == ["connection", "user", "running", "queued"]
        assert [cell.strip() for cell in row.split("|")] == [
            "scnet_default",
            "alice",
            "4",
            "2",
            "0",
            "0",
            "0",
            "6",
        ]

    def test_json_is_all_that_stdout_holds_and_numbers_are_numbers(self, scnet):
        scnet.submit("alice", jobs=6)
        done = run("jobs", "--output", "json")
        assert (done.returncode, done.stderr) == (0, "")
        (row,) = json.loads(done.stdout)
        assert row.pop("observed_at")
        assert row == {
            "scnet_conn_id": "scnet_default",
            "user_name": "alice",
            "queue_name": None,
            "counts": {"running": 4, "queued": 2, "held": 0, "suspended": 0, "other": 0, "total": 6},
            "trouble": None,
        }

    def test_several_connections_and_users_are_asked_one_by_one_and_the_same_one_once(self, scnet, connect):
        scnet.add_user("bob")
        connect("scnet_free", "alice", allow_foreign_user=True)
        done = here(
            "jobs", "scnet_default", "scnet_free", "scnet_free", "--user", "alice", "--user", "bob", "-o", "json"
        )
        rows = [(row["scnet_conn_id"], row["user_name"]) for row in json.loads(done.stdout)]
        assert rows == [(conn, user) for conn in ("scnet_default", "scnet_free") for user in ("alice", "bob")]
        assert len(scnet.job_state_requests) == 4

    def test_queues_are_rows_of_their_own_and_cost_one_request_more(self, scnet):
        scnet.add_queue("gpu", slots=1)
        scnet.submit("alice", 3, queue="gpu")
        done = here("jobs", "--queue", "comp", "--queue", "gpu", "--queue", "gpu", "-o", "json")
        rows = json.loads(done.stdout)
        assert [(row["queue_name"], row["counts"]["queued"]) for row in rows] == [("comp", 0), ("gpu", 2)]
        assert len(scnet.job_state_requests) == 1
        table = here("jobs", "--queue", "gpu").stdout.splitlines()
        assert table[0].split(" | ")[2].strip() == "queue"
        assert table[2].split(" | ")[2].strip() == "gpu"

    @pytest.mark.parametrize("command", [("jobs",), ("check",), ("explain", "queued < 5")])
    @pytest.mark.parametrize("name", ["", "a b", "nowhere"])
    def test_a_queue_that_is_none_is_one_line_on_stderr(self, scnet, command, name):
        done = here(*command, "--queue", name)
        assert done.returncode == (1 if command == ("check",) else 2)
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
        assert "queue" in done.stderr

    def test_check_and_explain_take_a_queue_too(self, scnet):
        scnet.submit("alice", 9)
        assert here("check", "--queue", "comp").stdout.startswith("user alice, queue comp: 4 running, 5 queued; ")
        done = here("explain", "queued < 5", "--queue", "comp")
        assert (done.returncode, done.stdout) == (
            1,
            "queue comp: running 4, queued 5: waiting, needs queued < 5\n",
        )

    def test_a_connection_that_fails_spoils_no_other(self, scnet):
        done = here("jobs", "nowhere", "scnet_default")
        assert done.returncode == 2
        assert "alice" in done.stdout
        assert in_one_line(done.stderr).startswith("connection 'nowhere': is not defined")

    def test_a_state_that_was_not_reported_is_no_zero(self, scnet):
        scnet.order(WITHOUT_HELD, times=None)
        done = here("jobs", "-o", "json")
        assert done.returncode == 2
        (row,) = json.loads(done.stdout)
        assert row["counts"]["held"] is row["counts"]["total"] is None
        assert "'held' is missing" in in_one_line(done.stderr)
        assert "'held' is missing" in row["trouble"]

    def test_brackets_in_a_name_are_shown_as_they_are(self, scnet, capsys):
        look = PolledConnection("scnet_default").observe()
        commands._show([("[red]a", None, look)], "table", commands._Console())
        assert "[red]a" in capsys.readouterr().out


class TestCheck:
    @ways
    def test_it_says_what_the_test_button_says(self, scnet, way):
        scnet.submit("alice", jobs=6)
        done = way("check")
        assert (done.returncode, done.stderr) == (0, "")
        assert in_one_line(done.stdout) == ScnetHook().test_connection()[1]

    @ways
    def test_a_refused_token_is_one_line_and_never_shown(self, scnet, way):
        scnet.reject_token("alice")
        done = way("check")
        assert (done.returncode, done.stdout) == (1, "")
        assert "paste a fresh token" in in_one_line(done.stderr)
        assert scnet.token("alice") not in done.stderr


class TestCheckOfACondition:
    """It warns where SCnet would let the user submit no more, and the condition still holds."""

    @pytest.mark.parametrize(
        ("condition", "is_too_much"),
        [
            ("queued < 300", False),
            ("queued <= 299", False),
            ("queued <= 300", True),
            ("queued < 301", True),
            ("queued < 500", True),
            ("running + queued < 300", False),
            ("running + queued < 301", True),
            ("total < 300", False),
            ("total < 500", True),
            ("running < 5", True),
            ("held < 1", True),
            # Whether running jobs count towards the limit is not known.
            ("running < 500 and queued < 5", False),
            ("queued < 5 or queued < 500", True),
            ("not queued >= 500", True),
        ],
    )
    def test_it_warns_where_the_condition_holds_with_as_many_queued_as_the_user_may_submit(
        self, scnet, condition, is_too_much
    ):
        scnet.set_most_jobs("alice", 300)
        said = check_of(condition).stderr
        assert in_one_line(said).startswith(TOO_MUCH) if is_too_much else said == ""

    def test_it_says_the_same_through_access_keys(self, scnet, monkeypatch):
        scnet.set_most_jobs("alice", 300)
        keys = scnet.add_access_keys("alice")
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_KEYS", scnet.key_connection_json("alice"))
        done = check_of("queued < 500", "scnet_keys")
        assert in_one_line(done.stderr).startswith(TOO_MUCH)
        assert keys.secret_key not in done.stdout + done.stderr

    def test_it_warns_of_the_condition_of_one_queue(self, scnet):
        scnet.set_most_jobs("alice", 300)
        assert in_one_line(check_of("queued < 500", "--queue", "comp").stderr).startswith(TOO_MUCH)

    def test_without_a_limit_it_warns_of_nothing(self, scnet):
        assert check_of("queued < 500").stderr == ""

    def test_without_a_condition_it_says_what_the_limit_is(self, scnet):
        scnet.set_most_jobs("alice", 300)
        done = here("check")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[1:] == ["SCnet lets this user submit 300 jobs (userMaxSubmitJob)"]
        scnet.order(Fault(status=503), path=LIMITS_PATH)
        done = here("check")
        assert (done.returncode, done.stderr) == (0, "")
        assert in_one_line(done.stdout).startswith("user alice")

    @pytest.mark.parametrize("path", [SCHEDULER_PATH, LIMITS_PATH])
    @pytest.mark.parametrize(
        "fault",
        [
            Fault(status=503),
            Fault(status=404, body={"code": "404", "msg": "no such path"}),
            Fault(drop="before"),
            Fault.api("10008", "auth_fail", "token is invalid"),
            Fault.api("10009", "没有权限访问接口"),
            Fault.html(200, "<html>log in</html>"),
        ],
    )
    def test_a_limit_that_cannot_be_read_is_one_line_and_the_connection_works(self, scnet, path, fault):
        scnet.order(fault, path=path)
        done = check_of("queued < 500")
        assert in_one_line(done.stderr).startswith(
            "how many jobs this user may submit could not be read: connection 'scnet_default'"
        )
        assert scnet.token("alice") not in done.stderr

    def test_an_answer_that_takes_ten_minutes_is_waited_for_as_long_as_the_connection_says(self, scnet, connect):
        connect(timeout=0.5)
        scnet.order(Fault(delay=600), path=LIMITS_PATH)
        start = time.monotonic()
        done = check_of("queued < 500")
        assert time.monotonic() - start < 60
        assert "no whole answer within 0.5 s" in in_one_line(done.stderr)

    def test_where_the_connection_does_not_work_it_says_only_that(self, scnet):
        scnet.reject_token("alice")
        done = here("check", "--condition", "queued < 500")
        assert (done.returncode, done.stdout) == (1, "")
        assert "paste a fresh token" in in_one_line(done.stderr)
        assert LIMITS_PATH not in [request.path for request in scnet.requests]

    def test_of_a_user_that_scnet_does_not_know_it_says_only_that(self, scnet, monkeypatch):
        uri = scnet.connection_uri("alice").replace("//alice:", "//mallory:")
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", uri)
        done = here("check", "--condition", "queued < 500")
        assert (done.returncode, done.stdout) == (1, "")
        assert "correct the user name" in in_one_line(done.stderr)
        assert LIMITS_PATH not in [request.path for request in scnet.requests]

    @pytest.mark.parametrize(("condition", "says"), [("pending < 5", "did you mean 'queued'?"), ("", "is empty")])
    def test_what_is_no_condition_is_a_wrong_command_line_and_asks_nothing(self, scnet, condition, says):
        done = here("check", "--condition", condition)
        assert (done.returncode, done.stdout) == (2, "")
        assert says in in_one_line(done.stderr)
        assert not scnet.requests


class TestCheckOfTheConnectionsCondition:
    def test_it_is_shown_beside_what_the_user_may_submit(self, scnet, connect):
        connect(condition="queued < 20")
        scnet.set_most_jobs("alice", 300)
        done = here("check")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[1:] == [
            "each of its gates needs queued < 20 besides its own condition; "
            "SCnet lets this user submit 300 jobs (userMaxSubmitJob)"
        ]

    def test_it_is_shown_where_there_is_no_limit_or_none_can_be_read(self, scnet, connect):
        connect(condition="queued < 20")
        assert here("check").stdout.endswith("\neach of its gates needs queued < 20 besides its own condition\n")
        scnet.order(Fault(status=503), path=LIMITS_PATH)
        done = here("check")
        assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
        assert in_one_line(done.stderr).startswith("how many jobs this user may submit could not be read")

    def test_what_it_allows_no_more_of_needs_no_warning(self, scnet, connect):
        scnet.set_most_jobs("alice", 300)
        for of_connection, is_too_much in (("queued < 20", False), ("queued < 400", True)):
            connect(condition=of_connection)
            said = here("check", "--condition", "queued < 500").stderr
            assert in_one_line(said).startswith(TOO_MUCH) if is_too_much else said == ""

    def test_a_mistake_in_it_is_one_line(self, scnet, connect):
        connect(condition="pending < 5")
        done = here("check")
        assert done.returncode == 1
        assert in_one_line(done.stderr).startswith(
            "its gates stay shut: connection 'scnet_default', extra 'condition': condition 'pending < 5', character 1"
        )

    @pytest.mark.parametrize(
        ("of_connection", "says"),
        [
            ("running < 0", "running 0, queued 0: waiting, the connection needs running < 0"),
            ("pending < 5", "extra 'condition': condition 'pending < 5'"),
        ],
    )
    def test_explain_heeds_it(self, scnet, connect, of_connection, says):
        connect(condition=of_connection)
        done = here("explain", "queued < 5")
        assert done.returncode == 1
        assert says in in_one_line(done.stdout)


class TestExplain:
    @pytest.mark.parametrize(
        ("args", "status", "says"),
        [
            (["queued < 5"], 0, "running 4, queued 2: passes, queued < 5"),
            (["queued < 2"], 1, "running 4, queued 2: waiting, needs queued < 2"),
            (["queued < 5", "--submits", "4"], 1, "needs queued < 5 with room for 4"),
            (["queued < 5", "--fail-when", "running > 3"], 1, "failed, because fail_when running > 3 holds"),
            (["queued < 5", "scnet_default", "--user", "alice"], 0, "passes"),
        ],
    )
    def test_it_says_whether_a_gate_would_open_now_and_why_not(self, scnet, args, status, says):
        scnet.submit("alice", jobs=6)
        done = here("explain", *args)
        assert (done.returncode, done.stderr) == (status, "")
        assert says in in_one_line(done.stdout)

    def test_what_a_gate_would_note_in_its_log_is_on_stderr(self, scnet, connect):
        connect(verify=False)
        done = here("explain", "queued < 5")
        assert done.returncode == 0
        assert "certificates are not verified" in in_one_line(done.stderr)

    @since_3_2
    def test_airflow_ends_with_the_same_status(self, scnet):
        assert run("explain", "queued > 5", way=AIRFLOW).returncode == 1

    @pytest.mark.parametrize(
        ("args", "says"),
        [
            (["pending < 5"], "did you mean 'queued'?"),
            (["queued"], "is no comparison"),
            (["queued < 5", "--fail-when", "held >"], "condition 'held >'"),
            (["queued < 5", "--submits", "some"], "no number of jobs"),
            (["queued < 5", "--submits", "6"], "could never hold with the 6 jobs"),
            (["queued < 5", "--user", ""], "user_name is given but empty"),
            (["queued < 5", "--user", "mallory"], "correct the user name"),
            (["queued", "<", "5"], "unrecognized arguments"),
            ([], "required: CONDITION"),
        ],
    )
    def test_what_cannot_be_told_is_one_line_on_stderr(self, scnet, args, says):
        done = here("explain", *args)
        assert (done.returncode, done.stdout) == (2, "")
        assert says in in_one_line(done.stderr)

    @pytest.mark.parametrize("fault", [Fault(status=503), Fault(drop="before"), Fault.api("10001", "broken")])
    def test_a_cluster_that_gives_no_counts_leaves_it_untold(self, scnet, fault):
        scnet.order(fault)
        done = here("explain", "queued < 5")
        assert (done.returncode, done.stdout) == (2, "")
        assert "connection 'scnet_default'" in in_one_line(done.stderr)

    def test_a_state_that_was_not_reported_matters_only_where_it_is_mentioned(self, scnet):
        scnet.order(WITHOUT_HELD, times=None)
        assert here("explain", "queued < 5").returncode == 0
        done = here("explain", "held < 5")
        assert done.returncode == 2
        assert "'held' is missing" in in_one_line(done.stderr)


class TestMistakes:
    @since_3_2
    @pytest.mark.parametrize(
        ("args", "says"),
        [
            (["jobs", "--output", "xml"], "invalid choice: 'xml'"),
            (["jobs", "scnet://alice:s3cret@host"], "an address is no id of a connection"),
        ],
    )
    def test_a_wrong_command_line_is_one_line_through_airflow(self, args, says):
        done = run(*args, way=AIRFLOW)
        assert done.returncode == 2
        # Airflow's own parser prints its help on stdout, and an empty line before the error.
        assert says in in_one_line(done.stderr.strip())
        assert "s3cret" not in done.stdout + done.stderr

    @pytest.mark.parametrize(
        ("args", "says"),
        [
            (["jobs", "--output", "xml"], "invalid choice: 'xml'"),
            (["jobs", "--watch", "soon"], "'soon' is no number of seconds from 5 to 86400"),
            (["jobs", "--watch", "nan"], "'nan' is no number of seconds"),
            (["jobs", "--watch", "0.1"], "'0.1' is no number of seconds"),
            (["jobs", "scnet://alice:s3cret@host"], "an address is no id of a connection"),
            (["frobnicate"], "invalid choice: 'frobnicate'"),
        ],
    )
    def test_a_wrong_command_line_is_one_line(self, args, says):
        done = here(*args)
        assert (done.returncode, done.stdout) == (2, "")
        assert says in in_one_line(done.stderr)
        assert "s3cret" not in done.stdout + done.stderr

    @pytest.mark.parametrize(
        ("way", "command"), [(here, ["jobs"]), (here, ["check"]), (run, ["explain", "queued < 5"])]
    )
    def test_an_unknown_connection_is_one_line_with_and_without_a_database(
        self, way, command, tmp_path, monkeypatch
    ):
        if way is run:
            monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
            monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{tmp_path / 'none.db'}")
        done = way(*command, "nowhere")
        assert (done.returncode, done.stdout) == (1 if command == ["check"] else 2, "")
        assert in_one_line(done.stderr).startswith("connection 'nowhere': is not defined")

    def test_a_cluster_that_nobody_serves_is_one_line(self, monkeypatch):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # and does not listen
            address = f"http://127.0.0.1:{taken.getsockname()[1]}"
            conn = {"conn_type": "scnet", "host": address, "login": "alice", "password": "token"}
            monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", json.dumps(conn))
            done = here("jobs")
        assert (done.returncode, done.stdout) == (2, "")
        assert "the connection failed: Connection refused" in in_one_line(done.stderr)

    def test_a_reader_that_went_away_is_no_error_to_talk_about(self, scnet):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run([*MODULE, "jobs"], stdout=write, stderr=subprocess.PIPE, check=False)
        os.close(write)
        assert (done.returncode, done.stderr) == (commands.READER_GONE, b"")


class TestConnections:
    def test_a_connection_in_the_database_is_found(self, airflow_db, scnet, monkeypatch):
        monkeypatch.delenv("AIRFLOW_CONN_SCNET_DEFAULT")
        connections = [sys.executable, "-m", "airflow", "connections"]
        fields = {"conn-type": "scnet", "conn-host": scnet.url, "conn-login": "alice"}
        fields["conn-password"] = scnet.token("alice")
        options = [part for name, value in fields.items() for part in (f"--{name}", value)]
        # It is left there: nothing else has its name.
        subprocess.run([*connections, "add", "scnet_stored", *options], check=True, capture_output=True)
        done = run("jobs", "-o", "json", "scnet_stored")
        assert (done.returncode, done.stderr) == (0, "")


class TestWatch:
    @pytest.fixture
    def pauses(self, monkeypatch):
        """How long a watch waited; the third time it is ended as by Ctrl-C."""
        made = []

        def sleep(seconds):
            made.append(seconds)
            if len(made) == 3:
                raise KeyboardInterrupt

        monkeypatch.setattr(commands, "time", SimpleNamespace(sleep=sleep))
        monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
        return made

    def watch(self, output: str = "table") -> int:
        args = Namespace(conn_ids=["scnet_default"], users=None, queues=None, output=output, watch=30.0)
        with pytest.raises(SystemExit) as end:
            commands.jobs(args)
        return end.value.code

    def test_it_looks_once_an_interval(self, scnet, pauses, capsys):
        assert self.watch("json") == commands.INTERRUPTED
        assert pauses == [30, 30, 30]
        assert len(scnet.job_state_requests) == 3
        assert [len(json.loads(line)) for line in capsys.readouterr().out.splitlines()] == [1, 1, 1]

    def test_the_cluster_may_ask_for_a_longer_pause(self, scnet, pauses):
        scnet.order(Fault(status=429, headers={"Retry-After": "77"}))
        assert self.watch() == commands.INTERRUPTED
        assert pauses == [77, 30, 30]

    def test_a_fault_that_comes_later_does_not_end_it(self, scnet, pauses, monkeypatch, capsys):
        sleep = commands.time.sleep

        def refuse_and_sleep(seconds):
            scnet.reject_token("alice")
            sleep(seconds)

        monkeypatch.setattr(commands.time, "sleep", refuse_and_sleep)
        assert self.watch() == commands.INTERRUPTED
        assert len(capsys.readouterr().err.splitlines()) == 2

    def test_what_is_wrong_from_the_start_ends_it(self, scnet, pauses):
        scnet.reject_token("alice")
        assert self.watch() == commands.COULD_NOT_TELL
        assert not pauses

    @pytest.fixture
    def heeds_ctrl_c(self):
        """What a shell starts in the background ignores SIGINT, and so does what that starts in turn."""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)

    def test_ctrl_c_in_a_finalizer_ends_it_too(self, scnet, pauses, monkeypatch, heeds_ctrl_c):
        look_at = PolledConnection.observe

        def interrupted(connection, *asked):
            # At once: nobody keeps that one.
            weakref.finalize(PolledConnection("x"), signal.raise_signal, signal.SIGINT)
            return look_at(connection, *asked)

        monkeypatch.setattr(PolledConnection, "observe", interrupted)
        assert self.watch() == commands.INTERRUPTED
        assert not pauses

    def test_without_a_terminal_it_prints_one_table_after_another_until_ctrl_c(self, scnet, heeds_ctrl_c):
        command = [*MODULE, "jobs", "--watch", "5"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            scnet.wait_for_requests(2, timeout=120)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate()
        assert (process.returncode, err) == (commands.INTERRUPTED, "")
        assert "\x1b" not in out
        assert out.count("scnet_default") >= 1

    def test_on_a_terminal_it_repeats_in_place_and_leaves_the_cursor_visible(
        self, scnet, monkeypatch, heeds_ctrl_c
    ):
        monkeypatch.setenv("TERM", "xterm")
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [*MODULE, "jobs", "--watch", "5"], stdin=theirs, stdout=theirs, stderr=theirs
        ) as process:
            os.close(theirs)
            scnet.wait_for_requests(2, timeout=120)
            said = os.read(ours, 10_000)
            while b"\x1b[1A" not in said:
                said += os.read(ours, 10_000)
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(OSError):  # the terminal ends with its last process
                while more := os.read(ours, 10_000):
                    said += more
        os.close(ours)
        assert process.returncode == commands.INTERRUPTED
        assert b"scnet_default" in said, "a connection's name has its place in 80 columns"
        hide, show = b"\x1b[?25l", b"\x1b[?25h"
        assert said.index(hide) < said.rindex(show)
        assert b"Traceback" not in said


class TestStart:
    def test_the_definition_loads_nothing_that_airflows_own_command_line_has_not_loaded(self):
        code = (
            "import sys, airflow.cli.cli_config, airflow_provider_scnet.provider_info; before = set(sys.modules);"
            "import airflow_provider_scnet.cli.definition as d; d.get_scnet_commands();"
            "print(sorted(set(sys.modules) - before))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == (
            "['airflow_provider_scnet.cli', 'airflow_provider_scnet.cli.definition']"
        )

    @since_3_2
    def test_airflow_lists_the_commands(self):
        done = run("--help", way=AIRFLOW)
        assert done.returncode == 0
        for command in definition.COMMANDS:
            assert command.name in done.stdout
