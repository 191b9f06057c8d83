# SPDX-License-Identifier: Apache-2.0
"""A region as SCnet's portal describes it: whose account it is there, and which of its addresses is used."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from airflow_provider_scnet.client.access_keys import choices, is_user_name
from airflow_provider_scnet.client.base_url import base_url
from airflow_provider_scnet.client.errors import ErrorKind, ScnetConfigError, ScnetResponseError
from airflow_provider_scnet.client.redaction import redacted

#: Source: SCnet OpenAPI v2, "get center info".
REGION_PATH = "/ac/openapi/v2/center"


@dataclasses.dataclass(frozen=True)
class Region:
    """
    How the platform describes a region.

    :param user_name: the cluster user of the account there, or None
    :param enabled: the addresses of its HPC service that may be used, in SCnet's order
    :param others: those that are not
    """

    user_name: str | None
    enabled: tuple[str, ...]
    others: tuple[str, ...]

    @classmethod
    def of(cls, data: Any) -> Region:
        """
        Read a description.

        :param data: the ``data`` of the answer
        :raises ScnetResponseError: where it is not the documented object
        """
        if not isinstance(data, Mapping):
            raise ScnetResponseError("the answer describes no region")
        user, urls = data.get("clusterUserInfo"), data.get("hpcUrls")
        # A region without an HPC service has no list.
        if not isinstance(user, Mapping | None) or not isinstance(urls, list | None):
            raise ScnetResponseError("the answer's description of the region is not the documented one")
        addresses: dict[bool, list[str]] = {True: [], False: []}
        for entry in urls or []:
            if not isinstance(entry, Mapping) or not isinstance(entry.get("url"), str):
                raise ScnetResponseError("the answer's hpcUrls hold something else")
            # Documented as a text.
            addresses[str(entry.get("enable")).lower() == "true"].append(redacted(entry["url"]))
        name = (user or {}).get("userName")
        # Messages and records show the name as it is. Stars are what stood for a secret.
        if name is not None and not (is_user_name(name) and "***" not in name):
            raise ScnetResponseError("the answer's name of the cluster user is no name")
        return cls(
            user_name=name.strip() if name else None,
            enabled=tuple(addresses[True]),
            others=tuple(addresses[False]),
        )

    def endpoint(self, in_use: str) -> str:
        """
        Return an address of its HPC service: the one in use while SCnet enables it, else the first that it does.

        SCnet lets one use each enabled address. Keep to one: what is claimed is claimed of an address and a user.

        :param in_use: the address that was used last; empty: none
        :raises ScnetConfigError: where there is none
        :raises ScnetResponseError: where requests may not go to any
        """
        usable, wrong = [], ""
        for url in self.enabled:
            try:
                usable.append(base_url("the region's address", url))
            except ScnetConfigError as error:
                wrong = wrong or error.message
        if usable:
            return in_use if in_use in usable else usable[0]
        if wrong:
            raise ScnetResponseError(f"{wrong}; fill in the field 'host'")
        raise ScnetConfigError(
            f"the region has no HPC address in use; {choices('others', self.others)}: fill in the field 'host'",
            # What is switched off, perhaps for maintenance, may be switched on again.
            kind=ErrorKind.UNCLEAR if self.others else ErrorKind.PERMANENT,
        )
