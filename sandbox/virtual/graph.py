"""The simulated tenant as a transport of httpx: the SDK's requests reach it without a network."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from urllib.parse import parse_qsl

import httpx

from sandbox.tenant.calls import Call
from sandbox.tenant.graph import Tenant


class TenantTransport(httpx.AsyncBaseTransport):
    """Hands each request to the tenant. `delay` gives the seconds that a way there, or back, takes."""

    def __init__(self, tenant: Tenant, clock: Callable[[], datetime], delay: Callable[[], float]) -> None:
        self._tenant = tenant
        self._clock = clock
        self._delay = delay

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The tenant's answer. Raises httpx.ReadError where the connection is cut instead."""
        call = Call(
            method=request.method,
            path=request.url.raw_path.decode("ascii").split("?")[0],
            query=tuple(parse_qsl(request.url.query.decode("ascii"), keep_blank_values=True)),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=await request.aread(),
            base_url=f"{request.url.scheme}://{request.url.netloc.decode('ascii')}",
        )
        await asyncio.sleep(self._delay())
        answer = self._tenant.answer(call, self._clock())
        await asyncio.sleep(self._delay())
        if answer.cut:
            raise httpx.ReadError("the connection was cut", request=request)
        return httpx.Response(answer.status, headers=answer.headers, content=answer.encoded(), request=request)
