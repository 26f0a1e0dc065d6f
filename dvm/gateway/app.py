"""The application: its groups of routes, and what holds for every request."""

from __future__ import annotations

import logging
from collections.abc import Callable

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dvm.gateway import health, lightning_address, nip05
from dvm.gateway.answers import NO_STORE, json
from dvm.gateway.health import Facts
from dvm.gateway.lightning_address import ZapDesk
from dvm.gateway.limits import Limit
from dvm.gateway.site import Site

__all__ = ["App", "Site", "make_app"]

log = logging.getLogger(__name__)

MAX_QUERY = 50_000  # bytes: a zap request of 16 KiB, every character of it escaped
MAX_PATH = 1_000

App = ASGIApp


def make_app(
    site: Site,
    *,
    desk: ZapDesk | None = None,
    healthy: Callable[[], str | None] = lambda: None,
    facts: Facts = dict,
    registry: CollectorRegistry | None = None,
    requests: Limit | None = None,
    invoices: Limit | None = None,
) -> App:
    """Everything that the gateway serves; without a `desk` there is no Lightning address here.

    `registry` collects the metrics, one of its own if not given. `requests` bounds all that is asked,
    `invoices` those asked for, each of which costs the wallet something.
    """
    registry = registry or CollectorRegistry()
    health.observe(registry, facts)
    # Nothing generated: no pages that describe the interface, and no error texts but our own.
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.include_router(nip05.routes(site))
    app.include_router(health.routes(site, healthy, registry))
    if desk is not None:
        app.include_router(lightning_address.routes(site, desk, invoices or Limit(30, 600)))
    app.add_exception_handler(404, _error)
    app.add_exception_handler(405, _error)
    app.add_exception_handler(Exception, _failed)
    return _Guard(app, requests or Limit(600, 12_000), registry)


async def _error(_request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return json({"error": "method not allowed" if status == 405 else "not found"}, cache=NO_STORE, status=status)


async def _failed(_request: Request, _error: Exception) -> Response:
    """The client learns nothing of it; `_Guard` logs it."""
    return json({"error": "internal"}, cache=NO_STORE, status=500)


class _Guard:
    """Around the application: bounds, a count of what was asked, and the last word on what went wrong."""

    def __init__(self, app: ASGIApp, limit: Limit, registry: CollectorRegistry) -> None:
        self._app = app
        self._limit = limit
        self._count = Counter(
            "dvm_http_requests", "HTTP requests by route and status", ("route", "status"), registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # no websockets here
            return
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        refused = self._refusal(scope)
        try:
            await (refused or self._app)(scope, receive, sending)
        except Exception:  # whatever it was, the next request is served
            log.exception("a request failed", extra={"path": scope["path"][:MAX_PATH]})
        route = scope.get("route")
        self._count.labels(getattr(route, "name", "none"), str(status)).inc()

    def _refusal(self, scope: Scope) -> Response | None:
        if len(scope.get("query_string", b"")) > MAX_QUERY or len(scope["path"]) > MAX_PATH:
            return json({"error": "the address is too long"}, cache=NO_STORE, status=414)
        if self._limit.exceeded(Request(scope)):
            return json({"error": "too many requests"}, cache=NO_STORE, status=429, headers={"Retry-After": "60"})
        return None
