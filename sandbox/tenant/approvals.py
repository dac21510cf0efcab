"""Multi Admin Approval: a wipe that another administrator must approve before it is taken.

Source: https://learn.microsoft.com/intune/intune-service/fundamentals/multi-admin-approval (Graph API section). The
first call carries x-msft-approval-justification and is intercepted; once approved, the very same call is sent again
with x-msft-approval-code.
"""

import base64
import binascii
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sandbox.tenant.calls import Call
from sandbox.tenant.devices import ID_NAMESPACE, Json
from sandbox.tenant.errors import GraphError, bad_request
from sandbox.tenant.records import exact

type Decision = Literal["needsApproval", "approved", "rejected", "cancelled", "completed", "expired"]

_LIFETIME = timedelta(days=3)
_LONGEST = 1024
"""Characters; not documented, but seen as the words of Intune's refusal in public scripts."""


@dataclass(slots=True)
class Approval:
    code: str
    path: str
    body: bytes
    asked_at: datetime
    justification: str
    status: Decision = "needsApproval"


class Approvals:
    """The approval requests of a tenant."""

    def __init__(self) -> None:
        self._by_code: dict[str, Approval] = {}

    def check(self, call: Call, now: datetime, status: int) -> None:
        """Let an approved call pass, once; raises GraphError for every other one."""
        code = call.headers.get("x-msft-approval-code")
        if code is not None:
            found = self._by_code.get(code)
            if found is None or found.path != call.path or found.body != call.body:
                raise bad_request("The approval code does not belong to this request.")
            if self._status(found, now) != "approved":
                raise self._required(found, status)
            found.status = "completed"
            return
        try:
            why = base64.b64decode(call.headers.get("x-msft-approval-justification", ""), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            why = ""
        if not why:
            raise bad_request("The header x-msft-approval-justification is required and must be Base64.")
        if len(why) > _LONGEST:
            raise bad_request(f"Decoded, x-msft-approval-justification may hold at most {_LONGEST} characters.")
        pending = [
            one
            for one in self._by_code.values()
            if one.path == call.path and self._status(one, now) in ("needsApproval", "approved")
        ]
        if pending:
            raise GraphError(409, "Conflict", "An approval request for this object is already pending.")
        code = str(uuid.uuid5(ID_NAMESPACE, f"approval/{call.path}/{len(self._by_code)}"))
        self._by_code[code] = Approval(code, call.path, call.body, now, why)
        raise self._required(self._by_code[code], status)

    def decide(self, code: str | None, decision: Decision) -> int:
        """Decide one request, or all that wait; gives how many."""
        open_ = [one for one in self._by_code.values() if one.status == "needsApproval" and code in (None, one.code)]
        for one in open_:
            one.status = decision
        return len(open_)

    def listing(self, now: datetime) -> list[Json]:
        return [
            {
                "id": one.code,
                "requestId": one.code,
                "status": self._status(one, now),
                "requestJustification": one.justification,
                "requestDateTime": exact(one.asked_at),
                "expirationDateTime": exact(one.asked_at + _LIFETIME),
            }
            for one in self._by_code.values()
        ]

    def _status(self, approval: Approval, now: datetime) -> Decision:
        late = approval.status in ("needsApproval", "approved") and now >= approval.asked_at + _LIFETIME
        return "expired" if late else approval.status

    def _required(self, approval: Approval, status: int) -> GraphError:
        message = "This request needs the approval of another administrator."
        return GraphError(status, "ApprovalRequired", message, headers={"x-msft-approval-code": approval.code})
