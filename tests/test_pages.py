# SPDX-License-Identifier: Apache-2.0
"""The READMEs and the pages: the same in both languages, true of the code, and their code runs."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import logging
import pydoc
import re
import runpy
import shlex
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from airflow.models.connection import Connection

from airflow_provider_scnet import __main__ as command_line
from airflow_provider_scnet import __version__
from airflow_provider_scnet.claims.claim_terms import GateId, SubmissionTasks, Terms
from airflow_provider_scnet.claims.expiry import Phase
from airflow_provider_scnet.claims.ledger import Ledger, NotDecidedError
from airflow_provider_scnet.claims.record import FORMAT
from airflow_provider_scnet.client.connection_settings import EXTRAS, ConnectionSettings
from airflow_provider_scnet.client.error_codes import CODES, ErrorKind
from airflow_provider_scnet.client.job_counts import STATES, JobCounts
from airflow_provider_scnet.client.job_state import JobState
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.client.reported_job import ReportedJob
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.gate.claimed import NOTHING
from airflow_provider_scnet.gate.decision import decide
from airflow_provider_scnet.gate.gate import Gate
from airflow_provider_scnet.hooks.scnet import ScnetHook
from airflow_provider_scnet.operators.scnet import ScnetSubmitJobOperator
from airflow_provider_scnet.polling.kept_room import MOST_OVERTAKEN, KeptRoom
from airflow_provider_scnet.polling.waiting import WaitingGate
from airflow_provider_scnet.sensors.scnet import ScnetJobCountSensor
from airflow_provider_scnet.testing import ScnetSimulator
from airflow_provider_scnet.testing import __main__ as simulator_command
from benchmarks import virtual_time

from pages import PAGES, PAIRS, ROOT, Block, anchors, blocks, codes, headings, inline, links, tables, tokens

BLOCKS = [block for page in PAGES for block in blocks(page)]
MAKEFILE = (ROOT / "Makefile").read_text()


def of(*languages: str) -> pytest.MarkDecorator:
    found = [block for block in BLOCKS if block.language in languages]
    assert found
    return pytest.mark.parametrize("block", found, ids=str)


def pairs() -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("page", "other"), PAIRS.items(), ids=lambda page: page.name)


# The two languages


def test_every_page_is_there_in_both_languages():
    for language in ("en", "zh"):
        names = {path.name for path in (ROOT / "docs" / language).iterdir()}
        assert names == {page.name for page in PAIRS if page.parent.name == "en"}
    nav = re.search(r"^nav:\n((?: +- .+\n)+)", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert nav
    assert sorted(re.findall(r"[\w-]+\.md", nav[1])) == sorted(names)


@pairs()
def test_headings_have_the_same_levels_in_the_same_order(page: Path, other: Path):
    assert [level for level, _ in headings(page)] == [level for level, _ in headings(other)]


@pairs()
def test_blocks_of_code_are_the_same_but_for_their_comments(page: Path, other: Path):
    ours, theirs = blocks(page), blocks(other)
    assert [block.language for block in ours] == [block.language for block in theirs]
    assert [block.without_comments for block in ours] == [block.without_comments for block in theirs]


@pairs()
def test_tables_have_the_same_rows_about_the_same_names_and_figures(page: Path, other: Path):
    ours, theirs = tables(page), tables(other)
    assert [[len(row) for row in table] for table in ours] == [[len(row) for row in table] for table in theirs]
    for table, same in zip(ours, theirs, strict=True):
        for row, twin in zip(table[1:], same[1:], strict=True):
            assert [sorted(codes(cell)) for cell in row] == [sorted(codes(cell)) for cell in twin], row
            figures = [
                re.findall(r"\d[\d.,]*\d|\d", re.sub(r"\(\S+\.md\S*\)", "", " ".join(cells)))
                for cells in (row, twin)
            ]
            assert Counter(figures[0]) == Counter(figures[1]), row


@pairs()
def test_lists_lines_of_comment_and_links_are_the_same(page: Path, other: Path):
    def outline(path: Path) -> list[str]:
        return [
            t.type for t in tokens(path) if t.type in ("list_item_open", "fence", "table_open", "heading_open")
        ]

    def comments(path: Path) -> list[str]:
        return re.findall(r"<!--.*?-->", path.read_text())

    def leads(path: Path) -> Counter[str]:
        own = (".zh-CN.md", ".md"), ("/zh/", "/en/"), (".zh.", ".en.")
        found = []
        for link in links(path):
            for theirs, ours in own:
                link = link.replace(theirs, ours)
            found.append(link.partition("#")[0])
        return Counter(found)

    assert outline(page) == outline(other)
    assert comments(page) == comments(other)
    assert leads(page) == leads(other)


@pairs()
def test_names_in_code_are_the_same(page: Path, other: Path):
    ours, theirs = ({token.content for token in inline(path, "code_inline")} for path in (page, other))
    assert ours == theirs


@pytest.mark.parametrize("page", PAIRS.values(), ids=lambda page: page.name)
def test_no_line_of_a_chinese_page_breaks_within_a_paragraph(page: Path):
    # A browser shows a line break as a space, which Chinese has none of.
    broken = [token.content for token in tokens(page) if token.type == "inline" and "\n" in token.content]
    # Mkdocstrings' own lines are no sentences.
    assert [text for text in broken if not text.startswith(":::")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_emphasis_ends(page: Path):
    # "。**" before a Chinese character ends none: it takes a space behind it.
    assert [token.content for token in inline(page, "text") if "*" in token.content] == []


# Links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(page: Path):
    for link in links(page):
        if link.startswith("https://"):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        # What is built from docs/ alone cannot lead out of it.
        assert page.parent == ROOT or target.resolve().is_relative_to(ROOT / "docs"), link
        assert not anchor or anchor in anchors(target), link


def test_a_visitor_reads_the_readme_in_five_minutes():
    for name in ("README.md", "README.zh-CN.md"):
        assert len((ROOT / name).read_text().splitlines()) <= 170


# Code


@of("python")
def test_python_compiles(block: Block):
    compile(block.text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


# A page's piece of a DAG stands in one; what it takes for granted stands before it.
DAG_PIECES = """
import json, sys, types, warnings
from datetime import datetime
from airflow.providers.common.compat.sdk import DAG, BaseOperator, task, task_group
from airflow_provider_scnet.sensors.scnet import ScnetJobCountSensor

warnings.simplefilter("error")

def submitting():
    pass

# Stands for the operator of a package that is not installed with the tests.
class SSHOperator(BaseOperator):
    def __init__(self, *, ssh_conn_id, command, **kwargs):
        super().__init__(**kwargs)

sys.modules["airflow.providers.ssh.operators.ssh"] = types.SimpleNamespace(SSHOperator=SSHOperator)

found = {}
for where, text in json.load(sys.stdin).items():
    with DAG("page", schedule=None, start_date=datetime(2026, 1, 1)) as around:
        names = {"task_group": task_group, "ScnetJobCountSensor": ScnetJobCountSensor, "samples": ["a", "b"]}
        if "@dag(" not in text and "SSHOperator(" not in text:
            names["submit"] = task(lambda sample: sample, task_id="submit") if "submit(" in text else task(submitting)()
        exec(compile(text, where, "exec"), names)
    if "@dag(" in text:
        (around,) = [made for made in names["made"]]
    found[where] = sorted(around.task_ids)
print(json.dumps(found))
"""


def test_every_piece_of_a_dag_is_one_that_airflow_takes():
    pieces = {
        str(block): block.text
        for block in BLOCKS
        if block.language == "python" and "ScnetJobCountSensor(" in block.text
    }
    # A whole file makes its DAG in its last line.
    whole = {
        where: re.sub(r"\n(?:\w+ = )?(\w+\(\))\n$", r"\nmade = [\1]\n", text) for where, text in pieces.items()
    }
    assert all("made = [" in text for text in whole.values() if "@dag(" in text)
    done = subprocess.run(
        [sys.executable, "-c", DAG_PIECES],
        input=json.dumps({**pieces, **{k: v for k, v in whole.items() if "@dag(" in v}}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.keys() == pieces.keys()
    assert len(found) >= 6
    for where, tasks in found.items():
        names = {task.rpartition(".")[2] for task in tasks}
        assert "wait_for_room" in names, where
        assert len(names) == 2, where


def test_the_hook_alone_does_what_the_page_shows(scnet: ScnetSimulator):
    scnet.set_counts("alice", running=12, queued=4)
    pieces = [
        block
        for block in BLOCKS
        if block.language == "python"
        and "ScnetHook().get_job_counts" in block.text
        and block.page.name == "connection.md"
    ]
    assert len(pieces) == 2
    for block in pieces:
        names: dict[str, object] = {}
        code = compile(block.text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        asyncio.run(eval(code, names))
        (comment,) = re.findall(r"# (JobCounts\(.*\))", block.text)
        assert repr(names["counts"]) == comment
        assert names["session"].headers["token"] == scnet.token("alice")


def commands(block: Block) -> list[str]:
    """Return the commands of a block, without the prompts of a terminal and what was answered."""
    if block.language == "bash":
        return [block.text]
    lines = block.text.splitlines()
    assert lines[0].startswith("$ "), block
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


@of("console", "bash")
def test_commands_are_ones_that_a_shell_takes(block: Block):
    for command in commands(block):
        done = subprocess.run(["bash", "-n"], input=command, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), command
        match shlex.split(command.replace("\\\n", ""), comments=True):
            case ["make", target]:
                assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), command
            case ["python", "-c", program]:
                compile(program, str(block), "exec")
            case ["python", "-m", "airflow_provider_scnet.testing", *arguments]:
                simulator_command._parser().parse_args(arguments)
            case ["python", "-m", "airflow_provider_scnet", *arguments]:
                command_line._parser().parse_args(arguments)
            case ["airflow", "triggerer", "--queues", _] | ["pip", "install", "."]:
                pass
            case ["pip", "wheel", "--no-deps", "-w", "dist", "."] | ["pip", "install", "pytest", "requests-mock"]:
                pass
            case ["export", given] if not given.startswith("AIRFLOW_CONN_"):
                pass
            case ["airflow", "standalone"] | ["airflow", "db", "migrate"]:
                pass
            case ["airflow", "dags", "test", dag_id]:
                assert any(f"def {dag_id}():" in other.text for other in blocks(block.page)), command
            case ["airflow", "connections", "add", *_] | ["export", _]:
                assert connection_of(command)
            case other:
                raise AssertionError(f"{block}: nothing is known of {other}")


def connection_of(command: str) -> Connection:
    """Return the connection that a shell would make."""
    if command.startswith("export "):
        printed = subprocess.run(
            ["bash", "-c", f'{command}\nprintenv "${{!AIRFLOW_CONN_SCNET_@}}"'],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return (
            Connection.from_json(printed, conn_id="scnet_default")
            if printed[0] == "{"
            else Connection("scnet_default", uri=printed)
        )
    words = shlex.split(command.replace("\\\n", ""))
    assert words[3] == "scnet_default"
    given = dict(zip(words[4::2], words[5::2], strict=True))
    return Connection(
        "scnet_default",
        **{name.removeprefix("--conn-").replace("type", "conn_type"): given[name] for name in given},
    )


@of("bash")
def test_a_connection_that_a_page_shows_is_one_that_the_hook_takes(block: Block):
    connection = connection_of(block.text)
    assert connection.conn_type == "scnet"
    settings = ConnectionSettings.from_connection("scnet_default", connection)
    if settings.keys:
        assert settings.keys.user == "alice@example.com"
        assert settings.keys.cluster_id in ("11112", "11250")
    else:
        assert (settings.endpoint, settings.user_name, settings.token) == ("https://host:65051", "alice", "TOKEN")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_json_is_json(page: Path):
    written = [token.content for token in inline(page, "code_inline") if token.content.startswith(("{", "["))]
    written = [text for text in written if not re.match(r"\[\w+\]", text)]
    for text in written + [block.text for block in blocks(page) if block.language == "json"]:
        json.loads(text)


def test_there_is_no_code_of_a_kind_that_nobody_checks():
    assert {block.language for block in BLOCKS} <= {
        "python",
        "console",
        "bash",
        "json",
        "text",
        "yaml",
        "dockerfile",
    }


@of("yaml", "dockerfile", "text")
def test_what_an_installation_takes_names_the_package_and_the_airflow_that_there_are(block: Block):
    (airflow,) = re.findall(r"^AIRFLOW := (.+)$", MAKEFILE, re.MULTILINE)
    if block.language == "yaml":
        assert str(yaml.safe_load(block.text)["images"]["airflow"]["tag"]) == airflow
    elif block.language == "dockerfile":
        assert block.text.startswith(f"FROM apache/airflow:{airflow}\n")
    for version in re.findall(r"airflow_provider_scnet-([\w.]+)-py3", block.text):
        assert version == __version__


# What the pages say of the code


def table_of(page: Path, heading: str) -> list[list[str]]:
    """Return the rows of the one table of a page whose first cell of the heading is this."""
    (table,) = [table for table in tables(page) if table[0][0] == heading]
    return table[1:]


EN = ROOT / "docs" / "en"


def test_the_parameters_of_the_gate_are_all_there_with_their_defaults():
    signature = inspect.signature(ScnetJobCountSensor.__init__).parameters
    own = {name: each.default for name, each in signature.items() if name not in ("self", "kwargs")}
    rows = {codes(name)[0]: default for name, _, default in table_of(EN / "gate.md", "parameter")}
    assert rows.keys() == own.keys()
    for name, default in own.items():
        if default is inspect.Parameter.empty:
            assert rows[name] == "required"
        elif default is not None:
            assert rows[name].strip("`") == str(default)
    templated = {
        codes(name)[0] for name, meaning, _ in table_of(EN / "gate.md", "parameter") if "(templated)" in meaning
    }
    assert templated == set(ScnetJobCountSensor.template_fields)


def test_the_parameters_of_the_operator_are_all_there_with_their_defaults():
    signature = inspect.signature(ScnetSubmitJobOperator.__init__).parameters
    own = [name for name, given in signature.items() if given.kind is given.KEYWORD_ONLY]
    table = table_of(EN / "submit.md", "parameter")
    assert [codes(name)[0] for name, _, _ in table] == own
    for name, _, default in ((codes(row[0])[0], *row[1:]) for row in table):
        # None stands for what SCnet, or the operator, makes of it.
        given, said = signature[name].default, codes(default)[0] if codes(default) else default
        expected = {"": inspect.Parameter.empty, "7 days": timedelta(days=7)}.get(said)
        assert given in (None, expected) or str(float(given) if said.isdecimal() else given) in (
            said,
            f"{said}.0",
        ), name
        assert (given is None) is (said in ("1", "SCnet's own", "none", "the task's id")), name
    templated = {codes(name)[0] for name, meaning, _ in table if "(templated)" in meaning}
    assert templated == set(ScnetSubmitJobOperator.template_fields)


def test_what_the_operator_leaves_is_all_there():
    (told,) = [
        token.content
        for token in tokens(EN / "submit.md")
        if token.type == "inline" and token.content.startswith("**What it leaves.**")
    ]
    left = ReportedJob("1", "x", JobState.COMPLETED, "detail").as_dict()
    assert re.findall(r"`(\w+)`", told.partition(". The same")[0]) == [*left, "scheduler_id", "scnet_conn_id"]


def test_the_api_reference_names_what_there_is():
    ours, theirs = (
        re.findall(r"^::: (\S+)$", (ROOT / "docs" / language / "api.md").read_text(), re.MULTILINE)
        for language in ("en", "zh")
    )
    assert ours == theirs
    assert all(pydoc.locate(name) for name in ours), ours


def test_the_extras_are_all_there():
    (table,) = [table for table in tables(EN / "connection.md") if table[0] == ["extra", "meaning", "default"]]
    assert [name for row in table[1:] for name in codes(row[0])] == list(EXTRAS)


def test_the_names_of_a_condition_are_all_there():
    assert [codes(row[0])[0] for row in table_of(EN / "gate.md", "name")] == [*STATES, "total"]


def test_every_code_is_there_with_its_meaning_and_its_kind():
    rows = {
        codes(code)[0]: (meaning, kind) for code, meaning, kind, _ in table_of(EN / "troubleshooting.md", "code")
    }
    assert rows == {code: (meaning, kind.name.lower()) for code, (meaning, kind) in CODES.items()}
    words = {"暂时": ErrorKind.TRANSIENT, "凭据": ErrorKind.CREDENTIALS, "永久": ErrorKind.PERMANENT}
    chinese = table_of(ROOT / "docs" / "zh" / "troubleshooting.md", "返回码")
    assert {codes(code)[0]: words[kind] for code, _, kind, _ in chinese} == {
        c: kind for c, (_, kind) in CODES.items()
    }


RUN = "scheduled__2026-11-25T00:00:00+00:00"
ACCOUNT = ("https://host:65051", "alice")
SUBMIT = Terms(1, 180.0, 60.0, tasks=SubmissionTasks({"submit": True}))


class Variables:
    """An Airflow that answers about its Variables alone."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.fails: set[str] = set()
        self.takes = 0.0
        #: Somebody else's, whatever is written.
        self.turn: str | None = None

    async def get_variable(self, key: str) -> str | None:
        if "read" in self.fails:
            raise RuntimeError("API_SERVER_ERROR")
        return (self.turn if key.startswith("scnet_turn") else None) or self.values.get(key)

    async def set_variable(self, key: str, value: str, description: str) -> None:
        if "write" in self.fails:
            raise RuntimeError("API_SERVER_ERROR")
        if key.startswith("scnet_claims"):
            await asyncio.sleep(self.takes)
        self.values[key] = value

    async def states(self, *_: Any) -> dict[str, Any]:
        raise AssertionError("nobody asks")

    run_states = states


def ledger_with(state: str, *indexes: int) -> Ledger:
    """Return a ledger with the claims of mapped gates that have opened, whose submissions are in a state since now."""
    ledger = Ledger(ACCOUNT, Variables())
    for index in indexes:
        claim = ledger.claim(GateId("nightly", RUN, "wait_for_room", index), SUBMIT)
        states = {"wait_for_room": {index: "success"}, "submit": {index: state}}
        claim.follow(states, None, clock.now(), clock.now(), {})
        ledger.keep([claim])
    return ledger


def test_a_waiting_gate_says_what_the_page_shows():
    gate = Gate.of("queued < 5")

    def says(running: int, queued: int, ledger: Ledger | None = None) -> str:
        claimed = ledger.totals(clock.now()).claimed() if ledger else NOTHING
        return str(decide(gate, Observation(counts=JobCounts(running=running, queued=queued)), claimed))

    async def lines() -> list[str]:
        awaited = ledger_with("scheduled", 0, 3, 4, 5, 6)
        said = [says(12, 7), says(4, 1, awaited)]
        ended = ledger_with("success", 1, 2)
        await asyncio.sleep(SUBMIT.counted_after - 41.0)
        return [*said, says(4, 3, ended), says(4, 4)]

    *_, block = [block for block in blocks(EN / "many-gates.md") if block.language == "text"]
    assert block.text.splitlines() == virtual_time.run(lines())


def test_what_the_connection_needs_is_said_as_the_page_shows():
    (block,) = [block for block in blocks(EN / "connection.md") if block.language == "text"]
    seen = Observation(counts=JobCounts(running=12, queued=27), condition="queued < 20")
    assert block.text.strip() == str(decide(Gate.of("queued < 50"), seen))


def test_a_submission_that_does_not_start_is_told_of_as_the_page_shows():
    async def notes() -> list[str]:
        ledger = ledger_with("scheduled", 0, 1, 2, 3)
        assert not ledger.notes()
        await asyncio.sleep(SUBMIT.ttl)
        return [str(note) for note in ledger.notes()]

    block, *_ = [block for block in blocks(EN / "many-gates.md") if block.language == "text"]
    assert block.text.splitlines() == virtual_time.run(notes())


def test_room_is_kept_in_the_words_of_the_page():
    async def lines() -> list[str]:
        room, log = KeptRoom(), logging.getLogger(__name__)
        big, later = (
            WaitingGate(
                Gate.of("queued < 5", None, jobs), log, ["scnet_default"], id=GateId("nightly", RUN, "gate")
            )
            for jobs in (5, 1)
        )
        for _ in range(MOST_OVERTAKEN):
            assert not room.notes()
            room.learn([(big, 3)], [later], [big, later])
        seen = Observation(counts=JobCounts(running=4, queued=1))
        waits = decide(later.asks, seen, hold=room.reason_to_wait(later))
        return [*map(str, room.notes()), str(waits)]

    _, kept, _ = [block for block in blocks(EN / "many-gates.md") if block.language == "text"]
    assert kept.text.splitlines() == virtual_time.run(lines())


async def why_nothing_opens(ledger: Ledger) -> str:
    claim = ledger.claim(GateId("nightly", RUN, "wait_for_room"), Terms(1, 180.0))
    with pytest.raises(NotDecidedError) as told:
        await ledger.decide(lambda: [claim])
    return str(told.value)


def test_claims_stand_in_the_variables_that_the_page_names():
    airflow = Variables()

    async def whole() -> None:
        ledger = Ledger(ACCOUNT, airflow)
        await ledger.decide(lambda: [ledger.claim(GateId("nightly", RUN, "wait_for_room"), Terms(1, 180.0))])

    virtual_time.run(whole())
    named = [codes(row[0])[0] for row in table_of(EN / "triggerers.md", "Variable")]
    assert sorted(re.sub("[0-9a-f]{12}$", "<hash>", key) for key in airflow.values) == sorted(named)


def test_why_nothing_opens_is_said_as_the_page_shows():
    async def reasons() -> list[str]:
        airflow = [Variables() for _ in range(6)]
        lost, held, slow, unreadable, unwritable, unknown = airflow
        lost.turn, held.turn, slow.takes = "free", "somebody-1", 0.9
        unreadable.fails, unwritable.fails = {"read"}, {"write"}
        ledgers = [Ledger(ACCOUNT, each) for each in airflow]
        said = [await why_nothing_opens(ledger) for ledger in ledgers[:5]]
        # Where the claims of this account stand, as another version may have written them.
        claims = next(key for key in slow.values if key.startswith("scnet_claims"))
        unknown.values[claims] = json.dumps({"format": FORMAT + 1})
        return [*said, await why_nothing_opens(ledgers[5])]

    rows = [codes(row[0])[0] for row in table_of(EN / "triggerers.md", "the log says")]
    assert rows == virtual_time.run(reasons())


def test_what_goes_on_without_variables_is_said_as_the_page_shows():
    async def notes() -> list[str]:
        airflow = Variables()
        airflow.fails, ledger = {"read"}, Ledger(ACCOUNT, airflow)
        await why_nothing_opens(ledger)
        assert not ledger.notes()
        await asyncio.sleep(5 * 60)
        # From now on gates open all the same.
        await ledger.decide(tuple)
        return [str(note) for note in ledger.notes()]

    (block,) = [block for block in blocks(EN / "triggerers.md") if block.language == "text"]
    assert block.text.splitlines() == virtual_time.run(notes())


def test_the_phases_of_a_claim_are_all_there():
    named = [token.content for token in inline(EN / "inside.md", "code_inline")]
    phases = [phase.value for phase in Phase]
    assert [name for name in named if name in phases] == phases
    # The last row is about claims without a phase.
    assert [codes(row[0]) for row in table_of(EN / "inside.md", "phase")] == [*([phase] for phase in phases), []]


def test_the_versions_that_the_pages_name_are_those_that_are_tested():
    (line,) = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("Tested with")]
    variables = dict(re.findall(r"^(AIRFLOW|COMPAT|PYTHONS) := (.+)$", MAKEFILE, re.MULTILINE))
    lowest = re.search(r'"apache-airflow>=([\d.]+),', (ROOT / "pyproject.toml").read_text())
    assert lowest
    airflows = {lowest[1], variables["AIRFLOW"], *variables["COMPAT"].split()}
    assert set(re.findall(r"\d+\.\d+(?:\.\d+)?", line)) == airflows | {"3.11", *variables["PYTHONS"].split()}
    rows = table_of(EN / "compatibility.md", "Airflow")
    assert {version for row in rows for version in row[1].split(", ")} == airflows
    assert all(version.startswith(f"{row[0]}.") for row in rows for version in row[1].split(", "))


def test_the_drawings_are_those_that_the_script_makes():
    for name, svg in runpy.run_path(str(ROOT / "scripts" / "draw.py"))["drawings"]().items():
        assert (ROOT / "docs" / "pictures" / name).read_text(encoding="utf-8") == svg, (
            "python scripts/draw.py makes it anew"
        )


def test_the_hook_test_that_pages_show_says_what_they_say(scnet: ScnetSimulator):
    scnet.set_counts("alice", running=3, queued=5)
    ok, message = ScnetHook().test_connection()
    (shown,) = [
        t.content for t in inline(EN / "connection.md", "code_inline") if t.content.startswith("user alice")
    ]
    assert ok
    assert message.startswith(shown.removesuffix("…"))
