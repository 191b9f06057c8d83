# SPDX-License-Identifier: Apache-2.0
"""The simulator's tokens: what they look like, and whose are accepted."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

#: Seconds. SCnet does not document the lifetime; public clients assume up to a day.
DEFAULT_LIFETIME = 24 * 3600.0


def make_token(
    compute_user: str, *, expire_time: float | None = None, key: bytes | None = None, **claims: object
) -> str:
    """
    Make a token as SCnet's are: a JWT signed with HS256, with the payload of the documented sample.

    There is no ``exp``: the end of its life is ``expireTime``, epoch milliseconds as text.

    :param compute_user: the cluster user (``computeUser``)
    :param expire_time: epoch seconds at which the token expires; None: the token does not say
    :param key: what it is signed with; None: something random
    :param claims: further entries of the payload, or other values for the usual ones
    """
    payload: dict[str, object] = {
        "computeUser": compute_user,
        "user": compute_user,
        "userId": "10000000001",
        "clusterId": "11112",
        "accountStatus": "Normal",
        "creator": "ac",
        "role": "1",
        "invoker": "simulator",
    }
    if expire_time is not None:
        payload["expireTime"] = str(int(expire_time * 1000))
    signed = f"{_encode_json({'alg': 'HS256', 'typ': 'JWT'})}.{_encode_json(payload | claims)}"
    signature = hmac.new(key or secrets.token_bytes(32), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{_encode(signature)}"


@dataclass(frozen=True)
class Holder:
    """A user, the token that was last given to it, and all of its tokens that are accepted."""

    name: str
    compute_user: str
    lifetime: float
    token: str
    accepted: frozenset[str]
    claims: Mapping[str, object]


class TokenBook:
    """
    Whose tokens the simulator accepts. Safe for several threads.

    :param now: the time, in epoch seconds
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._key = secrets.token_bytes(32)
        self._holders: dict[str, Holder] = {}

    def add(
        self,
        name: str,
        *,
        token: str | None,
        compute_user: str | None,
        lifetime: float | None,
        expire_time: str | None,
    ) -> str:
        """Give a new user its first token; see :meth:`ScnetSimulator.add_user`."""
        compute_user = compute_user or name
        lifetime = DEFAULT_LIFETIME if lifetime is None else lifetime
        claims = {} if expire_time is None else {"expireTime": expire_time}
        token = self._issue(compute_user, lifetime, **claims) if token is None else token
        with self._lock:
            if name in self._holders:
                raise ValueError(f"there is a user {name!r} already")
            if any(token in holder.accepted for holder in self._holders.values()):
                raise ValueError("another user has this token")
            self._holders[name] = Holder(name, compute_user, lifetime, token, frozenset({token}), claims)
        return token

    def token_of(self, name: str) -> str:
        """Return the token that the user was given last, accepted or not."""
        with self._lock:
            return self._holder(name).token

    def reject(self, name: str) -> None:
        """Accept none of the user's tokens any longer."""
        with self._lock:
            self._holders[name] = replace(self._holder(name), accepted=frozenset())

    def renew(self, name: str) -> str:
        """Give the user a new token, and accept the old ones no longer."""
        with self._lock:
            holder = self._holder(name)
            token = self._issue(holder.compute_user, holder.lifetime, **holder.claims)
            self._holders[name] = replace(holder, token=token, accepted=frozenset({token}))
        return token

    def issue(self, name: str, **claims: object) -> str:
        """Give the user one more token; those it has are accepted as before."""
        with self._lock:
            holder = self._holder(name)
            token = self._issue(holder.compute_user, holder.lifetime, **holder.claims, **claims)
            self._holders[name] = replace(holder, token=token, accepted=holder.accepted | {token})
        return token

    def holder_of(self, token: str | None) -> Holder | None:
        """Return whose token this is; None if it is nobody's, revoked or expired."""
        with self._lock:
            for holder in self._holders.values():
                if token in holder.accepted and (holder.claims or not self._expired(str(token))):
                    return holder
        return None

    def _holder(self, name: str) -> Holder:
        try:
            return self._holders[name]
        except KeyError:
            raise LookupError(f"there is no user {name!r}") from None

    def _issue(self, compute_user: str, lifetime: float, **claims: object) -> str:
        return make_token(
            compute_user,
            expire_time=self._now() + lifetime,
            key=self._key,
            invoker=secrets.token_hex(8),  # or two tokens made in one millisecond would be the same
            **claims,
        )

    def _expired(self, token: str) -> bool:
        """Whether the token says that its time is over; a token that says nothing lives for ever."""
        try:
            return int(str(claims_of(token)["expireTime"])) <= self._now() * 1000
        except (KeyError, ValueError):
            return False


def claims_of(token: str) -> dict[str, object]:
    """Return a token's payload; empty for a token that is no JWT."""
    try:
        encoded = token.split(".")[1]
        payload = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (IndexError, ValueError, binascii.Error):
        return {}
    return payload if isinstance(payload, dict) else {}


def _encode_json(value: object) -> str:
    return _encode(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
