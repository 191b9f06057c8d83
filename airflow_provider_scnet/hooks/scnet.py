# SPDX-License-Identifier: Apache-2.0
"""How one asks SCnet for a user's job counts."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from concurrent.futures import TimeoutError as TimeoutOfFuture
from datetime import datetime, timezone
from typing import Any

from airflow.providers.common.compat.connection import get_async_connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_scnet.client import credentials, envelope, wire
from airflow_provider_scnet.client.errors import (
    Nature,
    ScnetConfigError,
    ScnetConnectionError,
    ScnetError,
    shown,
)
from airflow_provider_scnet.client.job_counts import STATES, JobCounts
from airflow_provider_scnet.client.look import Look
from airflow_provider_scnet.client.target import Target
from airflow_provider_scnet.client.token_payload import local
from airflow_provider_scnet.hooks.aside import aside
from airflow_provider_scnet.hooks.masking import amask, mask
from airflow_provider_scnet.provider_info import CONN_FIELDS, UI_FIELD_BEHAVIOUR

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

    def get_conn(self) -> wire.OneOriginSession:
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
        target = self.complete(self.resolve())
        # Whoever uses the session may log its headers.
        mask(target.secrets)
        return wire.OneOriginSession(target.endpoint, {"token": target.token}, target)

    def get_job_counts(self, user_name: str | None = None) -> JobCounts:
        """
        Ask once how many jobs of a user are in which state.

        :param user_name: the cluster user; default: the connection's login, else the token's own user
        :raises ScnetError: where no count could be learnt; the subclass says of which kind
        """
        return self._counts_of(self.look_at(user_name))

    async def aget_job_counts(self, user_name: str | None = None) -> JobCounts:
        """
        Ask once, without blocking the event loop.

        :param user_name: the cluster user; default: the connection's login, else the token's own user
        :raises ScnetError: where no count could be learnt; the subclass says of which kind
        """
        return self._counts_of(await self.alook(await self.acomplete(await self.aresolve(user_name))))

    def test_connection(self) -> tuple[bool, str]:
        """Ask once and tell what was found, or why not; in ten seconds, however many requests it takes."""
        until = time.monotonic() + _TEST_TIMEOUT - _TEST_MARGIN
        try:
            target, look = self._try_out(dataclasses.replace(self.resolve(), until=until))
            counts = self._counts_of(look)
            counts.require(("total",))
        except ScnetError as error:
            late = f"; a test has {_TEST_TIMEOUT:g} s in all" if time.monotonic() >= until else ""
            return False, f"{error}{late}"
        if look.doubt:
            return False, look.doubt
        if counts.all_zero:
            return True, f"user {target.user_name}: no job in any state: check the user name; {_way(target)}"
        found = ", ".join(
            f"{getattr(counts, state)} {state}"
            for state in STATES
            if state in ("running", "queued") or getattr(counts, state)
        )
        return True, f"user {target.user_name}: {found}; {_way(target)}"

    def _try_out(self, target: Target) -> tuple[Target, Look]:
        def try_out() -> tuple[Target, Look]:
            done = credentials.complete(target)
            return done, self.look(done)

        try:
            # Aside: a name server can hold a thread for longer than any time-out.
            return aside(try_out).result(target.at_most(_TEST_TIMEOUT) + _TEST_MARGIN)
        except TimeoutOfFuture:
            error = ScnetConnectionError(
                "nothing was found out in time: does the host, or a proxy, have an address?"
            )
            error.where = f"connection '{target.conn_id}'"
            raise error from None

    def resolve(self, user_name: str | None = None) -> Target:
        """
        Read the connection.

        :param user_name: the cluster user to ask about; default: the connection's login, else the token's own
        :raises ScnetConfigError: where the connection lacks or contradicts something
        """
        try:
            conn = self.get_connection(self.scnet_conn_id)
        except Exception as error:
            raise self._unreadable(error) from None
        target = Target.from_connection(self.scnet_conn_id, conn, user_name)
        mask(target.secrets)
        return target

    async def aresolve(self, user_name: str | None = None) -> Target:
        """
        Read the connection without blocking the event loop.

        :param user_name: the cluster user to ask about; default: the connection's login, else the token's own
        :raises ScnetConfigError: where the connection lacks or contradicts something
        """
        try:
            conn = await get_async_connection(self.scnet_conn_id)
        except Exception as error:
            raise self._unreadable(error) from None
        target = Target.from_connection(self.scnet_conn_id, conn, user_name)
        await amask(target.secrets)
        return target

    def complete(self, target: Target, refused: str = "") -> Target:
        """
        Obtain what the connection leaves to SCnet's platform: with access keys, the token and perhaps the region.

        Airflow is not told to mask such a token. It keeps what it masks for ever, and compiles all of it anew for
        each new one, so a triggerer that renews for weeks would stall. No text of this package holds one.

        :param target: what the connection says
        :param refused: a token that the region has just not accepted: another is asked for
        :raises ScnetError: where the platform does not issue a token, or does not say where the region is
        """
        return credentials.complete(target, refused)

    async def acomplete(self, target: Target, refused: str = "") -> Target:
        """
        Obtain it without blocking the event loop, in a thread that is given plain values only.

        :param target: what the connection says
        :param refused: a token that the region has just not accepted: another is asked for
        :raises ScnetError: where the platform does not issue a token, or does not say where the region is
        """
        done = credentials.at_hand(target, refused)
        if done is None:
            # The platform, the portal, and as long again for a renewal that is under way already.
            seconds = 4 * target.timeout + _GRACE
            try:
                completing = aside(lambda: credentials.complete(target, refused))
                return await asyncio.wait_for(asyncio.wrap_future(completing), seconds)
            except asyncio.TimeoutError:
                error = ScnetConnectionError(f"the platform issued no token within {seconds:g} s")
                error.where = f"connection '{target.conn_id}'"
                raise error from None
        return done

    def _unreadable(self, error: Exception) -> ScnetError:
        # Never the error's own text: Airflow puts a malformed URI into it, token and all. And never permanent:
        # Airflow says "isn't defined" too when a secrets backend or its API server did not answer.
        if isinstance(error, AirflowNotFoundException):
            found = ScnetConfigError(
                "is not defined, or Airflow could not read it: create it under Admin, Connections, as type scnet",
                nature=Nature.UNCLEAR,
            )
        else:
            found = ScnetConfigError(f"Airflow could not read it ({type(error).__name__})", nature=Nature.UNCLEAR)
        found.where = f"connection '{self.scnet_conn_id}'"
        return found

    def look_at(self, user_name: str | None = None) -> Look:
        """
        Read the connection and look once; an error is part of what is seen.

        :param user_name: the cluster user; default: the connection's login, else the token's own user
        """
        try:
            target = self.complete(self.resolve(user_name))
        except ScnetError as error:
            return Look(error=error)
        return self.look(target)

    def look(self, target: Target) -> Look:
        """
        Look; with access keys, once more if the token is refused. An error is part of what is seen.

        :param target: whom to ask, and about whom
        """
        look = self._look_once(target)
        if not (target.keys and look.is_refused):
            return look
        try:
            target = self.complete(target, refused=target.token)
        except ScnetError as error:
            return Look(error=error, account=target.account, where=target.where)
        return _last(self._look_once(target), target)

    async def alook(self, target: Target) -> Look:
        """
        Look as :meth:`look` does, in a thread that is given plain values only.

        :param target: whom to ask, and about whom
        """
        look = await self._alook_once(target)
        if not (target.keys and look.is_refused):
            return look
        try:
            target = await self.acomplete(target, refused=target.token)
        except ScnetError as error:
            return Look(error=error, account=target.account, where=target.where)
        return _last(await self._alook_once(target), target)

    async def _alook_once(self, target: Target) -> Look:
        # A name server, or many addresses that do not answer, can hold a thread for longer than the connection's
        # time-out; the gates need not wait for that.
        try:
            looking = aside(lambda: self._look_once(target))
            return await asyncio.wait_for(asyncio.wrap_future(looking), target.timeout + _GRACE)
        except asyncio.TimeoutError:
            error = ScnetConnectionError(f"no whole answer within {target.timeout:g} s")
            error.where = target.where
            return Look(error=error, account=target.account, where=target.where)

    def _look_once(self, target: Target) -> Look:
        at, observed_at = time.monotonic(), datetime.now(timezone.utc)
        counts, error = None, None
        try:
            counts = read(wire.send(_request(target), target), *target.secrets)
        except ScnetError as e:
            error = e
            error.where = target.where
            if error.nature is Nature.CREDENTIALS:
                error.advice = target.advice
        return Look(
            counts=counts,
            error=error,
            account=target.account,
            where=target.where,
            doubt=_doubt(counts, target) if counts else "",
            notes=target.notes + _strangers(counts, target),
            token_ends=None if target.keys else target.token_ends,
            counted_after=target.counted_after,
            at=at,
            observed_at=observed_at,
        )

    def _counts_of(self, look: Look) -> JobCounts:
        for note in (*look.notes, *filter(None, [look.doubt])):
            self.log.warning("%s", note)
        if look.error:
            raise look.error
        return look.counts or JobCounts()


def _last(look: Look, target: Target) -> Look:
    """Return the last look with a token; where that was refused too, nobody asks with it again."""
    if look.error and look.is_refused:
        credentials.give_up(target, look.error)
    return look


def read(answer: envelope.Answer, *secrets: str) -> JobCounts:
    """
    Read the answer of the job-state endpoint.

    :param answer: what came over the wire
    :param secrets: texts that must not appear in an error
    :raises ScnetApiError: where SCnet reports an error
    :raises ScnetResponseError: where the answer is not the documented one
    """
    try:
        return JobCounts.from_data(envelope.content(answer, *secrets), *secrets)
    except ScnetError as error:
        error.retry_after = answer.retry_after
        raise


def _request(target: Target) -> wire.Request:
    return wire.Request(
        method="GET",
        base=target.endpoint,
        path=JOB_STATE_PATH,
        headers={"token": target.token},
        params={"userName": target.user_name},
        secrets=target.secrets,
    )


def _way(target: Target) -> str:
    """Say how the connection gets its token, and until when that lives."""
    ends = f"valid until {local(target.token_ends)}" if target.token_ends else "which does not say when it ends"
    if not target.keys:
        return f"token of the connection, {ends}"
    region = f"'{target.region}' ({target.keys.cluster_id})" if target.region else target.keys.cluster_id
    return f"access keys, region {region} at {target.endpoint}, token {ends}"


def _doubt(counts: JobCounts, target: Target) -> str:
    """Say why counts prove nothing: SCnet may answer zeros for a user that does not exist, or is not ours."""
    if not counts.all_zero or target.allow_foreign_user or target.token_user in (None, target.user_name):
        return ""
    return (
        f"{target.where}: no job in any state, but the token was issued for '{shown(target.token_user)}': "
        "correct the user name, or set extra 'allow_foreign_user' if this is meant"
    )


def _strangers(counts: JobCounts | None, target: Target) -> tuple[str, ...]:
    names = counts.unknown if counts else ()
    if not names:
        return ()
    listed = ", ".join(f"'{name}'" for name in names[:_MOST_NAMES])
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return (f"{target.where}: unknown state {listed}{more}, counted as other",)
