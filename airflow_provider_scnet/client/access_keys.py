# SPDX-License-Identifier: Apache-2.0
"""Access keys: the signed request that obtains tokens, and what the platform answers."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_scnet.client.errors import ScnetConfigError, ScnetResponseError
from airflow_provider_scnet.client.redaction import listed, redacted

#: The platform issues tokens, the portal describes regions; a connection can name others.
PLATFORM = "https://api.scnet.cn"
PORTAL = "https://www.scnet.cn"

#: Source: SCnet OpenAPI v2, "get user tokens (AK/SK)".
TOKENS_PATH = "/api/user/v3/tokens"

#: The cluster id of the platform's own token, which opens no region.
NO_REGION = "0"

# How many regions or addresses a message lists.
_MOST_LISTED = 20


@dataclasses.dataclass(frozen=True)
class AccessKeys:
    """
    Keys with which SCnet's platform issues a token; a connection has them in place of a token.

    :param user: the login of the platform, which is not the cluster user
    :param access_key: the keys' public half
    :param secret_key: the keys' secret half; it signs, and is sent nowhere
    :param cluster_id: which region
    :param platform: where tokens are issued
    :param portal: where regions are described
    """

    user: str
    access_key: str = dataclasses.field(repr=False)
    secret_key: str = dataclasses.field(repr=False)
    cluster_id: str
    platform: str = PLATFORM
    portal: str = PORTAL

    def signed(self, at: float) -> dict[str, str | bytes]:
        """
        Return the headers that ask for tokens, with their signature: HMAC-SHA256 in lower-case hex.

        Signed is compact JSON of these keys in this order. The documentation is silent about a user name beyond
        ASCII. The public clients escape quotes and backslashes only and sign the UTF-8 bytes, and so do Java's
        usual JSON libraries.

        :param at: epoch seconds
        """
        fields = {"accessKey": self.access_key, "timestamp": str(int(at)), "user": self.user}
        text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
        signature = hmac.new(self.secret_key.encode(), text.encode(), hashlib.sha256).hexdigest()
        # HTTP does not fix the encoding of headers. The signature is over UTF-8, so the header is UTF-8, too.
        return {**fields, "user": self.user.encode(), "signature": signature}


@dataclasses.dataclass(frozen=True)
class RegionToken:
    """
    A region's entry in the platform's answer.

    :param cluster_id: the region
    :param name: what people call it
    :param token: its token; None where the account is disabled or in arrears there
    """

    cluster_id: str
    name: str
    token: str | None = dataclasses.field(repr=False)

    def __str__(self) -> str:
        """Return its name and id, for people."""
        return f"'{self.name}' ({self.cluster_id})" if self.name else self.cluster_id


def tokens_from_data(data: Any) -> list[RegionToken]:
    """
    Read the ``data`` of the platform's answer: the tokens of all regions.

    :param data: the decoded list
    :raises ScnetResponseError: where it is not the documented list
    """
    if not isinstance(data, list) or not data:
        raise ScnetResponseError("the answer lists no tokens")
    # An error about one entry must not show the tokens of the others.
    issued = [
        entry["token"] for entry in data if isinstance(entry, Mapping) and isinstance(entry.get("token"), str)
    ]
    entries = [_entry(entry, *issued) for entry in data]
    return [entry for entry in entries if entry.cluster_id != NO_REGION]


def token_of(cluster_id: str, regions: Sequence[RegionToken]) -> RegionToken:
    """
    Return the entry of a region that has a token.

    :param cluster_id: the region
    :param regions: what the platform's answer lists
    :raises ScnetResponseError: where it lists the region twice
    :raises ScnetConfigError: where there is no such region, or no token for it; lists those there are
    """
    found = [region for region in regions if region.cluster_id == cluster_id]
    if len(found) > 1:
        raise ScnetResponseError(f"the answer lists the region {redacted(cluster_id)} twice")
    if not found:
        raise ScnetConfigError(
            f"there is no region with the cluster_id '{redacted(cluster_id)}'; {choices('regions', regions)}"
        )
    if found[0].token is None:
        usable = [region for region in regions if region.token is not None]
        raise ScnetConfigError(
            f"SCnet issues no token for the region {found[0]}: the account is disabled or in arrears there; "
            f"{choices('regions with a token', usable)}"
        )
    return found[0]


def _entry(entry: Any, *issued: str) -> RegionToken:
    if not isinstance(entry, Mapping) or "token" not in entry:
        raise ScnetResponseError("the answer's list of tokens holds something else")
    cluster_id, name, token = entry.get("clusterId"), entry.get("clusterName"), entry["token"]
    if isinstance(cluster_id, int) and not isinstance(cluster_id, bool):
        cluster_id = str(cluster_id)
    if not isinstance(cluster_id, str) or not cluster_id:
        raise ScnetResponseError("the answer lists a token without its clusterId")
    if token is not None and (not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token)):
        raise ScnetResponseError(f"the answer's token for the region {redacted(cluster_id, *issued)} is no token")
    return RegionToken(
        cluster_id=redacted(cluster_id, *issued),
        name=redacted(name, *issued) if isinstance(name, str) else "",
        token=token,
    )


def is_user_name(name: Any) -> bool:
    """
    Tell whether something can be the name of a user: a text on one line, of 200 characters at most.

    :param name: what a connection, a token or SCnet says
    """
    return isinstance(name, str) and bool(name.strip()) and len(name) <= 200 and name.isprintable()


def choices(what: str, things: Sequence[object]) -> str:
    """
    List what one may choose from, as a sentence.

    :param what: what they are
    :param things: all of them
    """
    return f"the {what} are: {listed(things, _MOST_LISTED)}" if things else f"there are no {what}"
