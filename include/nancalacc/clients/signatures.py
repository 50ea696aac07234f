"""How calls to WPS are signed in addition to the bearer token [wps 2]."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime

from nancalacc.config import Signature

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


def http_date(moment: datetime) -> str:
    """An aware time as an RFC 1123 date in GMT, whatever its own zone."""
    return format_datetime(moment.astimezone(UTC), usegmt=True)


def signature_headers(
    kind: Signature,
    *,
    client_id: str,
    client_secret: str,
    method: str,
    uri: str,
    content_type: str,
    date: str,
    body: bytes | None,
) -> Mapping[str, str]:
    """The headers that sign one call; empty for `Signature.NONE`.

    `uri` is path and raw query exactly as sent, without host and gateway prefix;
    `content_type` is the header sent with the call, `date` the result of `http_date`.
    """
    if kind is Signature.NONE:
        return {}
    hashed = body or b""
    if kind is Signature.WPS4 and content_type.partition(";")[0].strip().lower() not in {JSON, FORM}:
        hashed = b""
    scheme, prefix = ("KSO-1", "X-Kso") if kind is Signature.KSO1 else ("WPS-4", "Wps-Docs")
    digest = hashlib.sha256(hashed).hexdigest() if hashed else ""
    signed = f"{scheme}{method}{uri}{content_type}{date}{digest}"
    value = hmac.new(client_secret.encode(), signed.encode(), hashlib.sha256).hexdigest()
    return {f"{prefix}-Date": date, f"{prefix}-Authorization": f"{scheme} {client_id}:{value}"}
