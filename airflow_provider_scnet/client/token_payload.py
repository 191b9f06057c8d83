# SPDX-License-Identifier: Apache-2.0
"""What a token says of itself; nobody has verified it."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
from datetime import datetime, timedelta, timezone

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclasses.dataclass(frozen=True)
class TokenPayload:
    """
    The two fields of a token's payload that help a gate; both None where the token does not tell.

    A client cannot check the signature, so nothing here grants anything. ``expireTime`` is documented as a
    string of epoch milliseconds; there is no ``exp``.

    :param compute_user: the cluster user that the token was issued for (``computeUser``)
    :param expires_at: when it ends (``expireTime``)
    """

    compute_user: str | None = None
    expires_at: datetime | None = None

    @classmethod
    def from_token(cls, token: str) -> TokenPayload:
        """
        Read a token's payload; a token that is no JWT tells nothing.

        :param token: the token as issued
        """
        try:
            encoded = token.split(".")[1]
            payload = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
            user, expires = payload.get("computeUser"), payload.get("expireTime")
        except (IndexError, ValueError, RecursionError, AttributeError):
            return cls()
        return cls(
            compute_user=user.strip() or None if isinstance(user, str) else None,
            expires_at=_moment(expires),
        )


def local(moment: datetime) -> str:
    """
    Return a moment in the reader's time zone; one of the year 9999, which may not have it there, as it is.

    :param moment: the moment
    """
    with contextlib.suppress(ValueError, OverflowError):
        moment = moment.astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S %z")


def _moment(milliseconds: object) -> datetime | None:
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, (str, int)):
        return None
    with contextlib.suppress(ValueError, OverflowError):
        # 0 is no moment at which anything ends, but a way to say that there is none.
        return _EPOCH + timedelta(milliseconds=int(milliseconds)) if int(milliseconds) > 0 else None
    return None
