"""The part of msgraph-sdk that Turnaround uses: its request builders and its HTTP client.

Importing this module imports msgraph-sdk, which takes a third of a second; only `GraphIntune.create` does so. Nothing
here lets the SDK repeat a call, follow a redirect, or read an answer: each of these can turn one reset into two, or a
failure into a success.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

import httpx
from kiota_abstractions.authentication import AuthenticationProvider
from kiota_abstractions.base_request_configuration import RequestConfiguration
from kiota_abstractions.method import Method
from kiota_abstractions.request_information import RequestInformation
from kiota_authentication_azure.azure_identity_authentication_provider import AzureIdentityAuthenticationProvider
from kiota_http.kiota_client_factory import KiotaClientFactory
from kiota_http.middleware import RedirectHandler, RetryHandler, UrlReplaceHandler
from kiota_http.observability_options import ObservabilityOptions
from msgraph.generated.device_management.managed_devices.item.managed_device_item_request_builder import (
    ManagedDeviceItemRequestBuilder,
)
from msgraph.generated.device_management.managed_devices.item.wipe.wipe_post_request_body import WipePostRequestBody
from msgraph.generated.device_management.managed_devices.managed_devices_request_builder import (
    ManagedDevicesRequestBuilder,
)
from msgraph.generated.device_management.windows_autopilot_device_identities import (
    windows_autopilot_device_identities_request_builder as autopilot_builder,
)
from msgraph.generated.devices.devices_request_builder import DevicesRequestBuilder
from msgraph.graph_request_adapter import GraphRequestAdapter
from msgraph.graph_service_client import GraphServiceClient
from msgraph_core import GraphClientFactory  # type: ignore[import-untyped]  # it ships no py.typed

from shared.domain.ids import ManagedDeviceId
from shared.domain.orders import Order
from shared.graph.answers import APPROVAL_HEADER
from shared.graph.decode import guid
from shared.graph.endpoint import GraphEndpoint
from shared.graph.finding import Collection, Question
from shared.graph.membership import Kind
from shared.graph.membership import Question as MembershipQuestion

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

FACTS = [
    "id",
    "deviceName",
    "serialNumber",
    "azureADDeviceId",
    "operatingSystem",
    "lastSyncDateTime",
    "enrolledDateTime",
    "managementState",
    "userId",
    "model",
    "manufacturer",
    "joinType",
    "osVersion",
    "skuFamily",
    "managementAgent",
]
"""What is asked of a managed device, always of Graph's beta: v1.0 has neither joinType nor skuFamily."""
ALONE = [*FACTS, "deviceActionResults"]
"""What is asked of one managed device by its id; lists leave the action results empty."""
SIGHT = [
    "id",
    "lastSyncDateTime",
    "managementState",
    "userId",
    "deviceActionResults",
    "azureADDeviceId",
    "enrolledDateTime",
]
_ENTRA = ["id", "deviceId", "trustType", "accountEnabled"]

_BLANK = "5a5a5a5a-0000-4000-8000-000000000000"
"""Stands for the value in a URL that is built once by the SDK and filled for each call."""
_LONGEST_JUSTIFICATION = 1000
"""Bytes. Intune was seen to refuse more than 1,024 characters (400)."""

_ENCODED_NAME = re.compile(r"([?&])%24")


@dataclass(frozen=True, slots=True)
class Call:
    """One call, as an item of a `$batch` or by itself."""

    method: str
    path: str
    """With the query, from behind the API's version."""
    template: str
    """The path without any value: for logs."""
    body: Mapping[str, object] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    beta: bool = False
    """Whether only Graph's beta answers it."""

    def filled(self, value: str) -> "Call":
        """Give this call about a value instead of about nothing: percent-encoded as RFC 6570 has it."""
        return replace(self, path=self.path.replace(_BLANK, quote(value, safe="", errors="replace")))


def literal(value: str) -> str:
    """Write a text as OData string literal."""
    return "'" + value.replace("'", "''") + "'"


class Sdk:
    """Builds calls and turns them into HTTP requests with a token."""

    def __init__(
        self, endpoint: GraphEndpoint, credential: "AsyncTokenCredential", transport: httpx.AsyncBaseTransport
    ) -> None:
        # UrlReplaceHandler goes too: it writes whole URLs, with serial numbers in them, to traces, and only serves
        # "/me". trust_env off: the transport alone says how Graph is reached.
        middleware = [
            handler
            for handler in KiotaClientFactory.get_default_middleware(None)
            if not isinstance(handler, RetryHandler | RedirectHandler | UrlReplaceHandler)
        ]
        client = httpx.AsyncClient(
            transport=transport,
            timeout=httpx.Timeout(100, connect=10, pool=30),
            follow_redirects=False,
            trust_env=False,
        )
        self.http: httpx.AsyncClient = GraphClientFactory.create_with_custom_middleware(middleware, client=client)
        # Without continuous access evaluation: its answer to a revoked token is a 401 that wants the call sent again.
        provider = AzureIdentityAuthenticationProvider(
            credential, scopes=[endpoint.scope], allowed_hosts=[endpoint.host], is_cae_enabled=False
        )
        self._endpoint = endpoint
        self._v1 = self._adapter(provider, "v1.0")
        self._beta = self._adapter(provider, "beta")
        self._client = GraphServiceClient(request_adapter=self._v1)
        # The SDK takes its time to build a call: each kind is built once. A decorator would keep every Sdk for ever.
        self._wipe_of, self._sync = cache(self._build_wipe), cache(self._build_sync)
        self._device, self._question = cache(self._build_device), cache(self._build_question)

    def _adapter(self, provider: AuthenticationProvider, version: str) -> GraphRequestAdapter:
        adapter = GraphRequestAdapter(provider, client=self.http)
        adapter.base_url = f"{self._endpoint.origin}/{version}"
        adapter.observability_options = ObservabilityOptions(include_euii_attributes=False)
        return adapter

    def reset(self, order: Order) -> Call:
        """Build an Autopilot Reset: a wipe that keeps the enrolment and not the user's data.

        Both flags are stated: the SDK's defaults, and Graph's, mean a full wipe. Raises ValueError for an order about
        what is no device id.
        """
        return self._wipe(order, "Autopilot Reset", keep_enrollment_data=True)

    def wipe(self, order: Order) -> Call:
        """Build a full wipe, with both flags stated. Raises ValueError for an order about what is no device id."""
        return self._wipe(order, "Full wipe", keep_enrollment_data=False)

    def _wipe(self, order: Order, default_why: str, *, keep_enrollment_data: bool) -> Call:
        call = self._wipe_of(keep_enrollment_data).filled(_guid(order.device))
        return replace(call, headers=_approval(order, default_why))

    def _build_wipe(self, keep_enrollment_data: bool) -> Call:
        body = WipePostRequestBody(keep_enrollment_data=keep_enrollment_data, keep_user_data=False)
        item = self._client.device_management.managed_devices.by_managed_device_id(_BLANK)
        return _call(item.wipe.to_post_request_information(body))

    def sync(self, device: ManagedDeviceId) -> Call:
        """Build the order to check in. Raises ValueError for what is no device id."""
        return self._sync().filled(_guid(device))

    def _build_sync(self) -> Call:
        item = self._client.device_management.managed_devices.by_managed_device_id(_BLANK)
        return _call(item.sync_device.to_post_request_information())

    def device(self, device: str, select: Sequence[str]) -> Call:
        """Build the GET of one managed device. Raises ValueError for what is no device id."""
        return self._device(tuple(select)).filled(_guid(device))

    def _build_device(self, select: tuple[str, ...]) -> Call:
        query = ManagedDeviceItemRequestBuilder.ManagedDeviceItemRequestBuilderGetQueryParameters(select=list(select))
        item = self._client.device_management.managed_devices.by_managed_device_id(_BLANK)
        return _call(item.to_get_request_information(RequestConfiguration(query_parameters=query)))

    def facts(self, device: str) -> Call:
        """Build the GET of one managed device with all that is asked of it. Raises ValueError for what is no id."""
        return replace(self.device(device, ALONE), beta=True)

    def devices(self, where: str | None, select: Sequence[str]) -> Call:
        """Build the GET of the managed devices for which a filter holds."""
        query = ManagedDevicesRequestBuilder.ManagedDevicesRequestBuilderGetQueryParameters(
            filter=where, select=list(select)
        )
        builder = self._client.device_management.managed_devices
        return _call(builder.to_get_request_information(RequestConfiguration(query_parameters=query)))

    def changed_since(self, since: datetime) -> Call:
        """Build the GET of the managed devices that have synced after a time, which is cut to seconds."""
        where = f"lastSyncDateTime gt {since:%Y-%m-%dT%H:%M:%SZ}"
        return self.devices(where, ["id", "lastSyncDateTime", "managementState", "userId", "operatingSystem"])

    def identities(self, where: str | None) -> Call:
        """Build the GET of Autopilot device identities.

        Without $select: Graph spells one property in two ways, and refuses a $select of a property it does not know.
        """
        builder = autopilot_builder.WindowsAutopilotDeviceIdentitiesRequestBuilder
        query = builder.WindowsAutopilotDeviceIdentitiesRequestBuilderGetQueryParameters(filter=where)
        identities = self._client.device_management.windows_autopilot_device_identities
        return _call(identities.to_get_request_information(RequestConfiguration(query_parameters=query)))

    def entra_devices(self, where: str | None, top: int | None = None) -> Call:
        """Build the GET of Entra devices."""
        query = DevicesRequestBuilder.DevicesRequestBuilderGetQueryParameters(filter=where, select=_ENTRA, top=top)
        return _call(self._client.devices.to_get_request_information(RequestConfiguration(query_parameters=query)))

    def entra_among(self, ids: Sequence[str]) -> Call:
        """Build the GET of the Entra devices with these device ids."""
        return self.entra_devices(" or ".join(f"deviceId eq {literal(one)}" for one in ids))

    def audits(self, action: str) -> Call:
        """Build the GET of the audited remote actions of one kind (beta).

        The filter on `action` is the one seen in use; 'or' was seen to act like 'and'. No documentation has a filter on
        the time: were it taken wrongly, a reset that was ordered would look as if it were not, and be sent again.
        """
        template = "{+baseurl}/deviceManagement/remoteActionAudits{?%24filter}"
        information = RequestInformation(Method.GET, template, {})
        information.query_parameters["%24filter"] = f"action eq {literal(action)}"
        return replace(_call(information), beta=True)

    def membership(self, question: MembershipQuestion) -> Call:
        """Build the call that answers a question about groups: a read, also where it is a POST.

        Raises ValueError for what is no id.
        """
        about = _guid(question.id)
        if question.kind is Kind.GROUP:
            return Call("GET", f"/groups/{about}?$select=id,visibility", "/groups/{group-id}")
        template = {
            Kind.DEVICE: "/devices(deviceId='{id}')/checkMemberGroups",
            Kind.USER: "/users/{id}/checkMemberGroups",
        }[question.kind]
        body = {"groupIds": [_guid(group) for group in question.groups]}
        return Call("POST", template.replace("{id}", about), template, body)

    def overview(self) -> Call:
        """Build the GET of the counts of managed devices."""
        path = "/deviceManagement/managedDeviceOverview"
        return Call("GET", path, path)

    def approvals(self, code: str | None = None) -> Call:
        """Build the GET of the requests for Multi Admin Approval (beta): of all, or of the one with a code.

        The filter is the one of learn.microsoft.com/intune/fundamentals/role-based-access-control/
        multi-admin-approval-graph-api. Without $select, since the SDK for beta knows no `requestId`.
        """
        template = "{+baseurl}/deviceManagement/operationApprovalRequests{?%24filter}"
        information = RequestInformation(Method.GET, template, {})
        if code is not None:
            information.query_parameters["%24filter"] = f"requestId eq {literal(code)}"
        return replace(_call(information), beta=True)

    def question(self, question: Question) -> Call:
        """Build the call that answers a question about devices.

        The filters are those that the schema's descriptions allow (managedDevice) or that are seen to work
        (contains on serialNumber for Autopilot identities, whose eq is refused).
        """
        if question.collection is Collection.MANAGED and question.by == "id":
            return self.facts(question.value)
        # Quotes are doubled as in `literal`, and percent-encoded with the rest.
        return self._question(question.collection, question.by).filled(question.value.replace("'", "''"))

    def _build_question(self, collection: Collection, by: str) -> Call:
        match collection:
            case Collection.MANAGED:
                return replace(self.devices(f"{by} eq {literal(_BLANK)}", FACTS), beta=True)
            case Collection.AUTOPILOT:
                return self.identities(f"contains({by},{literal(_BLANK)})")
            case Collection.ENTRA:
                return self.entra_devices(f"{by} eq {literal(_BLANK)}")
        raise ValueError(collection)

    def whole(self, collection: Collection, *, windows_only: bool) -> Call:
        """Build the call that lists a collection."""
        where = "operatingSystem eq 'Windows'" if windows_only else None
        match collection:
            case Collection.MANAGED:
                return replace(self.devices(where, FACTS), beta=True)
            case Collection.AUTOPILOT:
                return self.identities(None)
            case Collection.ENTRA:
                return self.entra_devices(where, top=999)
        raise ValueError(collection)

    async def get(self, call: Call, request_id: str) -> httpx.Request:
        """Make a call of its own into a request. Raises whatever the credential raises."""
        adapter = self._beta if call.beta else self._v1
        information = RequestInformation(Method.GET, None, {})
        information.url = f"{adapter.base_url}{call.path}"
        return await self._signed(adapter, information, request_id)

    async def follow(self, link: str, request_id: str) -> httpx.Request:
        """Make the request for an `@odata.nextLink`. Raises ValueError for one that leads to another host."""
        target, home = httpx.URL(link), httpx.URL(self._endpoint.origin)
        if (target.scheme, target.host, target.port) != (home.scheme, home.host, home.port):
            raise ValueError("a next page on another host")
        information = RequestInformation(Method.GET, None, {})
        information.url = link
        return await self._signed(self._v1, information, request_id)

    async def batch(self, items: Mapping[str, tuple[Call, str]], request_id: str, *, beta: bool) -> httpx.Request:
        """Make one `$batch` of calls with their client-request-ids. Raises whatever the credential raises.

        As raw JSON: the SDK's own batch drops the bodies of its items and forgets their ids.
        """
        requests = [
            {
                "id": key,
                "method": call.method,
                "url": call.path,
                "headers": {"client-request-id": own_id, **call.headers}
                | ({"Content-Type": "application/json"} if call.body is not None else {}),
            }
            | ({"body": call.body} if call.body is not None else {})
            for key, (call, own_id) in items.items()
        ]
        information = RequestInformation(Method.POST, "{+baseurl}/$batch", {})
        information.content = json.dumps({"requests": requests}).encode()
        information.headers.add("Content-Type", "application/json")
        return await self._signed(self._beta if beta else self._v1, information, request_id)

    async def _signed(
        self, adapter: GraphRequestAdapter, information: RequestInformation, own_id: str
    ) -> httpx.Request:
        # convert_to_native_async does not do this, and without a host it adds no token.
        information.path_parameters["baseurl"] = adapter.base_url
        information.headers.add("Accept", "application/json")
        information.headers.add("client-request-id", own_id)
        request = cast("httpx.Request", await adapter.convert_to_native_async(information))
        if not request.headers.get("Authorization"):
            raise ValueError("the credential gave no token for Microsoft Graph")
        return request


def _guid(device: str) -> str:
    """Give an id as it may stand in a URL: nothing else may become part of one."""
    if (known := guid(device)) is None:
        raise ValueError("not the id of a device, user or group")
    return known


def _approval(order: Order, default_why: str) -> dict[str, str]:
    """Give the header for Multi Admin Approval: why, or the code under which this very call was agreed to.

    A call with neither is refused; elsewhere both are ignored. The code stands in the justification's stead, which
    would file another request. Source: learn.microsoft.com/intune/fundamentals/role-based-access-control/
    multi-admin-approval-graph-api, steps 1 and 4.
    """
    if order.approval_code:
        return {APPROVAL_HEADER: order.approval_code}
    why = (order.justification.strip() or default_why).encode("utf-8", "replace")[:_LONGEST_JUSTIFICATION]
    why = why.decode("utf-8", "ignore").encode()  # no half a character at the end
    return {"x-msft-approval-justification": base64.b64encode(why).decode()}


def _call(information: RequestInformation) -> Call:
    information.path_parameters["baseurl"] = ""
    template = (information.url_template or "").removeprefix("{+baseurl}").split("{?")[0].replace("%2D", "-")
    # The SDK's transport decodes the names of parameters ($filter); an item of a $batch does not pass through it.
    path = _ENCODED_NAME.sub(r"\1$", information.url)
    method = information.http_method.value if information.http_method else "GET"
    return Call(method, path, template, json.loads(information.content) if information.content else None)
