"""The ASGI application with all endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from charrnn_runtime.serve import page, trace
from charrnn_runtime.serve.api_errors import (
    ApiError,
    json_response,
    on_api_error,
    on_bug,
    on_http_error,
)
from charrnn_runtime.serve.completions import completions
from charrnn_runtime.serve.middleware import AccessLog, Guard
from charrnn_runtime.serve.monitoring import health, metrics
from charrnn_runtime.serve.openapi import openapi
from charrnn_runtime.serve.service import Models, Served, Service, service_of
from charrnn_runtime.serve.settings import ServeSettings
from charrnn_runtime.serve.tokens import detokenize, tokenize, tokenizer_info


def create_app(models: Models, settings: ServeSettings | None = None) -> Starlette:
    """An ASGI application that serves models.

    Args:
        models: the models by name, or functions that load them, which are called at startup.
        settings: limits and access control; the defaults if omitted.
    """
    service = Service(models, settings or ServeSettings())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        loading = asyncio.create_task(service.load())
        yield
        loading.cancel()
        await service.close()

    app = Starlette(
        routes=[
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", list_models, methods=["GET"]),
            Route("/v1/models/{name:path}", show_model, methods=["GET"]),
            Route("/tokenize", tokenize, methods=["POST"]),
            Route("/detokenize", detokenize, methods=["POST"]),
            Route("/tokenizer_info", tokenizer_info, methods=["GET"]),
            Route("/health", health, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            Route("/openapi.json", openapi, methods=["GET"]),
            *trace.routes(),
            *page.routes(),
        ],
        middleware=_middleware(service.settings),
        exception_handlers={ApiError: on_api_error, HTTPException: on_http_error, Exception: on_bug},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.service = service
    return app


def _middleware(settings: ServeSettings) -> list[Middleware]:
    """The middleware, outermost first."""
    passed = [Middleware(AccessLog)]
    if settings.cors:
        passed.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=["Retry-After"],
            )
        )
    guard = Middleware(Guard, keys=settings.api_keys, origins=settings.cors, hosts=settings.hosts)
    return [*passed, guard]


async def list_models(request: Request) -> Response:
    """List the models."""
    service = service_of(request)
    service.check_open()
    return json_response({"object": "list", "data": [_described(each) for each in service.models.values()]})


async def show_model(request: Request) -> Response:
    """Describe a model."""
    return json_response(_described(service_of(request).find(request.path_params["name"])))


def _described(served: Served) -> dict[str, object]:
    info = served.model.info
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "charrnn",
        "cell": info.cell,
        "layers": info.layers,
        "hidden_size": info.hidden_size,
        "level": info.vocabulary.level,
        "vocabulary_size": len(info.vocabulary),
        "parameters": info.parameters,
        "precision": info.precision,
    }


async def chat(request: Request) -> Response:
    """Explain that chat is not supported."""
    raise ApiError(
        404,
        "these models continue text and do not support chat; use /v1/completions with the text so far as "
        "the prompt",
        code="chat_not_supported",
    )
