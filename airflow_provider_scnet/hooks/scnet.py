# SPDX-License-Identifier: Apache-2.0
"""How one asks SCnet for a user's job counts."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from concurrent.futures import TimeoutError as TimeoutOfFuture
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.connection import get_async_connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_scnet.client import issued_tokens, response, transport
from airflow_provider_scnet.client.connection_settings import ConnectionSettings
from airflow_provider_scnet.client.errors import (
    ErrorKind,
    ScnetConfigError,
    ScnetConnectionError,
    ScnetError,
    redacted,
)
from airflow_provider_scnet.client.job_counts import STATES, JobCounts
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.client.token_payload import local
from airflow_provider_scnet.hooks.masking import amask, mask
from airflow_provider_scnet.hooks.threads import run_in_thread
from airflow_provider_scnet.provider_info import CONN_FIELDS, UI_FIELD_BEHAVIOUR

if TYPE_CHECKING:
    import requests

#: Source: SCnet OpenAPI v2, "query job state data".
JOB_STATE_PATH = "/hpc/openapi/v2/view/jobs/state"

# The Test button waits in the API server: so long for all requests together, the last of it to tell the result.
_TEST_TIMEOUT = 10.0
_TEST_MARGIN = 0.5

# Seconds on top of the connection's own time-out before a thread is left to itself.
_GRACE = 2.0

# How many names of states a log line lists.
_MOST_NAMES = 10


class ScnetHook(BaseHook):
    """
    The token and the endpoint of one SCnet region.

    Every call reads the connection anew, so a token that was pasted meanwhile is used, and makes one request:
    the next poll of whoever waits is the retry.

    :param scnet_conn_id: the id of a connection of type ``scnet``
    """

    conn_name_attr = "scnet_conn_id"
    default_conn_name = "scnet_default"
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

    def get_conn(self) -> requests.Session:
        """
        Return a session that sends the token, to the connection's own origin only.

        :raises ScnetConfigError: where the connection lacks or contradicts something
        :raises ScnetError: where access keys obtain no token
        """
        settings = self.with_token(self.read_settings())
        # Whoever uses the session may log its headers.
        mask(settings.secrets)
        return transport.OneOriginSession(settings.endpoint, {"token": settings.token}, settings)

    def get_job_counts(self, user_name: str | None = None) -> JobCounts:
        """
        Ask once how many jobs of a user are in which state.

        :param user_name: the cluster user; default: the connection's login, else the token's own user
        :raises ScnetError: where no count could be learnt; the subclass says of which kind
        """
        return self._counts_of(self.observe(user_name))

    async def aget_job_counts(self, user_name: str | None = None) -> JobCounts:
        """
        Ask once, without blocking the event loop.

        :param user_name: the cluster user; default: the connection's login, else the token's own user
        :raises ScnetError: where no count could be learnt; the subclass says of which kind
        """
        return self._counts_of(await self.apoll(await self.awith_token(await self.aread_settings(user_name))))

    def test_connection(self) -> tuple[bool, str]:
        """Ask once and tell what was found, or why not; in ten seconds, however many requests it takes."""
        until = time.monotonic() + _TEST_TIMEOUT - _TEST_MARGIN
        try:
            settings, observation = self._try_out(dataclasses.replace(self.read_settings(), until=until))
            counts = self._counts_of(observation)
            counts.require(("total",))
        except ScnetError as error:
            late = f"; a test has {_TEST_TIMEOUT:g} s in all" if time.monotonic() >= until else ""
            return False, f"{error}{late}"
        if observation.doubt:
            return False, observation.doubt
        if counts.all_zero:
            return True, f"user {settings.user_name}: no job in any state: check the user name; {_way(settings)}"
        found = ", ".join(
            f"{getattr(counts, state)} {state}"
            for state in STATES
            if state in ("running", "queued") or getattr(counts, state)
        )
        return True, f"user {settings.user_name}: {found}; {_way(settings)}"

    def _try_out(self, settings: ConnectionSettings) -> tuple[ConnectionSettings, Observation]:
        def try_out() -> tuple[ConnectionSettings, Observation]:
            done = issued_tokens.with_token(settings)
            return done, self.poll(done)

        try:
            # Aside: a name server can hold a thread for longer than any time-out.
            return run_in_thread(try_out).result(settings.at_most(_TEST_TIMEOUT) + _TEST_MARGIN)
        except TimeoutOfFuture:
            error = ScnetConnectionError(
                "nothing was found out in time: does the host, or a proxy, have an address?"
            )
            error.where = f"connection '{settings.conn_id}'"
            raise error from None

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

    def with_token(self, settings: ConnectionSettings, refused: str = "") -> ConnectionSettings:
        """
        Obtain what the connection leaves to SCnet's platform: with access keys, the token and perhaps the region.

        Airflow is not told to mask such a token. It keeps what it masks for ever, and compiles all of it anew for
        each new one, so a triggerer that renews for weeks would stall. No text of this package holds one.

        :param settings: what the connection says
        :param refused: a token that the region has just not accepted: another is asked for
        :raises ScnetError: where the platform does not issue a token, or does not say where the region is
        """
        return issued_tokens.with_token(settings, refused)

    async def awith_token(self, settings: ConnectionSettings, refused: str = "") -> ConnectionSettings:
        """
        Obtain it without blocking the event loop, in a thread that is given plain values only.

        :param settings: what the connection says
        :param refused: a token that the region has just not accepted: another is asked for
        :raises ScnetError: where the platform does not issue a token, or does not say where the region is
        """
        done = issued_tokens.at_hand(settings, refused)
        if done is None:
            # The platform, the portal, and as long again for a renewal that is under way already.
            seconds = 4 * settings.timeout + _GRACE
            try:
                completing = run_in_thread(lambda: issued_tokens.with_token(settings, refused))
                return await asyncio.wait_for(asyncio.wrap_future(completing), seconds)
            except asyncio.TimeoutError:
                error = ScnetConnectionError(f"the platform issued no token within {seconds:g} s")
                error.where = f"connection '{settings.conn_id}'"
                raise error from None
        return done

    def _unreadable(self, error: Exception) -> ScnetError:
        # Never the error's own text: Airflow puts a malformed URI into it, token and all. And never permanent:
        # Airflow says "isn't defined" too when a secrets backend or its API server did not answer.
        if isinstance(error, AirflowNotFoundException):
            found = ScnetConfigError(
                "is not defined, or Airflow could not read it: create it under Admin, Connections, as type scnet",
                kind=ErrorKind.UNCLEAR,
            )
        else:
            found = ScnetConfigError(f"Airflow could not read it ({type(error).__name__})", kind=ErrorKind.UNCLEAR)
        found.where = f"connection '{self.scnet_conn_id}'"
        return found

    def observe(self, user_name: str | None = None) -> Observation:
        """
        Read the connection and look once; an error is part of what is seen.

        :param user_name: the cluster user; default: the connection's login, else the token's own user
        """
        try:
            settings = self.with_token(self.read_settings(user_name))
        except ScnetError as error:
            return Observation(error=error)
        return self.poll(settings)

    def poll(self, settings: ConnectionSettings) -> Observation:
        """
        Look; with access keys, once more if the token is refused. An error is part of what is seen.

        :param settings: whom to ask, and about whom
        """
        observation = self._poll_once(settings)
        if not (settings.keys and observation.is_refused):
            return observation
        try:
            settings = self.with_token(settings, refused=settings.token)
        except ScnetError as error:
            return Observation(error=error, account=settings.account, where=settings.where)
        return _last(self._poll_once(settings), settings)

    async def apoll(self, settings: ConnectionSettings) -> Observation:
        """
        Look as :meth:`poll` does, in a thread that is given plain values only.

        :param settings: whom to ask, and about whom
        """
        observation = await self._apoll_once(settings)
        if not (settings.keys and observation.is_refused):
            return observation
        try:
            settings = await self.awith_token(settings, refused=settings.token)
        except ScnetError as error:
            return Observation(error=error, account=settings.account, where=settings.where)
        return _last(await self._apoll_once(settings), settings)

    async def _apoll_once(self, settings: ConnectionSettings) -> Observation:
        # A name server, or many addresses that do not answer, can hold a thread for longer than the connection's
        # time-out; the gates need not wait for that.
        try:
            polling = run_in_thread(lambda: self._poll_once(settings))
            return await asyncio.wait_for(asyncio.wrap_future(polling), settings.timeout + _GRACE)
        except asyncio.TimeoutError:
            error = ScnetConnectionError(f"no whole answer within {settings.timeout:g} s")
            error.where = settings.where
            return Observation(error=error, account=settings.account, where=settings.where)

    def _poll_once(self, settings: ConnectionSettings) -> Observation:
        at, observed_at = time.monotonic(), datetime.now(timezone.utc)
        counts, error = None, None
        try:
            counts = read(transport.send(_request(settings), settings), *settings.secrets)
        except ScnetError as e:
            error = e
            error.where = settings.where
            if error.kind is ErrorKind.CREDENTIALS:
                error.advice = settings.advice
        return Observation(
            counts=counts,
            error=error,
            account=settings.account,
            where=settings.where,
            doubt=_doubt(counts, settings) if counts else "",
            notes=settings.notes + _strangers(counts, settings),
            token_ends=None if settings.keys else settings.token_ends,
            counted_after=settings.counted_after,
            at=at,
            observed_at=observed_at,
        )

    def _counts_of(self, observation: Observation) -> JobCounts:
        for note in (*observation.notes, *filter(None, [observation.doubt])):
            self.log.warning("%s", note)
        if observation.error:
            raise observation.error
        return observation.counts or JobCounts()


def _last(observation: Observation, settings: ConnectionSettings) -> Observation:
    """Return the last look with a token; where that was refused too, nobody asks with it again."""
    if observation.error and observation.is_refused:
        issued_tokens.give_up(settings, observation.error)
    return observation


def read(answer: response.Answer, *secrets: str) -> JobCounts:
    """
    Read the answer of the job-state endpoint.

    :param answer: what came over the wire
    :param secrets: texts that must not appear in an error
    :raises ScnetApiError: where SCnet reports an error
    :raises ScnetResponseError: where the answer is not the documented one
    """
    try:
        return JobCounts.from_data(response.content(answer, *secrets), *secrets)
    except ScnetError as error:
        error.retry_after = answer.retry_after
        raise


def _request(settings: ConnectionSettings) -> transport.Request:
    return transport.Request(
        method="GET",
        base=settings.endpoint,
        path=JOB_STATE_PATH,
        headers={"token": settings.token},
        params={"userName": settings.user_name},
        secrets=settings.secrets,
    )


def _way(settings: ConnectionSettings) -> str:
    """Say how the connection gets its token, and until when that lives."""
    ends = (
        f"valid until {local(settings.token_ends)}" if settings.token_ends else "which does not say when it ends"
    )
    if not settings.keys:
        return f"token of the connection, {ends}"
    region = f"'{settings.region}' ({settings.keys.cluster_id})" if settings.region else settings.keys.cluster_id
    return f"access keys, region {region} at {settings.endpoint}, token {ends}"


def _doubt(counts: JobCounts, settings: ConnectionSettings) -> str:
    """Say why counts prove nothing: SCnet may answer zeros for a user that does not exist, or is not ours."""
    if not counts.all_zero or settings.allow_foreign_user or settings.token_user in (None, settings.user_name):
        return ""
    return (
        f"{settings.where}: no job in any state, but the token was issued for '{redacted(settings.token_user)}': "
        "correct the user name, or set extra 'allow_foreign_user' if this is meant"
    )


def _strangers(counts: JobCounts | None, settings: ConnectionSettings) -> tuple[str, ...]:
    names = counts.unknown if counts else ()
    if not names:
        return ()
    listed = ", ".join(f"'{name}'" for name in names[:_MOST_NAMES])
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return (f"{settings.where}: unknown state {listed}{more}, counted as other",)
