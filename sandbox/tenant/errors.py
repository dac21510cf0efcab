"""Graph's error bodies: the plain ones, and Intune's, which are JSON in a string, sometimes twice."""

import json
from dataclasses import dataclass, field
from http import HTTPStatus

from sandbox.tenant.devices import Json


@dataclass(slots=True)
class GraphError(Exception):
    """An answer that is an error. `message` is what stands in the body, nesting and all."""

    status: int
    code: str
    message: str
    headers: dict[str, str] = field(default_factory=dict)
    html: bool = False
    """An HTML page instead of a JSON body."""

    def body(self, date: str, request_id: str, client_request_id: str) -> Json:
        """The JSON body; the three ids and times come from the answer that carries it."""
        inner = {"date": date[:19], "request-id": request_id, "client-request-id": client_request_id}
        return {"error": {"code": self.code, "message": self.message, "innerError": inner}}


def bad_request(message: str, code: str = "BadRequest") -> GraphError:
    return GraphError(HTTPStatus.BAD_REQUEST, code, message)


def no_segment(segment: str) -> GraphError:
    return bad_request(f"Resource not found for the segment '{segment}'.")


def no_property(name: str, kind: str) -> GraphError:
    return bad_request(f"Could not find a property named '{name}' on type 'microsoft.graph.{kind}'.")


def not_allowed() -> GraphError:
    message = "Specified HTTP method is not allowed for the request target."
    return GraphError(HTTPStatus.METHOD_NOT_ALLOWED, "Request_BadRequest", message)


def intune_message(message: str, request_id: str, retry_after: int | None = None) -> str:
    """Intune's own error document, as the string that Graph puts into `message`."""
    text = (
        f"{message} - Operation ID (for customer support): 00000000-0000-0000-0000-000000000000 - "
        f"Activity ID: {request_id} - Url: https://intune.contoso.example/StatelessDeviceFEService/deviceManagement"
        "?api-version=5025-01-06"
    )
    inner = {
        "_version": 3,
        "Message": text,
        "CustomApiErrorPhrase": "",
        "RetryAfter": retry_after,
        "ErrorSourceService": "",
        "HttpHeaders": "{}",
    }
    return json.dumps(inner, indent=2).replace("\n", "\r\n")


def not_found(what: str, request_id: str) -> GraphError:
    return GraphError(HTTPStatus.NOT_FOUND, "ResourceNotFound", intune_message(f"{what} was not found", request_id))


def not_in_directory(object_id: str) -> GraphError:
    message = f"Resource '{object_id}' does not exist or one of its queried reference-property objects are not present."
    return GraphError(HTTPStatus.NOT_FOUND, "Request_ResourceNotFound", message)


def unauthenticated(message: str) -> GraphError:
    challenge = (
        'Bearer realm="", authorization_uri="https://login.contoso.example/common/oauth2/authorize", '
        'client_id="00000003-0000-0000-c000-000000000000"'
    )
    return GraphError(
        HTTPStatus.UNAUTHORIZED, "InvalidAuthenticationToken", message, headers={"WWW-Authenticate": challenge}
    )


def entra_forbidden() -> GraphError:
    return GraphError(
        HTTPStatus.FORBIDDEN, "Authorization_RequestDenied", "Insufficient privileges to complete the operation."
    )


def intune_forbidden(roles: tuple[str, ...], request_id: str, shape: str) -> GraphError:
    """An authorisation failure in one of the shapes seen: 403, 401 with "Forbidden" two strings deep, or 500."""
    message = (
        "Application is not authorized to perform this operation. Application must have one of the following scopes: "
        + ", ".join(roles)
    )
    document = intune_message(message, request_id)
    if shape == "401":
        nested = json.dumps({"ErrorCode": "Forbidden", "Message": document})
        return GraphError(HTTPStatus.UNAUTHORIZED, "UnknownError", nested)
    if shape == "500":
        return GraphError(HTTPStatus.INTERNAL_SERVER_ERROR, "InternalServerError", document)
    return GraphError(HTTPStatus.FORBIDDEN, "Forbidden", document)


def too_many(request_id: str, wait: int | None) -> GraphError:
    """429; `wait` in seconds stands in Retry-After, and never in the body, where it was null wherever seen."""
    message = intune_message("Too many requests", request_id)
    headers = {} if wait is None else {"Retry-After": str(wait)}
    return GraphError(HTTPStatus.TOO_MANY_REQUESTS, "TooManyRequests", message, headers)


def over_daily_limit(request_id: str, shape: str) -> GraphError:
    """A wipe over the tenant's daily limit. The words are made up: how Intune says it is not known."""
    if shape == "429":
        return too_many(request_id, None)
    message = intune_message("The daily limit of wipe actions for this tenant has been exceeded", request_id)
    if shape == "429_told":
        return GraphError(HTTPStatus.TOO_MANY_REQUESTS, "TooManyRequests", message)
    return bad_request(message)


def unavailable(request_id: str, wait: int | None, code: str = "ServiceUnavailable") -> GraphError:
    what = "An error has occurred" if code == "ServiceUnavailable" else f"{code} at EndExecuteAction"
    headers = {} if wait is None else {"Retry-After": str(wait)}
    return GraphError(HTTPStatus.SERVICE_UNAVAILABLE, code, intune_message(what, request_id), headers)


def without_intune(shape: str, request_id: str) -> GraphError:
    """What a tenant without Intune answers."""
    if shape == "401":
        return GraphError(HTTPStatus.UNAUTHORIZED, "UnknownError", intune_message("Unauthorized", request_id))
    if shape == "400":
        return bad_request("Resource not found for the segment 'deviceManagement'.")
    page = "<html><body><h2>Our services aren't available right now</h2></body></html>"
    return GraphError(HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailable", page, html=True)
