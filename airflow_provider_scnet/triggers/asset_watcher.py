# SPDX-License-Identifier: Apache-2.0
"""The watcher of an asset: DAGs that start when the queue has come to a state."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_scnet.event_loop.log_thread import ThreadedLog
from airflow_provider_scnet.event_loop.shielded_call import ShieldedCall
from airflow_provider_scnet.gate.condition import Condition
from airflow_provider_scnet.gate.decision import Verdict, record
from airflow_provider_scnet.gate.gate import named, named_queue
from airflow_provider_scnet.gate.reporter import REPEAT_AFTER, Reporter
from airflow_provider_scnet.gate.rising_edge import RisingEdge
from airflow_provider_scnet.polling.waiting import Watcher
from airflow_provider_scnet.triggers import shared_accounts
from airflow_provider_scnet.triggers.arguments import arguments

if TYPE_CHECKING:
    BaseEventTrigger = BaseTrigger
else:
    try:
        from airflow.triggers.base import BaseEventTrigger
    except ImportError:
        # Airflow 2.11 has no watchers; what imports this module there wants something else of it.
        BaseEventTrigger = BaseTrigger

#: Seconds after which an event is surely in Airflow's database, once it was handed to the triggerer.
STORED_AFTER = 5.0
#: What is said where a trigger was written by a version of this package that knows more.
IGNORED = "ignored, because only another version of airflow-provider-scnet knows it: %s"


class ScnetJobCountEventTrigger(BaseEventTrigger):
    """
    Fires when a cluster user's job counts come to meet a condition: for an ``AssetWatcher`` (Airflow 3).

    It fires once when the condition *becomes* true, and again only after it was seen false. What happened
    before its first observation it cannot know: that one only arms it, or finds the condition true already. From
    Airflow 3.3 on it remembers across restarts whether it is armed, in its asset's state store. It never ends:
    what heals is waited out, and what does not may be mended. Claims of gates are not counted, and none are made.

    A mistake in its parameters is an import error of the DAG file: they are checked where Airflow serializes it.

    :param condition: the state of the queue that fires
    :param rearm_when: a second water mark, e.g. ``queued > 20``: once it has fired, it fires again only after
        the condition was seen false while this held; None: after the condition was seen false
    :param user_name: the cluster user; default: the connection's login, else the token's own user
    :param scnet_conn_id: the connection's id
    :param queue_name: the queue whose jobs are counted; None: all of them together
    :param poke_interval: seconds after which an observation is too old
    :param unknown: what other versions of this package know: a mistake in a DAG file, ignored in a triggerer
    """

    def __init__(
        self,
        *,
        condition: str,
        rearm_when: str | None = None,
        user_name: str | None = None,
        scnet_conn_id: str = "scnet_default",
        queue_name: str | None = None,
        poke_interval: float = 60.0,
        **unknown: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Nothing is checked here: a trigger whose constructor raises ends the whole triggerer.
        self._unknown = sorted(unknown)
        self.condition = condition
        self.rearm_when = rearm_when
        self.user_name = user_name
        self.scnet_conn_id = scnet_conn_id
        self.queue_name = queue_name
        self.poke_interval = poke_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """
        Return what a triggerer needs to watch. Airflow knows the watcher by it, and asks where a DAG is parsed.

        :raises ValueError: where a parameter is not what it has to be
        """
        self._checked()
        if self._unknown:
            raise ValueError(f"a watcher has no parameter {', '.join(self._unknown)}")
        path = "airflow_provider_scnet.triggers.scnet.ScnetJobCountEventTrigger"
        return path, arguments(self, ScnetJobCountEventTrigger)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Watch for ever: a watcher that ends is started again at once."""
        log = ThreadedLog(self.log)
        if self._unknown:
            log.warning(IGNORED, ", ".join(self._unknown))
        try:
            edge = self._checked()
        except ValueError as error:
            while True:
                log.error("a watcher never fires: %s", error)
                await log.flush()
                await asyncio.sleep(REPEAT_AFTER)
        # In the triggerer's own log, beside all others.
        reporter = Reporter(log, name=f"watcher of '{self.condition}' ({self.scnet_conn_id})")
        watched = arguments(self, ScnetJobCountEventTrigger)
        del watched["poke_interval"]
        # Airflow before 3.3 has no such store.
        memory = _Memory(getattr(self, "asset_state_store", None), watched)
        poller = shared_accounts.accounts().poller(self.scnet_conn_id, self.user_name)
        watcher = Watcher(self.poke_interval, self.queue_name)
        poller.add(watcher)
        try:
            while True:
                observation = await watcher.next_observation()
                if not memory.is_read:
                    edge.armed = await memory.read()
                if memory.is_read:
                    decision = edge.judge(observation)
                    reporter.note(observation.notes, observation.at)
                    reporter.report(decision, observation.at)
                    await log.flush()
                    if decision.verdict is Verdict.OPEN:
                        seen = record(edge.condition, observation, scnet_conn_id=self.scnet_conn_id)
                        yield TriggerEvent(seen)  # type: ignore[no-untyped-call]
                        # Whoever dies in between fires twice: better than a run that never starts.
                        await asyncio.sleep(STORED_AFTER)
                    if edge.armed is not None:
                        await memory.write(edge.armed)
                if memory.trouble:
                    reporter.note([memory.trouble], observation.at)
                    await log.flush()
        finally:
            poller.remove(watcher)

    def _checked(self) -> RisingEdge:
        """
        Read the parameters, strictly.

        :raises ValueError: where one is not what it has to be
        """
        if self.queue_name is not None:
            self.queue_name = named_queue(self.queue_name)
        rearm_when = None if self.rearm_when is None else Condition(self.rearm_when)
        edge = RisingEdge(Condition(self.condition), rearm_when)
        interval = self.poke_interval
        if isinstance(interval, bool) or not isinstance(interval, (int, float)) or not 0 < interval < math.inf:
            raise ValueError(f"poke_interval is no number of seconds above 0: {str(interval)[:80]!r}")
        self.scnet_conn_id = named("scnet_conn_id", self.scnet_conn_id)
        if self.user_name is not None:
            self.user_name = named("user_name", self.user_name)
        return edge


class _Memory:
    """
    Whether a watcher is armed, in the state store of its asset.

    :param store: Airflow's accessor of the store; None: it remembers nothing
    :param watched: what tells this watcher from others of the asset; a person reads it beside the answer
    """

    def __init__(self, store: Any, watched: dict[str, Any]) -> None:
        self._store = store
        self._watched = watched
        digest = hashlib.sha256(json.dumps(watched, sort_keys=True).encode()).hexdigest()
        self._key = f"scnet-watcher-{digest[:16]}"
        self._written: bool | None = None
        self.is_read = store is None
        #: Why the store does not do what it is for; empty where it does.
        self.trouble = ""

    async def read(self) -> bool | None:
        """Return whether the watcher was armed; None where nobody knows, or cannot be asked now."""
        try:
            stored = await ShieldedCall(self._store.aget(self._key)).result()
        except Exception as error:
            if type(error) is not ValueError:
                self._troubled(error, "it does not fire before it knows what it saw last")
                return None
            # Airflow runs what is the same for several assets once, and then has no store to choose.
            self.trouble = (
                "several assets have this very watcher, so it remembers nothing across restarts; "
                "give each an interval of its own to tell them apart"
            )
            self.is_read, self._store = True, None
            return None
        armed = stored.get("armed") if isinstance(stored, dict) else None
        self._written = armed if isinstance(armed, bool) else None
        self.is_read, self.trouble = True, ""
        return self._written

    async def write(self, armed: bool) -> None:
        """
        Keep whether the watcher is armed; what could not be kept is tried again with the next observation.

        :param armed: whether it is
        """
        if armed == self._written or self._store is None:
            return
        try:
            await ShieldedCall(self._store.aset(self._key, {**self._watched, "armed": armed})).result()
        except Exception as error:
            self._troubled(error, "after a restart it goes by what was kept last")
            return
        self._written, self.trouble = armed, ""

    def _troubled(self, error: Exception, so: str) -> None:
        self.trouble = f"Airflow's state store does not answer ({type(error).__name__}: {str(error)[:200]}): {so}"
