"""Who we are to Microsoft Graph."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from shared.graph.endpoint import GraphEndpoint

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken
    from azure.core.credentials_async import AsyncTokenCredential


class CredentialError(ValueError):
    """These settings give no credential that may be used with this endpoint. The message is for people."""


def credential_for(
    endpoint: GraphEndpoint,
    *,
    client_id: str | None,
    static_token: str | None,
    environment: Mapping[str, str],
) -> "AsyncTokenCredential":
    """Give the credential for this endpoint; the caller closes it.

    With `static_token`, that token, on loopback only. In Azure (where `IDENTITY_ENDPOINT` is set: App Service's and
    Functions' managed identity) the managed identity with this client id, or the system-assigned one. Elsewhere
    DefaultAzureCredential without managed identity: environment, Azure CLI and the other tools of a developer.

    Raises CredentialError for a static token with a Graph that is not on this machine, and for a Graph on this machine
    without one.
    """
    if static_token is not None:
        if not endpoint.loopback:
            raise CredentialError(
                f"A static token is for the sandbox only, and {endpoint.origin} is not on this machine. Remove the "
                "static token setting, so that the managed identity is used."
            )
        if not static_token.strip():
            raise CredentialError("The static token is empty. Give any text: the sandbox only wants one to be there.")
        return StaticTokenCredential(static_token.strip())
    if endpoint.loopback:
        raise CredentialError(
            f"{endpoint.origin} is on this machine, and no sign-in service gives tokens for it. Set a static token."
        )
    # Lazily: azure.identity.aio costs half a second of cold start.
    from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential

    if environment.get("IDENTITY_ENDPOINT"):
        return ManagedIdentityCredential(client_id=client_id) if client_id else ManagedIdentityCredential()
    return DefaultAzureCredential(authority=endpoint.authority, exclude_managed_identity_credential=True)


class StaticTokenCredential:
    """Always the same token, for a Graph that does not look at it. `credential_for` keeps it on loopback."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def get_token(
        self,
        *scopes: str,  # noqa: ARG002 - the protocol's
        claims: str | None = None,  # noqa: ARG002 - the protocol's
        tenant_id: str | None = None,  # noqa: ARG002 - the protocol's
        enable_cae: bool = False,  # noqa: ARG002 - the protocol's
        **kwargs: object,  # noqa: ARG002 - the protocol's
    ) -> "AccessToken":
        """Give the token."""
        from azure.core.credentials import AccessToken

        return AccessToken(self._token, int(time.time()) + 3600)

    async def close(self) -> None:
        """Nothing to close."""

    async def __aenter__(self) -> "StaticTokenCredential":
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.close()
