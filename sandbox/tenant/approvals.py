"""Multi Admin Approval: a wipe that another administrator must approve before it is taken.

The first call carries x-msft-approval-justification and is intercepted; once approved, the very same call is sent again
with x-msft-approval-code in that header's stead. Source:
https://learn.microsoft.com/intune/fundamentals/role-based-access-control/multi-admin-approval-graph-api. Public scripts
met more: a justification beside the code files another request (409), and a code that belongs to another call is
refused with a bare 403.
"""

import base64
import binascii
import re
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sandbox.tenant.calls import Call
from sandbox.tenant.devices import ID_NAMESPACE, Json
from sandbox.tenant.errors import GraphError, bad_request, intune_message
from sandbox.tenant.quirks import Quirks
from sandbox.tenant.records import exact

type Decision = Literal["approved", "rejected", "cancelled"]
type Status = Literal["needsApproval", "completed", "expired"] | Decision

_LONGEST = 1024
"""Characters of a justification, as Intune says where it is longer."""
_GUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_OPEN = ("needsApproval", "approved")
_DECISIONS: dict[str, Decision] = {"approve": "approved", "reject": "rejected"}


@dataclass(slots=True)
class Approval:
    """One request for approval, with each status that it had and since when, the oldest first."""

    code: str
    device: str
    call: tuple[str, str, bytes]
    """Method, path and body."""
    justification: str
    expires_at: datetime
    history: list[tuple[datetime, Status]]

    @property
    def asked_at(self) -> datetime:
        return self.history[0][0]

    @property
    def status(self) -> Status:
        return self.history[-1][1]

    def become(self, status: Status, at: datetime) -> None:
        self.history.append((at, status))


class Approvals:
    """The approval requests of a tenant."""

    def __init__(self) -> None:
        self._by_code: dict[str, Approval] = {}

    def check(self, call: Call, device: str, now: datetime, quirks: Quirks, request_id: str) -> Approval:
        """Give the approval under which a call is carried out; raises GraphError for a call without one."""
        self._settle(now, quirks)
        code = call.headers.get("x-msft-approval-code")
        why = call.headers.get("x-msft-approval-justification")
        if code is None or why is not None:
            raise self._file(call, device, why or "", now, quirks)
        if not _GUID.fullmatch(code.lower()):
            raise bad_request("The approval header has an invalid format, a GUID was expected.")
        found = self._by_code.get(code.lower())
        if found is not None and found.call == _essence(call):
            if found.status == "approved":
                return found
            if found.status == "needsApproval":
                raise _required(found, quirks)
        raise GraphError(403, "Forbidden", intune_message("An error has occurred", request_id))

    def _file(self, call: Call, device: str, why: str, now: datetime, quirks: Quirks) -> GraphError:
        try:
            text = base64.b64decode(why, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return bad_request("'x-msft-approval-justification' must be Base64.")
        if not text:
            return bad_request("Header 'x-msft-approval-justification' is required to request approval.")
        if len(text) > _LONGEST:
            return bad_request(f"Decoded, 'x-msft-approval-justification' may hold at most {_LONGEST} characters.")
        if any(one.device == device and one.status in _OPEN for one in self._by_code.values()):
            return GraphError(409, "Conflict", "An active Approval Request already exists for this entity.")
        code = str(uuid.uuid5(ID_NAMESPACE, f"approval/{device}/{len(self._by_code)}"))
        until = now + quirks.approval_expires_after
        self._by_code[code] = Approval(code, device, _essence(call), text, until, [(now, "needsApproval")])
        return _required(self._by_code[code], quirks)

    def decide(self, code: str | None, decision: Decision, now: datetime, quirks: Quirks) -> int:
        """Decide one request, or all that wait; gives how many. What is approved may still be cancelled."""
        self._settle(now, quirks)
        may = _OPEN if decision == "cancelled" else ("needsApproval",)
        open_ = [one for one in self._by_code.values() if one.status in may and code in (None, one.code)]
        for one in open_:
            one.become(decision, now)
        return len(open_)

    def listing(self, now: datetime, quirks: Quirks) -> list[Json]:
        """The requests as reads show them: as they were a while ago."""
        self._settle(now, quirks)
        shown: list[Json] = []
        for one in self._by_code.values():
            known = [(at, status) for at, status in one.history if at <= now - quirks.stale_reads]
            if known:
                shown.append(_shown(one, *known[-1], quirks))
        return shown

    def _settle(self, now: datetime, quirks: Quirks) -> None:
        """Let the second administrator decide, and time run out, where that is due."""
        for one in self._by_code.values():
            decides_at = one.asked_at + quirks.admin_decides_after
            decision = _DECISIONS.get(quirks.admin_decides)
            if decision and one.status == "needsApproval" and decides_at <= now and decides_at < one.expires_at:
                one.become(decision, decides_at)
            if one.status in _OPEN and one.expires_at <= now:
                one.become("expired", one.expires_at)


def _essence(call: Call) -> tuple[str, str, bytes]:
    return call.method, call.path, call.body


def _shown(approval: Approval, at: datetime, status: Status, quirks: Quirks) -> Json:
    own_id = str(uuid.uuid5(ID_NAMESPACE, f"approval-record/{approval.code}"))
    by_request = {} if quirks.approval_ids == "id" else {"requestId": approval.code}
    return {
        "id": own_id if quirks.approval_ids == "request_id" else approval.code,
        **by_request,
        "status": status,
        "requestJustification": approval.justification,
        "approvalJustification": "",
        "requiredOperationApprovalPolicyTypes": ["deviceWipe"],
        "requestDateTime": exact(approval.asked_at + quirks.clock_offset),
        "lastModifiedDateTime": exact(at + quirks.clock_offset),
        "expirationDateTime": exact(approval.expires_at + quirks.clock_offset),
    }


def _required(approval: Approval, quirks: Quirks) -> GraphError:
    """The interception. Its code stands in a header, in the words, or in both; only a 403 names it in the error's code.

    Sources: Microsoft's page has 403 ApprovalRequired; public scripts met 412 with the code BadRequest. Both show the
    approval's code in header and words; whether an item of a `$batch` keeps the header is not documented.
    """
    status = int(quirks.multi_admin_approval)
    error = {403: "ApprovalRequired", 409: "Conflict"}.get(status, "BadRequest")
    words, headers = "Approval Required. Its id is the x-msft-approval-code response header.", dict[str, str]()
    if quirks.approval_code_in != "header":
        words += f" x-msft-approval-code: {approval.code}"
    if quirks.approval_code_in != "body":
        headers["x-msft-approval-code"] = approval.code
    return GraphError(status, error, words, headers=headers)
