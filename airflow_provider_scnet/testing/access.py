# SPDX-License-Identifier: Apache-2.0
"""Who asks the simulator's HPC endpoints, about whom, and how they refuse."""

from __future__ import annotations

from collections.abc import Mapping

from airflow_provider_scnet.testing.cluster import Cluster
from airflow_provider_scnet.testing.server import Answer, Call
from airflow_provider_scnet.testing.tokens import Holder, TokenBook


class RefusedError(Exception):
    """
    An answer that is an error, in SCnet's envelope.

    :param code: SCnet's code
    :param msg: what it says
    :param data: what comes with it
    """

    def __init__(self, code: str, msg: str, data: object = None) -> None:
        super().__init__(msg)
        self.answer = Answer.envelope(code, msg, data)


class Access:
    """
    What a token opens.

    :param tokens: those that are accepted
    :param cluster: the users there are
    :param unknown_user: the code of the answer for a user that the cluster does not know; ``"0"``: no jobs
    """

    def __init__(self, tokens: TokenBook, cluster: Cluster, unknown_user: str) -> None:
        self._tokens = tokens
        self._cluster = cluster
        self._unknown_user = unknown_user

    def holder(self, call: Call) -> Holder:
        """Return whose token a call has."""
        holder = self._tokens.holder_of(call.headers.get("token"))
        if holder is None:
            raise RefusedError("10008", "auth_fail", "token is invalid")
        return holder

    def owner(self, call: Call, asked: str | None) -> str | None:
        """
        Return the user whose jobs a call gets to see; None: it sees none.

        :param call: the call
        :param asked: the user it asks about
        """
        holder = self.holder(call)
        if not asked:
            raise RefusedError("10003", "参数不全")
        known = asked in self._cluster.users
        if asked in (holder.name, holder.compute_user):
            return asked if known else holder.name
        if known or self._unknown_user == "0":
            return None
        raise RefusedError(self._unknown_user, "区域用户不存在")


def required(values: Mapping[str, object], *names: str) -> list[str]:
    """
    Return the values of parameters, all of which have to be there and to be text.

    :param values: all parameters
    :param names: those that are required
    """
    found = [values.get(name) for name in names]
    if missing := [name for name, value in zip(names, found, strict=True) if value in (None, "")]:
        raise RefusedError("10003", f"参数不全: {', '.join(missing)}")
    if wrong := [name for name, value in zip(names, found, strict=True) if not isinstance(value, str)]:
        raise RefusedError("10004", f"参数无效: {', '.join(wrong)}")
    return [str(value) for value in found]
