# SPDX-License-Identifier: Apache-2.0
"""The simulator's platform: access keys, signed requests for tokens, and what it says of its regions."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from airflow_provider_scnet.testing.server import Answer, Call
from airflow_provider_scnet.testing.tokens import TokenBook, claims_of

TOKENS_PATH = "/api/user/v3/tokens"
REGION_PATH = "/ac/openapi/v2/center"

#: Seconds by which the clock of a request may differ. SCnet does not document it.
MOST_SKEW = 300.0


@dataclass(frozen=True)
class SimulatedRegion:
    """
    A region of the account.

    ``tokens`` issues those that its cluster accepts, and ``own_url`` tells the address of that cluster.
    ``hpc_urls`` holds each address with whether it is in use; None: the cluster's own, the only one.
    """

    cluster_id: str
    name: str
    tokens: TokenBook
    own_url: Callable[[], str]
    hpc_urls: tuple[tuple[str, bool], ...] | None = None
    in_arrears: bool = False
    user_name: str | None = None


@dataclass(frozen=True)
class KeyPair:
    """The keys of a platform user, for one cluster user."""

    platform_user: str
    access_key: str
    secret_key: str
    name: str


class Platform:
    """
    Who may have which tokens.

    :param first: the region that is there from the start
    :param now: the time, in epoch seconds
    :param ends_earlier: whether tokens that are issued end those that the user had before
    """

    def __init__(
        self, first: SimulatedRegion, now: Callable[[], float] = time.time, *, ends_earlier: bool = False
    ) -> None:
        self._ends_earlier = ends_earlier
        self._tokens = first.tokens
        self._now = now
        self._lock = threading.Lock()
        self._keys: dict[str, KeyPair] = {}
        self._regions = {first.cluster_id: first}

    def add_keys(self, name: str, platform_user: str) -> KeyPair:
        """Make access keys for a cluster user; its platform user may have any number of them."""
        pair = KeyPair(platform_user, secrets.token_hex(16), secrets.token_hex(24), name)
        with self._lock:
            self._keys[pair.access_key] = pair
        return pair

    def keys_of(self, name: str) -> KeyPair:
        """Return the keys that were made for a cluster user last."""
        with self._lock:
            found = [pair for pair in self._keys.values() if pair.name == name]
        if not found:
            raise LookupError(f"there are no access keys of {name!r}")
        return found[-1]

    def add_region(self, region: SimulatedRegion) -> None:
        """Add a region, or replace the one with its id."""
        with self._lock:
            self._regions[region.cluster_id] = region

    def answer_tokens(self, call: Call) -> Answer:
        """Issue a token for each region, as ``POST /api/user/v3/tokens`` does if the signature is right."""
        # HTTP gives headers as bytes, which http.server takes for Latin-1; the platform takes them for UTF-8.
        user = call.headers.get("user", "").encode("latin-1").decode(errors="replace")
        access_key, timestamp = call.headers.get("accesskey", ""), call.headers.get("timestamp", "")
        with self._lock:
            pair, regions = self._keys.get(access_key), list(self._regions.values())
            users = {each.platform_user for each in self._keys.values()}
        if not user or not access_key or not timestamp.isdecimal() or "signature" not in call.headers:
            return Answer.envelope("10003", "参数不全")
        if user not in users:
            return Answer.envelope("10009", "用户不存在")
        if abs(int(timestamp) - self._now()) > MOST_SKEW:
            return Answer.envelope("10009", "AK/SK签名校验失败: timestamp")
        # Put together by hand, so that it is not the client's own code that checks the client.
        text = '{"accessKey":"%s","timestamp":"%s","user":%s}'
        signed = text % (access_key, timestamp, json.dumps(user, ensure_ascii=False))
        expected = hmac.new(
            (pair.secret_key if pair else "").encode(), signed.encode(), hashlib.sha256
        ).hexdigest()
        if (
            pair is None
            or pair.platform_user != user
            or not hmac.compare_digest(expected, call.headers["signature"])
        ):
            return Answer.envelope("10009", "AK/SK签名校验失败")
        if self._ends_earlier:
            for region in regions:
                with contextlib.suppress(LookupError):  # the account has no user in that cluster
                    region.tokens.reject(self._user(region, pair.name))
        entries: list[dict[str, Any]] = [
            {"clusterName": "ac", "clusterId": "0", "token": self._tokens.issue(pair.name, clusterId="0")}
        ]
        for region in regions:
            token = self._token_for(region, pair.name)
            entries.append({"clusterName": region.name, "clusterId": region.cluster_id, "token": token})
        return Answer.envelope("0", "success", entries)

    def _token_for(self, region: SimulatedRegion, name: str) -> str | None:
        if region.in_arrears:
            return None
        try:
            return region.tokens.issue(self._user(region, name), clusterId=region.cluster_id)
        except LookupError:
            return None  # the account has no user in that cluster

    def _user(self, region: SimulatedRegion, name: str) -> str:
        return name if region.tokens is self._tokens else region.user_name or name

    def answer_region(self, call: Call) -> Answer:
        """Describe the region that a token is for, as ``GET /ac/openapi/v2/center`` does."""
        token = call.headers.get("token", "")
        with self._lock:
            region = self._regions.get(str(claims_of(token).get("clusterId")))
        holder = (region.tokens if region else self._tokens).holder_of(token)
        if holder is None:
            return Answer.envelope("10008", "auth_fail", "token is invalid")
        if region is None:
            return Answer.envelope("10001", "内部错误")
        urls = ((f"{region.own_url()}/hpc", True),) if region.hpc_urls is None else region.hpc_urls
        return Answer.envelope(
            "0",
            "success",
            {
                "id": region.cluster_id,
                "name": region.name,
                "clusterUserInfo": {
                    "userName": region.user_name or holder.compute_user,
                    "homePath": f"/public/home/{holder.compute_user}",
                },
                "hpcUrls": [{"url": url, "enable": "true" if enabled else "false"} for url, enabled in urls],
                "efileUrls": [],
            },
        )
