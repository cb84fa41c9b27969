"""`GET /v1/workflows/{id}/graph`: as JSON, or as a picture."""

from __future__ import annotations

from uuid import UUID

from flask import Response, request

from api.answers import answer, read_query
from api.auth import tenant_id
from api.operations import Operation
from api.services import services
from api.v1.workflow_models import GraphQuery, WorkflowGraph
from jobplatform.domain.access import Scope
from jobplatform.observe.graph_svg import draw
from jobplatform.usecases.read_workflows import read_graph

SVG = "image/svg+xml"


def get_graph(workflow_id: UUID) -> Response:
    """Read the steps of a workflow, with states and times, and which waits for which; `?format=svg` draws it."""
    query = read_query(GraphQuery)
    graph = read_graph(services().ledger, tenant_id(), workflow_id)
    wants_picture = request.accept_mimetypes.best_match(["application/json", SVG]) == SVG
    if query.format == "svg" or (query.format is None and wants_picture):
        headers = {
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
        }
        return Response(draw(graph.as_dict()), 200, headers, mimetype=SVG)
    return answer(graph.as_dict())


OPERATION = Operation(
    "GET",
    "/workflows/<uuid:workflow_id>/graph",
    get_graph,
    "Read the graph of a workflow",
    "workflows",
    Scope.READ,
    answer=WorkflowGraph,
    query=GraphQuery,
    problems=(404, 422),
)
