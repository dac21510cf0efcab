"""Recording of the traffic as HAR 1.2, with secrets left out.

Format: http://www.softwareishard.com/blog/har-12-spec/. The file is whole, valid JSON after each entry: an entry is
written over the closing brackets together with new ones, so that even a killed process leaves a file that reads.
"""

import json
import re
from collections.abc import Iterable
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, urlsplit

from sandbox.tenant.devices import Json

_TAIL = b"\n]}}\n"
_SECRETS = re.compile(
    r'("(?:access_token|client_secret|client_assertion)"\s*:\s*")[^"]*|(bearer\s+)[\w.~+/=-]+', re.IGNORECASE
)
_FORM_SECRETS = re.compile(r"((?:^|&)(?:client_secret|client_assertion|assertion|password|refresh_token)=)[^&]*")
_SECRET_HEADERS = {"authorization", "cookie", "set-cookie", "proxy-authorization"}


class HarFile:
    """A HAR file that grows by one entry a call."""

    def __init__(self, path: Path) -> None:
        """Start the file anew; raises OSError when it cannot be written."""
        self._file = path.open("wb")
        log = {"version": "1.2", "creator": {"name": "turnaround sandbox tenant", "version": "1"}, "entries": []}
        self._file.write(json.dumps({"log": log}).removesuffix("]}}").encode() + _TAIL)
        self._file.flush()
        self._entries = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def add(
        self,
        *,
        began: datetime,
        took_ms: float,
        method: str,
        url: str,
        request_headers: Iterable[tuple[str, str]],
        request_body: bytes,
        status: int,
        response_headers: Iterable[tuple[str, str]],
        response_body: bytes,
    ) -> None:
        """Append one call; a status of 0 stands for a connection that was cut."""
        headers = list(request_headers)
        answered = list(response_headers)
        body = redact(request_body.decode("utf-8", "replace"))
        text = redact(response_body.decode("utf-8", "replace"))
        request: Json = {
            "method": method,
            "url": url,
            "httpVersion": "HTTP/1.1",
            "cookies": [],
            "headers": _pairs(headers),
            "queryString": _pairs(parse_qsl(urlsplit(url).query, keep_blank_values=True)),
            "headersSize": -1,
            "bodySize": len(request_body),
        }
        if request_body:
            request["postData"] = {"mimeType": _header(headers, "content-type"), "params": [], "text": body}
        entry: Json = {
            "startedDateTime": began.isoformat(timespec="milliseconds"),
            "time": took_ms,
            "request": request,
            "response": {
                "status": status,
                "statusText": HTTPStatus(status).phrase if status else "connection cut",
                "httpVersion": "HTTP/1.1",
                "cookies": [],
                "headers": _pairs(answered),
                "content": {
                    "size": len(response_body),
                    "mimeType": _header(answered, "content-type") or "x-unknown",
                    "text": text,
                },
                "redirectURL": "",
                "headersSize": -1,
                "bodySize": len(response_body),
            },
            "cache": {},
            "timings": {"send": 0, "wait": took_ms, "receive": 0},
        }
        self._file.seek(-len(_TAIL), 2)
        comma = b",\n" if self._entries else b"\n"
        self._file.write(comma + json.dumps(entry).encode() + _TAIL)
        self._file.flush()
        self._entries += 1


def redact(text: str) -> str:
    """Leave tokens and client secrets out of a body, JSON or form."""
    text = _SECRETS.sub(lambda match: f"{match[1] or match[2]}REDACTED", text)
    return _FORM_SECRETS.sub(r"\1REDACTED", text) if not text.lstrip().startswith(("{", "[", "<")) else text


def _pairs(pairs: Iterable[tuple[str, str]]) -> list[Json]:
    return [{"name": name, "value": "REDACTED" if name.lower() in _SECRET_HEADERS else value} for name, value in pairs]


def _header(headers: list[tuple[str, str]], name: str) -> str:
    return next((value for key, value in headers if key.lower() == name), "")
