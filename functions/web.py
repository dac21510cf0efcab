"""HTTP trigger: the API, an ASGI app behind one route."""

from typing import TYPE_CHECKING

import azure.functions as func

from shared import wiring

if TYPE_CHECKING:  # FastAPI costs half a second of cold start: only an instance that serves HTTP pays
    from azure.functions import AsgiMiddleware

blueprint = func.Blueprint()
_served: "list[AsgiMiddleware]" = []


@blueprint.function_name("web")
@blueprint.route(route="api/{*path}", auth_level=func.AuthLevel.FUNCTION)
async def web(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    if not _served:
        from azure.functions import AsgiMiddleware

        from web.api import create

        _served.append(AsgiMiddleware(create(wiring.store(), wiring.queues())))
    response: func.HttpResponse = await _served[0].handle_async(req, context)
    return response
