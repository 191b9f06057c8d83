# SPDX-License-Identifier: Apache-2.0
"""An Airflow connection to SCnet as hook, sensor and triggerer poll through it; internal."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from airflow.providers.common.compat.connection import get_async_connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook, conf

from airflow_provider_scnet.client import issued_tokens
from airflow_provider_scnet.client.connection_settings import ConnectionSettings
from airflow_provider_scnet.client.errors import ErrorKind, ScnetConfigError, ScnetError
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.client.poll import poll
from airflow_provider_scnet.client.threads import run_in_thread
from airflow_provider_scnet.hooks.masking import amask, mask


class PolledConnection:
    """
    An Airflow connection: read anew each time, completed with a token, and polled through.

    :param scnet_conn_id: its id
    """

    def __init__(self, scnet_conn_id: str) -> None:
        self._conn_id = scnet_conn_id

    def read_settings(self, user_name: str | None = None) -> ConnectionSettings:
        """
        Read the connection.

        :param user_name: the cluster user to ask about; default: the connection's login, else the token's own
        :raises ScnetConfigError: where the connection lacks or contradicts something
        """
        try:
            conn = BaseHook.get_connection(self._conn_id)
        except Exception as error:
            raise self._unreadable(error) from None
        settings = ConnectionSettings.from_connection(self._conn_id, conn, user_name)
        mask(settings.secrets)
        return settings

    async def aread_settings(self, user_name: str | None = None) -> ConnectionSettings:
        """
        Read the connection without blocking the event loop.

        :param user_name: the cluster user to ask about; default: the connection's login, else the token's own
        :raises ScnetConfigError: where the connection lacks or contradicts something
        """
        try:
            conn = await get_async_connection(self._conn_id)
        except Exception as error:
            raise self._unreadable(error, in_triggerer=True) from None
        settings = ConnectionSettings.from_connection(self._conn_id, conn, user_name)
        await amask(settings.secrets)
        return settings

    async def awith_token(self, settings: ConnectionSettings) -> ConnectionSettings:
        """
        Obtain what access keys obtain, the token and perhaps the region, without blocking the event loop.

        Airflow is not told to mask such a token. It keeps what it masks for ever, and compiles all of it anew for
        each new one, so a triggerer that renews for weeks would stall. No text of this package holds one.

        :param settings: what the connection says
        :raises ScnetError: where the platform does not issue a token, or does not say where the region is
        """
        if done := issued_tokens.cached(settings):
            return done
        return await asyncio.wrap_future(run_in_thread(lambda: issued_tokens.with_token(settings)))

    def _unreadable(self, error: Exception, in_triggerer: bool = False) -> ScnetError:
        # The error's own text is left out: Airflow puts a malformed URI into it, with the token. And the kind is
        # not permanent: Airflow says "isn't defined" also when a secrets backend or its API server did not answer.
        if not isinstance(error, AirflowNotFoundException):
            what = f"Airflow could not read it ({type(error).__name__})"
        elif in_triggerer and conf.getboolean("core", "multi_team", fallback=False):
            what = (
                "the triggerer does not find it: it asks without a team, so in a multi-team Airflow it sees only "
                "connections that belong to no team; use one of these, or give the gate deferrable=False"
            )
        else:
            what = (
                "is not defined, or Airflow could not read it: create it under Admin, Connections, as type scnet"
            )
        return ScnetConfigError(what, kind=ErrorKind.UNCLEAR, where=f"connection '{self._conn_id}'")

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
        return poll(settings, queues)

    async def apoll(
        self, settings: ConnectionSettings, queues: Collection[str] = (), with_list: bool = False
    ) -> Observation:
        """
        Do what :func:`.poll.poll` does without blocking the event loop.

        :param settings: whom to ask, and about whom
        :param queues: the queues whose own counts are asked for, too
        :param with_list: whether the jobs are listed, too
        """
        return await asyncio.wrap_future(run_in_thread(lambda: poll(settings, queues, with_list)))
