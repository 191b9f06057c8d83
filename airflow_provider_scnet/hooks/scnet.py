# SPDX-License-Identifier: Apache-2.0
"""The hook: an Airflow connection, and the job counts that SCnet reports through it."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Collection, Mapping
from typing import Any

from airflow.providers.common.compat.connection import get_async_connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_scnet.client import issued_tokens, job_manager, job_state, transport
from airflow_provider_scnet.client.connection_settings import ConnectionSettings
from airflow_provider_scnet.client.errors import ErrorKind, ScnetAuthError, ScnetConfigError, ScnetError
from airflow_provider_scnet.client.job_counts import STATES, JobCounts
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.client.queue_name import queue_named
from airflow_provider_scnet.client.threads import run_in_thread
from airflow_provider_scnet.client.token_payload import local
from airflow_provider_scnet.hooks.masking import amask, mask
from airflow_provider_scnet.provider_info import CONN_FIELDS, DEFAULT_CONN_ID, UI_FIELD_BEHAVIOUR

# Seconds: the Test button waits in the API server. All requests together take so long, less a margin to answer.
_TEST_TIMEOUT = 10.0
_TEST_MARGIN = 0.5


class ScnetHook(BaseHook):
    """
    The token and the endpoint of one SCnet region.

    Every call reads the connection anew, so a token that was pasted meanwhile is used, and makes one request:
    a waiting gate's next poll is the retry.

    :param scnet_conn_id: the id of a connection of type ``scnet``
    """

    conn_name_attr = "scnet_conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = "scnet"
    hook_name = "SCnet"

    def __init__(self, scnet_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.scnet_conn_id = scnet_conn_id

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Name the ordinary fields of the connection form; Airflow before 3.3 asks here."""
        return {name.replace("-", "_"): value for name, value in UI_FIELD_BEHAVIOUR.items()}

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Describe the extras of the connection form; Airflow before 3.3 asks here."""
        # Not installed with Airflow 3.3, which reads the metadata instead.
        from flask_appbuilder.fieldwidgets import BS3PasswordFieldWidget, BS3TextFieldWidget
        from wtforms import BooleanField, PasswordField, StringField

        def widget(field: dict[str, Any]) -> Any:
            label, description = field["label"], field["description"]
            if "boolean" in field["schema"]["type"]:
                return BooleanField(label, description=description)
            if field["schema"].get("format") == "password":
                return PasswordField(label, description=description, widget=BS3PasswordFieldWidget())
            return StringField(label, description=description, widget=BS3TextFieldWidget())

        return {name: widget(field) for name, field in CONN_FIELDS.items()}

    def get_conn(self) -> transport.OneOriginSession:
        """
        Return a session of ``requests`` that sends the token, to the connection's own origin only.

        A path is taken below the connection's endpoint. The session knows both that address and the cluster user::

            with ScnetHook().get_conn() as scnet:
                answer = scnet.get("/hpc/openapi/v2/jobs", params={"strJobOwner": scnet.user_name})
                scnet.base_url  # such as https://host:65051

        It sends each request once and does not judge the answer: check the HTTP status and the ``code``. Whoever
        repeats a submission has to ask first whether the job is there.

        :raises ScnetConfigError: where the connection lacks or contradicts something
        :raises ScnetError: where access keys obtain no token
        """
        settings = issued_tokens.with_token(self.read_settings())
        # The caller may log the session's headers.
        mask(settings.secrets)
        return transport.OneOriginSession(settings.endpoint, {"token": settings.token}, settings)

    def get_job_counts(self, user_name: str | None = None, *, queue_name: str | None = None) -> JobCounts:
        """
        Ask once how many jobs of a user are in which state.

        :param user_name: the cluster user; default: the connection's login, else the token's own user
        :param queue_name: the queue whose jobs are counted; default: all of them together
        :raises ScnetError: where no count could be learnt; the subclass says of which kind
        """
        queues = _queues(queue_name)
        return self._counts_of(self.observe(user_name, queues).of(queue_name))

    async def aget_job_counts(self, user_name: str | None = None, *, queue_name: str | None = None) -> JobCounts:
        """
        Ask once, without blocking the event loop.

        :param user_name: the cluster user; default: the connection's login, else the token's own user
        :param queue_name: the queue whose jobs are counted; default: all of them together
        :raises ScnetError: where no count could be learnt; the subclass says of which kind
        """
        queues = _queues(queue_name)
        settings = await self.awith_token(await self.aread_settings(user_name))
        return self._counts_of((await self.apoll(settings, queues)).of(queue_name))

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        data: Any = None,
        files: Any = None,
    ) -> Any:
        """
        Send one request with the token and return the ``data`` of SCnet's answer.

        It raises instead where SCnet reports an error, which it mostly does with HTTP 200::

            ScnetHook().request("GET", "/hpc/openapi/v2/cluster")  # [{"id": 1637646236, …}]

        It is sent once, and once more only where the region refuses a token that access keys obtained. Where no
        answer comes, nobody knows whether SCnet did what was asked: whoever repeats a submission has to ask first
        whether the job is there.

        :param method: such as ``POST``
        :param path: below the connection's endpoint, such as ``/hpc/openapi/v2/jobs``
        :param params: the query
        :param json: the body, sent as JSON
        :param data: the body, sent as a form
        :param files: files to send, as ``requests`` takes them
        :raises ScnetError: where there is no answer within the connection's ``timeout``, or one that is an error;
            the subclass says of which kind
        :raises ValueError: where the path does not begin with a slash
        """
        if not path.startswith("/"):
            raise ValueError(f"the path has to begin with a slash: {path!r}")
        content = {"params": params, "json": json, "data": data, "files": files}

        def ask(settings: ConnectionSettings) -> Any:
            return transport.ask(settings, path, lambda data: data, method=method, **content)

        settings = issued_tokens.with_token(self.read_settings())
        try:
            return ask(settings)
        except ScnetAuthError:
            if not settings.keys:
                raise
        return ask(issued_tokens.with_token(settings, refused=settings.token))

    def get_job_limit(self) -> int | None:
        """
        Ask how many jobs the connection's user may have submitted, SCnet's ``userMaxSubmitJob``.

        None where that is not sure: the token is another user's, or SCnet names no whole number from 1 to 10⁹.

        :raises ScnetError: where there is no answer, or one that is an error
        """
        return job_manager.job_limit(issued_tokens.with_token(self.read_settings()))

    def test_connection(self, queue_name: str | None = None) -> tuple[bool, str]:
        """
        Ask once and tell what was found, or why not; in ten seconds, however many requests it takes.

        :param queue_name: a queue whose jobs are counted; default: all of them together
        """
        until = time.monotonic() + _TEST_TIMEOUT - _TEST_MARGIN
        try:
            queues = _queues(queue_name)
            settings = issued_tokens.with_token(dataclasses.replace(self.read_settings(), until=until))
            observation = job_state.poll(settings, queues).of(queue_name)
            counts = self._counts_of(observation)
            counts.require(("total",))
        except ScnetError as error:
            late = f"; a test has {_TEST_TIMEOUT:g} s in all" if time.monotonic() >= until else ""
            return False, f"{error}{late}"
        if observation.doubt:
            return False, observation.doubt
        whose = f"user {settings.user_name}" + (f", queue {queue_name}" if queue_name else "")
        if counts.all_zero:
            check = "" if queue_name else ": check the user name"
            return True, f"{whose}: no job in any state{check}; {_way(settings)}"
        found = ", ".join(
            f"{getattr(counts, state)} {state}"
            for state in STATES
            if state in ("running", "queued") or getattr(counts, state)
        )
        return True, f"{whose}: {found}; {_way(settings)}"

    def read_settings(self, user_name: str | None = None) -> ConnectionSettings:
        """
        Read the connection.

        :param user_name: the cluster user to ask about; default: the connection's login, else the token's own
        :raises ScnetConfigError: where the connection lacks or contradicts something
        """
        try:
            conn = self.get_connection(self.scnet_conn_id)
        except Exception as error:
            raise self._unreadable(error) from None
        settings = ConnectionSettings.from_connection(self.scnet_conn_id, conn, user_name)
        mask(settings.secrets)
        return settings

    async def aread_settings(self, user_name: str | None = None) -> ConnectionSettings:
        """
        Read the connection without blocking the event loop.

        :param user_name: the cluster user to ask about; default: the connection's login, else the token's own
        :raises ScnetConfigError: where the connection lacks or contradicts something
        """
        try:
            conn = await get_async_connection(self.scnet_conn_id)
        except Exception as error:
            raise self._unreadable(error) from None
        settings = ConnectionSettings.from_connection(self.scnet_conn_id, conn, user_name)
        await amask(settings.secrets)
        return settings

    async def awith_token(self, settings: ConnectionSettings, refused: str = "") -> ConnectionSettings:
        """
        Obtain what access keys obtain, the token and perhaps the region, without blocking the event loop.

        Airflow is not told to mask such a token. It keeps what it masks for ever, and compiles all of it anew for
        each new one, so a triggerer that renews for weeks would stall. No text of this package holds one.

        :param settings: what the connection says
        :param refused: a token that the region has just not accepted: another is asked for
        :raises ScnetError: where the platform does not issue a token, or does not say where the region is
        """
        if done := issued_tokens.cached(settings, refused):
            return done
        return await asyncio.wrap_future(run_in_thread(lambda: issued_tokens.with_token(settings, refused)))

    def _unreadable(self, error: Exception) -> ScnetError:
        # The error's own text is left out: Airflow puts a malformed URI into it, with the token. And the kind is
        # not permanent: Airflow says "isn't defined" also when a secrets backend or its API server did not answer.
        if isinstance(error, AirflowNotFoundException):
            what = (
                "is not defined, or Airflow could not read it: create it under Admin, Connections, as type scnet"
            )
        else:
            what = f"Airflow could not read it ({type(error).__name__})"
        return ScnetConfigError(what, kind=ErrorKind.UNCLEAR, where=f"connection '{self.scnet_conn_id}'")

    def observe(self, user_name: str | None = None, queues: Collection[str] = ()) -> Observation:
        """
        Read the connection and poll once; an error is part of the observation.

        :param user_name: the cluster user; default: the connection's login, else the token's own user
        :param queues: the queues whose own counts are asked for, too
        """
        try:
            settings = issued_tokens.with_token(self.read_settings(user_name))
        except ScnetError as error:
            return Observation(error=error)
        return job_state.poll(settings, queues)

    async def apoll(self, settings: ConnectionSettings, queues: Collection[str] = ()) -> Observation:
        """
        Do what :func:`.job_state.poll` does without blocking the event loop.

        :param settings: whom to ask, and about whom
        :param queues: the queues whose own counts are asked for, too
        """
        observation = await self._apoll_once(settings, queues)
        if not (settings.keys and observation.is_refused):
            return observation
        try:
            settings = await self.awith_token(settings, refused=settings.token)
        except ScnetError as error:
            return Observation(error=error, account=settings.account, where=settings.where)
        return job_state.after_renewal(settings, await self._apoll_once(settings, queues))

    async def _apoll_once(self, settings: ConnectionSettings, queues: Collection[str]) -> Observation:
        return await asyncio.wrap_future(run_in_thread(lambda: job_state.poll_once(settings, queues)))

    def _counts_of(self, observation: Observation) -> JobCounts:
        for note in (*observation.notes, *filter(None, [observation.doubt])):
            self.log.warning("%s", note)
        if observation.error:
            raise observation.error
        return observation.counts or JobCounts()


def _queues(queue_name: str | None) -> tuple[str, ...]:
    return () if queue_name is None else (queue_named(queue_name),)


def _way(settings: ConnectionSettings) -> str:
    """Say where the token comes from, and when it ends."""
    ends = (
        f"valid until {local(settings.token_ends)}" if settings.token_ends else "which does not say when it ends"
    )
    if not settings.keys:
        return f"token of the connection, {ends}"
    region = f"'{settings.region}' ({settings.keys.cluster_id})" if settings.region else settings.keys.cluster_id
    return f"access keys, region {region} at {settings.endpoint}, token {ends}"
