"""GET /health and /metrics: readiness and metrics of the server."""

from __future__ import annotations

import asyncio

from prometheus_client import generate_latest
from starlette.requests import Request
from starlette.responses import Response

from charrnn_runtime.serve.api_errors import json_response
from charrnn_runtime.serve.service import service_of


async def health(request: Request) -> Response:
    """Whether the server accepts requests: 503 while it loads models or shuts down."""
    service_of(request).check_open()
    return json_response({"status": "ok"})


async def metrics(request: Request) -> Response:
    """The metrics in Prometheus' text format."""
    text = await asyncio.to_thread(generate_latest, service_of(request).metrics.registry)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
