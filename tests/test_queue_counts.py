# SPDX-License-Identifier: Apache-2.0
"""Gates that ask about one queue: what counts as zero and what as unknown, whose claims they count, how they share."""

from __future__ import annotations

import ast
import asyncio
import random
from typing import Any

import pytest
from airflow.exceptions import AirflowException
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_scnet.client import queue_counts
from airflow_provider_scnet.client.errors import ErrorKind, ScnetConfigError, ScnetError, ScnetResponseError
from airflow_provider_scnet.client.job_counts import STATES, JobCounts
from airflow_provider_scnet.client.job_manager import QUEUE_NAMES_PATH, SCHEDULER_PATH
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.client.queue_counts import (
    QUEUE_COUNTS_PATH,
    by_queue_from_data,
    missing_queue,
)
from airflow_provider_scnet.gate.condition import NAMES
from airflow_provider_scnet.gate.decision import Verdict, decide
from airflow_provider_scnet.gate.gate import Gate
from airflow_provider_scnet.hooks.polled_connection import PolledConnection
from airflow_provider_scnet.hooks.scnet import ScnetHook
from airflow_provider_scnet.testing import Fault, ScnetSimulator
from airflow_provider_scnet.triggers.scnet import ScnetJobCountEventTrigger, ScnetJobCountTrigger

from gates import INTERVAL, MODES, claimed, context, first_event, gate

QUEUE_NAMES_OF_ALICE = f"{QUEUE_NAMES_PATH}alice"


@pytest.fixture(autouse=True)
def two_queues(scnet: ScnetSimulator) -> None:
    scnet.add_queue("gpu", slots=1)


@pytest.fixture(params=MODES.values(), ids=MODES)
def run(request: pytest.FixtureRequest) -> Any:
    return request.param


def paths(scnet: ScnetSimulator) -> list[str]:
    return [request.path.rpartition("/hpc/openapi/v2/")[2] for request in scnet.requests]


def queue(name: object = "comp", **metrics: object) -> dict[str, object]:
    return {"name": name, "values": [{"metricName": k, "metricValue": v} for k, v in metrics.items()]}


def answer(*queues: object) -> Fault:
    return Fault.api("0", "success", list(queues))


WHOLE = {"R": 1, "Q": 2, "H": 0, "S": 0, "O": 0}


class TestAnswer:
    def test_the_metrics_are_the_states_of_each_queue(self):
        found = by_queue_from_data([queue("comp", R=1, Q=2, H=3, S=4, O=5), queue("gpu", **WHOLE)])
        assert found == {"comp": JobCounts(1, 2, 3, 4, 5), "gpu": JobCounts(1, 2, 0, 0, 0)}

    def test_null_is_no_queue(self):
        assert by_queue_from_data(None) == {}

    @pytest.mark.parametrize(
        "data",
        [
            {},
            "comp",
            [None],
            [{"values": []}],
            [queue("")],
            [queue(7)],
            [{"name": "comp"}],
            [{"name": "comp", "values": {}}],
            [{"name": "comp", "values": [{"metricValue": 1}]}],
            [queue("comp", **WHOLE), queue("comp", **WHOLE)],
        ],
    )
    def test_what_is_no_list_of_queues_is_an_error(self, data):
        with pytest.raises(ScnetResponseError):
            by_queue_from_data(data)

    @pytest.mark.parametrize("value", ["1", 1.0, True, None, -1, 10**9 + 1, [1]])
    def test_a_metric_that_is_no_number_of_jobs_is_unknown(self, value):
        (counts,) = by_queue_from_data([queue(**(WHOLE | {"Q": value}))]).values()
        assert counts.running == 1
        with pytest.raises(ScnetResponseError, match="'queued' is not reported as a whole number"):
            counts.require(["queued"])

    def test_a_metric_that_is_missing_is_unknown(self):
        (counts,) = by_queue_from_data([queue(R=1, H=0, S=0, O=0)]).values()
        with pytest.raises(ScnetResponseError, match="'queued' is missing"):
            counts.require(["queued"])

    def test_beside_a_metric_that_nobody_knows_other_and_total_are_unknown(self):
        (counts,) = by_queue_from_data([queue(**WHOLE, W=3)]).values()
        assert counts.queued == 2
        for name in ("other", "total"):
            with pytest.raises(ScnetResponseError, match="'other' is not known beside W"):
                counts.require([name])


class TestMissingQueue:
    """A queue that exists and that the answer does not list."""

    NOBODY = JobCounts(0, 0, 0, 0, 0)

    def test_it_is_empty_where_there_is_no_job_at_all(self):
        assert missing_queue("gpu", self.NOBODY, {}) == self.NOBODY

    def test_it_is_empty_where_the_listed_queues_have_all_jobs(self):
        assert missing_queue("gpu", JobCounts(3, 2, 0, 0, 0), {"comp": JobCounts(3, 2, 0, 0, 0)}) == self.NOBODY

    def test_a_job_that_started_between_the_two_answers_changes_nothing(self):
        assert missing_queue("gpu", JobCounts(3, 2, 0, 0, 0), {"comp": JobCounts(4, 1, 0, 0, 0)}) == self.NOBODY

    def test_jobs_that_no_listed_queue_has_may_be_in_it_and_the_next_poll_may_tell(self):
        counts = missing_queue("gpu", JobCounts(3, 2, 0, 0, 0), {"comp": JobCounts(3, 1, 0, 0, 0)})
        assert counts == JobCounts(0, None, 0, 0, 0)
        with pytest.raises(ScnetResponseError, match="the listed queues have 1 of 2 jobs") as caught:
            counts.require(["queued"])
        assert caught.value.kind is ErrorKind.TRANSIENT

    def test_a_state_that_is_missing_for_all_queues_is_unknown_in_it(self):
        counts = missing_queue("gpu", JobCounts(3, 2, None, 0, 0), {"comp": JobCounts(3, 2, 0, 0, 0)})
        assert counts == JobCounts(0, 0, None, 0, 0)
        with pytest.raises(ScnetResponseError, match="'held' is missing"):
            counts.require(["held"])

    def test_what_is_unknown_of_a_listed_queue_proves_nothing(self):
        counts = missing_queue("gpu", JobCounts(3, 2, 0, 0, 0), {"comp": JobCounts(3, None, 0, 0, 0)})
        assert counts.queued is None


class TestHook:
    def test_it_counts_the_jobs_of_one_queue(self, scnet):
        scnet.submit("alice", 6)
        scnet.submit("alice", 3, queue="gpu")
        assert ScnetHook().get_job_counts(queue_name="gpu") == JobCounts(1, 2, 0, 0, 0)
        assert asyncio.run(ScnetHook().aget_job_counts("alice", queue_name="comp")) == JobCounts(4, 2, 0, 0, 0)
        assert ScnetHook().get_job_counts() == JobCounts(5, 4, 0, 0, 0)
        assert paths(scnet) == ["view/jobs/state", "view/queue/jobs"] * 2 + ["view/jobs/state"]
        assert {request.query["userName"] for request in scnet.requests} == {"alice"}

    @pytest.mark.parametrize("others", [0, 3])
    def test_a_queue_without_jobs_is_empty_and_looked_up_once(self, scnet, others):
        scnet.submit("alice", others)
        for _ in range(3):
            assert ScnetHook().get_job_counts(queue_name="gpu") == TestMissingQueue.NOBODY
        assert paths(scnet).count("queuenames/users/alice") == 1

    def test_a_queue_that_scnet_does_not_know_is_an_error_that_names_those_there_are(self, scnet):
        scnet.add_queue("theirs", users=["bob"])
        for name in ("Comp", "theirs"):
            with pytest.raises(ScnetConfigError, match=rf"no queue '{name}'.*there are 'comp', 'gpu'$"):
                ScnetHook().get_job_counts(queue_name=name)

    def test_a_name_that_repeats_the_token_is_not_shown(self, scnet):
        token = scnet.token("alice")
        scnet.order(Fault.api("0", "success", [{"queueName": token}]), path=QUEUE_NAMES_OF_ALICE)
        with pytest.raises(ScnetConfigError) as caught:
            ScnetHook().get_job_counts(queue_name="gpu")
        assert str(caught.value).endswith("there are '***'")
        scnet.order(answer(queue(token, **WHOLE), queue(token, **WHOLE)), path=QUEUE_COUNTS_PATH)
        with pytest.raises(ScnetResponseError) as caught:
            ScnetHook().get_job_counts(queue_name="gpu")
        assert token not in str(caught.value)

    def test_a_queue_that_is_listed_needs_no_other_proof(self, scnet):
        scnet.submit("alice", queue="gpu")
        scnet.order(Fault.api("10001", "内部错误"), times=None, path=QUEUE_NAMES_OF_ALICE)
        assert ScnetHook().get_job_counts(queue_name="gpu").running == 1

    @pytest.mark.parametrize(
        ("path", "fault", "said"),
        [
            (QUEUE_COUNTS_PATH, Fault.api("10001", "内部错误"), "code 10001"),
            (QUEUE_COUNTS_PATH, Fault(status=503, body=""), "HTTP 503"),
            (QUEUE_COUNTS_PATH, Fault.api("0", "success", "gpu"), "no list of queues"),
            (SCHEDULER_PATH, Fault.api("0", "success", None), "no list of schedulers"),
            (SCHEDULER_PATH, Fault.api("0", "success", [{"id": None}]), "no list of schedulers"),
            (QUEUE_NAMES_OF_ALICE, Fault.api("0", "success", None), "names no queue"),
            (QUEUE_NAMES_OF_ALICE, Fault.api("0", "success", []), "names no queue"),
            (QUEUE_NAMES_OF_ALICE, Fault.api("0", "success", [{"queueName": ["gpu"]}]), "no list of queues"),
            (QUEUE_NAMES_OF_ALICE, Fault.api("0", "success", {"gpu": 1}), "no list of queues"),
            (QUEUE_NAMES_OF_ALICE, Fault.api("0", "success", ["gpu"]), "no list of queues"),
        ],
    )
    def test_what_cannot_be_read_is_no_empty_queue(self, scnet, path, fault, said):
        scnet.order(fault, times=None, path=path)
        with pytest.raises(ScnetError, match=said) as caught:
            ScnetHook().get_job_counts(queue_name="gpu")
        assert scnet.token("alice") not in str(caught.value)
        assert path.removeprefix("/hpc/openapi/v2/") in str(caught.value) or "names no queue" in said
        assert ScnetHook().get_job_counts() == TestMissingQueue.NOBODY

    def test_a_stranger_without_jobs_proves_nothing_of_a_queue_either(self, scnet):
        scnet.add_user("bob")
        observation = PolledConnection("scnet_default").observe("bob", ["gpu"]).of("gpu")
        assert "the token was issued for 'alice'" in observation.doubt
        assert paths(scnet) == ["view/jobs/state"]

    def test_it_says_which_metrics_nobody_knows(self, scnet):
        scnet.order(answer(queue(**WHOLE, W=1)), path=QUEUE_COUNTS_PATH)
        (note,) = PolledConnection("scnet_default").observe(None, ["comp"]).notes
        assert "unknown metric of queues 'W'" in note

    def test_the_test_button_of_the_terminal_names_the_queue(self, scnet):
        scnet.submit("alice", 2, queue="gpu")
        ok, said = ScnetHook().test_connection("gpu")
        assert ok
        assert said.startswith("user alice, queue gpu: 1 running, 1 queued; ")
        ok, said = ScnetHook().test_connection("Gpu")
        assert not ok
        assert "there are 'comp', 'gpu'" in said


class TestGate:
    def test_it_opens_on_the_jobs_of_its_queue(self, scnet, run):
        scnet.submit("alice", 9)
        record = run(gate("queued < 1", queue_name="gpu"))
        assert record["queue_name"] == "gpu"
        assert record["user_name"] == "alice"
        assert record["counts"]["total"] == 0

    def test_it_waits_for_its_queue_whatever_the_others_do(self, scnet, run, said):
        scnet.submit("alice", 3, queue="gpu")
        with pytest.raises(AirflowException):
            run(gate("queued < 1", queue_name="gpu", timeout=5 * INTERVAL))
        assert "queue gpu: running 1, queued 2: waiting, needs queued < 1" in said.messages

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("", "queue_name is given but empty"),
            (" ", "queue_name is given but empty"),
            ("co mp", "no name of a queue"),
            (" comp", "no name of a queue"),
            ("comp\n", "no name of a queue"),
            ("全\u3000部", "no name of a queue"),
            ("q" * 201, "no name of a queue"),
            (1.5, "no text but float"),
            (True, "no text but bool"),
            (["comp"], "no text but list"),
        ],
    )
    def test_what_is_no_name_shows_when_the_file_is_parsed_and_as_a_template(self, run, name, message):
        with pytest.raises(ValueError, match=message):
            gate(queue_name=name)
        templated = gate(queue_name="{{ params.queue }}")
        templated.queue_name = name
        with pytest.raises(AirflowFailException, match=message):
            run(templated)

    def test_a_template_that_renders_to_nothing_does_not_mean_all_queues(self, run):
        templated = gate(queue_name="{{ none }}")
        templated.queue_name = None
        with pytest.raises(AirflowFailException, match="queue_name is given but empty"):
            run(templated)

    def test_a_number_is_a_name_of_digits(self, scnet, run):
        scnet.add_queue("7")
        assert run(gate(queue_name=7))["queue_name"] == "7"

    def test_it_is_templated(self):
        templated = gate(queue_name="{{ params.queue }}")
        templated.render_template_fields({**context(), "params": {"queue": "gpu"}})
        assert templated.queue_name == "gpu"
        assert not gate(queue_name="{{ params.queue }}").start_from_trigger

    def test_a_queue_that_scnet_does_not_know_fails_for_good(self, scnet, run):
        with pytest.raises(AirflowFailException, match="no queue 'cmp' for this user; there are 'comp', 'gpu'"):
            run(gate(queue_name="cmp"))

    def test_a_queue_that_vanishes_while_a_gate_waits_does_not_look_empty(self, scnet, run):
        scnet.submit("alice", 3, queue="gpu")
        scnet.submit("alice")
        scnet.order(answer(queue("gpu", R=1, Q=2, H=0, S=0, O=0)), times=2, path=QUEUE_COUNTS_PATH)
        scnet.remove_queue("gpu")
        with pytest.raises(AirflowFailException, match="no queue 'gpu' for this user; there are 'comp'"):
            run(gate("queued < 1", queue_name="gpu"))
        assert paths(scnet).count("view/queue/jobs") == 3

    def test_an_empty_queue_that_vanishes_is_noticed_after_a_while(self, scnet, run, monkeypatch):
        monkeypatch.setattr(queue_counts, "KNOWN_FOR", 0.0)
        assert run(gate(queue_name="gpu"))
        scnet.remove_queue("gpu")
        with pytest.raises(AirflowFailException, match="no queue 'gpu'"):
            run(gate(queue_name="gpu"))

    @pytest.mark.parametrize("enabled", [False, "false"])
    def test_a_disabled_queue_does_not_look_empty_and_is_waited_for(self, scnet, run, said, enabled):
        names = [{"queueName": "comp"}, {"queueName": "gpu", "queueEnabled": enabled}]
        scnet.order(answer(*names), times=2, path=QUEUE_NAMES_OF_ALICE)
        assert run(gate("queued < 1", queue_name="gpu"))["counts"]["queued"] == 0
        assert paths(scnet).count("queuenames/users/alice") == 3
        assert any("'alice': queue 'gpu' is disabled (queueEnabled)" in message for message in said.messages)

    def test_a_queue_that_one_of_two_schedulers_has_enabled_takes_jobs(self, scnet, run):
        scnet.order(answer({"id": 1}, {"id": 2}), path=SCHEDULER_PATH)
        scnet.order(answer({"queueName": "gpu", "queueEnabled": True}), path=QUEUE_NAMES_OF_ALICE)
        scnet.order(answer({"queueName": "gpu", "queueEnabled": False}), path=QUEUE_NAMES_OF_ALICE)
        assert run(gate(queue_name="gpu"))

    def test_answers_that_contradict_each_other_are_waited_out(self, scnet, run, said):
        scnet.submit("alice", 6)
        scnet.order(Fault.api("0", "success", None), times=2, path=QUEUE_COUNTS_PATH)
        assert run(gate("queued < 1", queue_name="gpu"))["counts"]["queued"] == 0
        assert any("the listed queues have 0 of 2 jobs" in message for message in said.messages)

    @pytest.mark.parametrize("missing", ["R", "Q"])
    def test_only_a_metric_that_the_condition_names_has_to_be_there(self, scnet, run, missing):
        present = {name: 0 for name in WHOLE if name != missing}
        scnet.order(answer(queue("gpu", **present)), times=None, path=QUEUE_COUNTS_PATH)
        if missing == "R":
            assert run(gate("queued < 1", queue_name="gpu"))
        else:
            with pytest.raises(AirflowException, match="'queued' is missing"):
                run(gate("queued < 1", queue_name="gpu"))


def trigger(condition: str = "queued < 5", **arguments: Any) -> ScnetJobCountTrigger:
    return ScnetJobCountTrigger(
        **{"condition": condition, "poke_interval": INTERVAL, "claim_ttl": 600, **arguments}
    )


def start(*triggers: Any) -> list[asyncio.Task[Any]]:
    return [asyncio.ensure_future(first_event(each)) for each in triggers]


async def end(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def polls(scnet: ScnetSimulator, more: int) -> None:
    """Wait for so many further polls of all queues."""
    seen = len(scnet.job_state_requests)
    while len(scnet.job_state_requests) < seen + more:
        await asyncio.to_thread(scnet.wait_for_requests, len(scnet.requests) + 1)


def passed(tasks: list[asyncio.Task[Any]]) -> list[int]:
    return [n for n, task in enumerate(tasks) if task.done() and task.result().payload["verdict"] == "open"]


class TestSharing:
    def test_gates_of_several_queues_make_two_requests_a_poll_and_those_of_none_one(self, scnet):
        scnet.set_counts("alice", queued=9)
        scnet.set_counts("alice", queue="comp", queued=9)
        scnet.set_counts("alice", queue="gpu", queued=9)

        async def scenario() -> None:
            plain = start(*(trigger(poke_interval=3600) for _ in range(20)))
            await polls(scnet, 1)
            assert paths(scnet) == ["view/jobs/state"]
            of_queues = start(*(trigger(queue_name=name, poke_interval=3600) for name in ("comp", "gpu") * 10))
            await polls(scnet, 1)
            later = start(trigger(queue_name="gpu", user_name="alice", poke_interval=3600))
            await asyncio.sleep(5 * INTERVAL)
            assert paths(scnet) == ["view/jobs/state", "view/jobs/state", "view/queue/jobs"]
            await end([*plain, *of_queues, *later])

        asyncio.run(scenario())

    def test_nobody_asks_for_queues_once_the_gates_that_did_have_gone(self, scnet):
        scnet.set_counts("alice", queued=9)

        async def scenario() -> None:
            tasks = start(trigger("queued < 1"), trigger("queued < 1", queue_name="comp", submits=0))
            await polls(scnet, 2)
            scnet.set_counts("alice", queue="comp", queued=0)
            await tasks[1]
            await polls(scnet, 1)
            before = paths(scnet).count("view/queue/jobs")
            await polls(scnet, 3)
            assert paths(scnet).count("view/queue/jobs") == before
            await end(tasks[:1])

        asyncio.run(scenario())

    def test_queues_that_cannot_be_read_shut_no_gate_that_asks_about_none(self, scnet):
        scnet.order(Fault(status=503, body=""), times=None, path=QUEUE_COUNTS_PATH)

        async def scenario() -> None:
            tasks = start(trigger(queue_name="gpu"), trigger())
            await tasks[1]
            await polls(scnet, 2)
            assert passed(tasks) == [1]
            await end(tasks[:1])

        asyncio.run(scenario())

    def test_a_queue_that_scnet_does_not_know_fails_its_own_gates_alone(self, scnet):
        scnet.set_counts("alice", queued=9)

        async def scenario() -> None:
            tasks = start(
                trigger(), trigger(queue_name="nope"), trigger("queued < 5", queue_name="gpu", submits=0)
            )
            scnet.set_counts("alice", queue="gpu", queued=0)
            verdicts = [(await task).payload["verdict"] for task in tasks[1:]]
            assert verdicts == ["fail", "open"]
            assert not tasks[0].done()
            await end(tasks[:1])

        asyncio.run(scenario())


class TestClaims:
    def test_they_belong_to_the_queue_and_a_gate_of_none_counts_all(self, scnet):
        async def scenario() -> None:
            await first_event(trigger("queued < 9", queue_name="comp", submits=2))
            await first_event(trigger("queued < 9", queue_name="gpu", submits=3))
            account, queues = (scnet.url, "alice"), ("comp", "gpu", "x", None)
            assert [claimed(account, queue) for queue in queues] == [2, 3, 0, 5]
            # Into which queue this one will submit nobody knows.
            await first_event(trigger("queued < 20", submits=4))
            assert [claimed(account, queue) for queue in queues] == [6, 7, 4, 9]
            assert claimed((scnet.url, "bob"), "comp") == 0

        asyncio.run(scenario())

    def test_room_for_two_in_each_queue_lets_two_of_each_pass(self, scnet):
        scnet.set_counts("alice", queue="comp", queued=3)
        scnet.set_counts("alice", queue="gpu", queued=3)

        async def scenario() -> None:
            tasks = start(*(trigger(queue_name=name) for name in ("comp", "gpu") * 5))
            await polls(scnet, 4)
            assert passed(tasks) == [0, 1, 2, 3]
            # What they claimed is counted by one that asks about all queues, too.
            (everywhere,) = start(trigger("queued < 4"))
            await polls(scnet, 2)
            assert not everywhere.done()
            await end([*tasks, everywhere])

        asyncio.run(scenario())


def test_a_watcher_fires_for_its_queue(scnet: ScnetSimulator):
    scnet.set_counts("alice", queue="gpu", queued=9)

    async def scenario() -> dict[str, Any]:
        watcher = ScnetJobCountEventTrigger(condition="queued < 5", queue_name="gpu", poke_interval=INTERVAL)
        (fired,) = start(watcher)
        await polls(scnet, 2)
        scnet.set_counts("alice", queue="gpu", queued=4)
        return (await fired).payload

    payload = asyncio.run(scenario())
    assert (payload["queue_name"], payload["counts"]["queued"]) == ("gpu", 4)


@pytest.mark.parametrize("name", ["", "a b", 1.5])
def test_a_watcher_with_what_is_no_queue_is_an_import_error(name):
    with pytest.raises(ValueError, match="queue_name"):
        ScnetJobCountEventTrigger(condition="queued < 5", queue_name=name).serialize()


def random_condition(chance: random.Random, depth: int = 3) -> str:
    def number(depth: int) -> str:
        if depth and chance.random() < 0.4:
            return f"({number(depth - 1)} {chance.choice('+-*')} {number(depth - 1)})"
        return chance.choice(NAMES) if chance.random() < 0.6 else str(chance.randrange(12))

    if depth and chance.random() < 0.6:
        if chance.random() < 0.2:
            return f"not ({random_condition(chance, depth - 1)})"
        joined = chance.choice((" and ", " or "))
        return f"({joined.join(random_condition(chance, depth - 1) for _ in range(chance.randint(2, 3)))})"
    comparisons = (f" {chance.choice(('<', '<=', '>', '>=', '==', '!='))} {number(2)}" for _ in range(2))
    return number(2) + "".join(list(comparisons)[: chance.randint(1, 2)])


@pytest.mark.parametrize("seed", range(4))
def test_of_6_000_conditions_over_queues_each_decides_as_python_does(seed):
    """Fifteen hundred a seed: a gate opens exactly where Python finds the condition true of its queue's jobs."""
    chance = random.Random(seed)
    codes = {name: index for index, name in enumerate(STATES)}
    decided = 0
    while decided < 1500:
        jobs = {name: [chance.randrange(8) for _ in STATES] for name in ("comp", "gpu", "big")}
        whole = [sum(each) for each in zip(*jobs.values(), strict=True)]
        is_listed = {name: any(jobs[name]) or chance.random() < 0.5 for name in jobs}
        if chance.random() < 0.3:
            empty = chance.choice(list(jobs))
            whole = [a - b for a, b in zip(whole, jobs[empty], strict=True)]
            jobs[empty] = [0] * len(STATES)
            is_listed[empty] = chance.random() < 0.5
        metrics = ("R", "Q", "H", "S", "O")
        by_queue = by_queue_from_data(
            [queue(name, **dict(zip(metrics, jobs[name], strict=True))) for name in jobs if is_listed[name]]
            or None
        )
        counts = JobCounts(*whole)
        seen = {name: by_queue.get(name) or missing_queue(name, counts, by_queue) for name in jobs}
        observation = Observation(counts=counts, queues=seen, account=("https://h", "alice"))
        for _ in range(5):
            text = random_condition(chance)
            if not any(isinstance(node, ast.Name) for node in ast.walk(ast.parse(text))):
                continue
            asked = chance.choice([None, *jobs])
            numbers = whole if asked is None else jobs[asked]
            names = {name: numbers[index] for name, index in codes.items()} | {"total": sum(numbers)}
            expected = eval(text, {"__builtins__": {}}, names)
            view = observation.of(asked)
            assert view.counts
            decision = decide(Gate.of(text, queue_name=asked), view)
            assert (decision.verdict is Verdict.OPEN) == expected, (text, numbers, decision)
            decided += 1
