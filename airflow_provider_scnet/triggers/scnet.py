# SPDX-License-Identifier: Apache-2.0
"""
The gate's wait in the triggerer.

Users know the watcher of an asset by this module as well; it lives in :mod:`.asset_watcher`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from typing import Any

from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from airflow_provider_scnet.claims.claim_terms import GateId, SubmissionTasks
from airflow_provider_scnet.event_loop.log_thread import ThreadedLog
from airflow_provider_scnet.event_loop.shielded_call import ShieldedCall
from airflow_provider_scnet.gate.decision import XCOM_KEY, Verdict
from airflow_provider_scnet.gate.evaluator import GateEvaluator
from airflow_provider_scnet.gate.gate import Gate
from airflow_provider_scnet.gate.reporter import Log
from airflow_provider_scnet.polling.waiting import Place, WaitingGate
from airflow_provider_scnet.triggers import shared_accounts
from airflow_provider_scnet.triggers.airflow_access import HAS_DATABASE
from airflow_provider_scnet.triggers.arguments import arguments
from airflow_provider_scnet.triggers.asset_watcher import IGNORED, ScnetJobCountEventTrigger

__all__ = ["ScnetJobCountEventTrigger", "ScnetJobCountTrigger"]

#: Seconds before which no task is handed back to a worker: the scheduler may still see the worker's exit from
#: the deferral, and take a task that is scheduled again by then for one that died.
SETTLE = 5.0
#: Seconds after which a gate is no newcomer: a first poll takes less, even where the connection is slow to be read
#: and the platform slow to issue a token. What waited for longer has had its good answer, or no triggerer had room
#: for it so far: which of the two, nothing tells.
FIRST_POLL = 120.0


class ScnetJobCountTrigger(BaseTrigger):
    """
    Waits until a cluster user's job counts meet a condition, and claims room for the jobs that follow.

    All triggers of one triggerer that watch the same account through the same connection share one request an
    interval. Room is given out by the author's ``priority_weight``, then in the order of arrival, and claimed
    until the cluster had time to count what was submitted. Claims are written down in Airflow's Variables before a
    gate opens, where other triggerers read them; which triggerer comes first is left to chance.

    :param condition: the state of the queue to wait for
    :param fail_when: what fails the gate for good
    :param user_name: the cluster user; default: the connection's login, else the token's own user
    :param scnet_conn_id: the connection's id, or a list of ids: the gate waits on all of these clusters, and opens
        on one
    :param queue_name: the queue whose jobs are counted; None: all of them together
    :param submits: how many jobs the work behind the gate will submit
    :param claim_ttl: seconds for which these jobs are counted at most on top of what the cluster reports, once
        their submission runs
    :param submitted_by: ids of the tasks that submit; for each whether it is the instance with the gate's own map
        index rather than all of them
    :param upstream: ids of the tasks right before these; for each, likewise, which instance
    :param gates_upstream: ids of the gates that stand before these, directly or not
    :param after_past_runs: whether the tasks that submit wait for those of the run before
    :param tell_job_id: ids of the tasks that leave the id of their job as an XCom once they have submitted
    :param priority_weight: the task's, as its author gave it
    :param poke_interval: seconds after which an observation is too old
    :param timeout: seconds that the whole wait may last; None: without an end
    :param silent_fail: whether to wait on, too, where the try would fail
    :param end_task: whether to end the task from here, without a worker
    :param push_decision: whether a task that ends here leaves its decision as an XCom
    :param echo: what comes back in the event besides
    :param unknown: what other versions of this package know: it is named in the gate's log, and ignored
    """

    def __init__(
        self,
        *,
        condition: str,
        fail_when: str | None = None,
        user_name: str | None = None,
        scnet_conn_id: str | list[str] = "scnet_default",
        queue_name: str | None = None,
        submits: int = 1,
        claim_ttl: float = 180.0,
        submitted_by: dict[str, bool] | None = None,
        upstream: dict[str, bool] | None = None,
        gates_upstream: list[str] | None = None,
        after_past_runs: bool = False,
        tell_job_id: list[str] | None = None,
        priority_weight: int = 1,
        poke_interval: float = 60.0,
        timeout: float | None = None,
        silent_fail: bool = False,
        end_task: bool = False,
        push_decision: bool = True,
        echo: dict[str, Any] | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Nothing is checked here: a trigger whose constructor raises ends the whole triggerer. Nor is refused what
        # another version of this package wrote: while it is upgraded, schedulers, workers and triggerers differ.
        self._unknown = sorted(unknown)
        self.condition = condition
        self.fail_when = fail_when
        self.user_name = user_name
        self.scnet_conn_id = scnet_conn_id
        self.queue_name = queue_name
        self.submits = submits
        self.claim_ttl = claim_ttl
        self.submitted_by = submitted_by or {}
        self.upstream = upstream or {}
        self.gates_upstream = gates_upstream or []
        self.after_past_runs = after_past_runs
        self.tell_job_id = tell_job_id or []
        self.priority_weight = priority_weight
        self.poke_interval = poke_interval
        self.timeout = timeout
        self.silent_fail = silent_fail
        self.end_task = end_task
        self.push_decision = push_decision
        self.echo = echo or {}

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what another triggerer needs to go on with the wait."""
        stored = arguments(self, ScnetJobCountTrigger)
        if not self.echo:
            del stored["echo"]
        return "airflow_provider_scnet.triggers.scnet.ScnetJobCountTrigger", stored

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then end the task from here, or hand it to a worker."""
        loop = asyncio.get_running_loop()
        # Without an id no scheduler is involved: dag.test() runs a trigger inline, and takes no end event.
        in_triggerer = self.trigger_id is not None
        settled_at = loop.time() + (SETTLE if in_triggerer else 0.0)
        ends_here = self.end_task and in_triggerer
        if not ends_here:
            await asyncio.sleep(settled_at - loop.time())
        log, waiting = ThreadedLog(self.log), None
        if self._unknown:
            log.warning(IGNORED, ", ".join(self._unknown))
        try:
            try:
                waiting = self._waiting_gate(log)
            except ValueError as error:
                event: dict[str, Any] = {"verdict": Verdict.FAIL.value, "message": str(error)}
            else:
                event = await self._wait(waiting, log)
            # Airflow closes the gate's log with the event.
            await log.flush()
            if not in_triggerer:
                # The loop of dag.test() ends with the event. A question to Airflow that went on in a thread would
                # get into the answers to the next task (seen on 3.1 and 3.2).
                await ShieldedCall.all_finished()
            ends_here = ends_here and event["verdict"] == Verdict.OPEN.value
            await asyncio.sleep(0.0 if ends_here else settled_at - loop.time())
        except BaseException:
            # Airflow takes no event from here any more.
            if waiting:
                waiting.withdraw()
            raise
        if ends_here:
            decision = event["decision"]
            # Airflow 3 makes JSON text of whatever it gets here, Airflow 2 does not.
            left = {XCOM_KEY: json.dumps(decision) if HAS_DATABASE else decision}
            yield TaskSuccessEvent(xcoms=left if self.push_decision else None)
        else:
            yield TriggerEvent(event | self.echo)  # type: ignore[no-untyped-call]

    async def _wait(self, waiting: WaitingGate, log: Log) -> dict[str, Any]:
        left = self._seconds_left()
        conn_ids, accounts = self._conn_ids, shared_accounts.accounts()
        evaluators = {
            conn_id: GateEvaluator(
                waiting.asks,
                log,
                # A triggerer that was restarted, or took the gate over, has not seen what it saw before.
                answered=self._waited() > FIRST_POLL,
                silent_fail=self.silent_fail,
                wait_for=left,
                name=conn_id if len(conn_ids) > 1 else "",
            )
            for conn_id in conn_ids
        }
        with contextlib.ExitStack() as leave:
            if left is not None:
                timer = asyncio.get_running_loop().call_later(max(left, 0.0), waiting.end, None)
                leave.callback(timer.cancel)
            for conn_id, evaluator in evaluators.items():
                if waiting.has_ended:
                    break
                poller = accounts.poller(conn_id, self.user_name)
                place = Place(waiting, conn_id, self.poke_interval, evaluator)
                poller.add(place)
                leave.callback(poller.remove, place)
                # Of several clusters that have room the first in the order given opens it.
                if len(conn_ids) > 1:
                    await waiting.first_answer(conn_id)
            outcome = await waiting.outcome()
        if outcome:
            decision, record = outcome
            return {"verdict": decision.verdict.value, "message": str(decision), "decision": record}
        seen = "; ".join(f"{each.name}{each.last}" for each in evaluators.values() if each.last)
        return {"verdict": Verdict.TIMEOUT.value, "message": f"last seen: {seen}" if seen else ""}

    @property
    def _conn_ids(self) -> list[str]:
        return [self.scnet_conn_id] if isinstance(self.scnet_conn_id, str) else self.scnet_conn_id

    def _waiting_gate(self, log: Log) -> WaitingGate:
        gate = Gate.of(self.condition, self.fail_when, self.submits, self.queue_name)
        task_instance, gate_id, tasks = self.task_instance, None, None
        # No triggerer runs it in dag.test(), and nobody answers there.
        if self.trigger_id is not None and task_instance is not None:
            map_index = -1 if task_instance.map_index is None else task_instance.map_index
            gate_id = GateId(task_instance.dag_id, task_instance.run_id, task_instance.task_id, map_index)
            tasks = SubmissionTasks(
                self.submitted_by,
                self.upstream,
                tuple(self.gates_upstream),
                self.after_past_runs,
                tuple(self.tell_job_id),
            )
        return WaitingGate(
            gate,
            log,
            self._conn_ids,
            id=gate_id,
            ttl=self.claim_ttl,
            tasks=tasks,
            priority=self.priority_weight,
            waited=self._waited(),
        )

    def _waited(self) -> float:
        """Return the seconds for which it had waited before this triggerer took it, as far as Airflow tells."""
        left = self._seconds_left()
        return 0.0 if self.timeout is None or left is None else max(0.0, self.timeout - left)

    def _seconds_left(self) -> float | None:
        """Return the seconds until the deferral times out, as the triggerer knows it; None where it does not."""
        task_instance = getattr(self, "task_instance", None)
        end = getattr(self, "timeout_after", None) or getattr(task_instance, "trigger_timeout", None)
        if not isinstance(end, datetime):
            return None
        if end.tzinfo is None:
            end = end.replace(tzinfo=timezone.utc)
        return (end - datetime.now(timezone.utc)).total_seconds()
