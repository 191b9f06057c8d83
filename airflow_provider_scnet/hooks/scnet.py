# SPDX-License-Identifier: Apache-2.0
"""The hook: an Airflow connection, and the job counts that SCnet reports through it; jobs are next door."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping
from typing import Any

import requests
from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_scnet.client import issued_tokens, job_manager, response, transport
from airflow_provider_scnet.client.connection_settings import ConnectionSettings
from airflow_provider_scnet.client.errors import ErrorKind, ScnetError
from airflow_provider_scnet.client.job_counts import STATES, JobCounts
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.client.poll import poll
from airflow_provider_scnet.client.queue_name import queue_named
from airflow_provider_scnet.client.token_payload import local
from airflow_provider_scnet.connection_form import CONN_FIELDS, DEFAULT_CONN_ID, UI_FIELD_BEHAVIOUR
from airflow_provider_scnet.hooks.jobs import JobMethods
from airflow_provider_scnet.hooks.masking import mask
from airflow_provider_scnet.hooks.polled_connection import PolledConnection

# Seconds: the Test button waits in the API server. All requests together take so long, less a margin to answer.
_TEST_TIMEOUT = 10.0
_TEST_MARGIN = 0.5


class ScnetHook(JobMethods, BaseHook):
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

    @property
    def _connection(self) -> PolledConnection:
        return PolledConnection(self.scnet_conn_id)

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
        settings = issued_tokens.with_token(self._connection.read_settings())
        # The caller may log the session's headers.
        mask(settings.secrets)
        session = transport.OneOriginSession(settings.endpoint, {"token": settings.token}, settings)
        if settings.keys:
            session.hooks["response"].append(functools.partial(_learn, settings.token))
        return session

    def get_job_counts(self, user_name: str | None = None, *, queue_name: str | None = None) -> JobCounts:
        """
        Ask once how many jobs of a user are in which state.

        :param user_name: the cluster user; default: the connection's login, else the token's own user
        :param queue_name: the queue whose jobs are counted; default: all of them together
        :raises ScnetError: where no count could be learnt; the subclass says of which kind
        """
        queues = _queues(queue_name)
        return self._counts_of(self._connection.observe(user_name, queues).of(queue_name))

    async def aget_job_counts(self, user_name: str | None = None, *, queue_name: str | None = None) -> JobCounts:
        """
        Ask once, without blocking the event loop.

        :param user_name: the cluster user; default: the connection's login, else the token's own user
        :param queue_name: the queue whose jobs are counted; default: all of them together
        :raises ScnetError: where no count could be learnt; the subclass says of which kind
        """
        queues = _queues(queue_name)
        connection = self._connection
        settings = await connection.awith_token(await connection.aread_settings(user_name))
        return self._counts_of((await connection.apoll(settings, queues)).of(queue_name))

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

        return issued_tokens.ask(self._connection.read_settings(), ask)

    def get_job_limit(self) -> int | None:
        """
        Ask how many jobs the connection's user may have submitted, SCnet's ``userMaxSubmitJob``.

        None where that is not sure: the token is another user's, or SCnet names no whole number from 1 to 10⁹.

        :raises ScnetError: where there is no answer, or one that is an error
        """
        return issued_tokens.ask(self._connection.read_settings(), job_manager.job_limit)

    def test_connection(self, queue_name: str | None = None) -> tuple[bool, str]:
        """
        Ask once and tell what was found, or why not; in ten seconds, however many requests it takes.

        :param queue_name: a queue whose jobs are counted; default: all of them together
        """
        until = time.monotonic() + _TEST_TIMEOUT - _TEST_MARGIN
        try:
            queues = _queues(queue_name)
            settings = dataclasses.replace(self._connection.read_settings(), until=until)
            settings = issued_tokens.with_token(settings)
            observation = poll(settings, queues).of(queue_name)
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

    def _counts_of(self, observation: Observation) -> JobCounts:
        for note in (*observation.notes, *filter(None, [observation.doubt])):
            self.log.warning("%s", note)
        if observation.error:
            raise observation.error
        return observation.counts or JobCounts()


def _learn(token: str, answer: requests.Response, **sent: Any) -> None:
    """Learn from an answer to a session that its token is refused: nobody else is given it."""
    body = b"" if sent.get("stream") or len(answer.content) > transport.LARGEST_BODY else answer.content
    try:
        response.read(response.Answer(answer.status_code, body), lambda data, *_: data)
    except ScnetError as error:
        if error.kind is ErrorKind.CREDENTIALS:
            issued_tokens.invalidate(token)


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
