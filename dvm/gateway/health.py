"""For the operator's own machines: whether all is well, and numbers for Prometheus.

Both answer only who asks the listening address itself. What comes through the reverse proxy is the world, and
gets 404: how much is sold is nobody else's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from dvm.gateway.answers import NO_STORE, json
from dvm.gateway.site import Site
from dvm.jobs.watching.figures import ABOUT

Facts = Callable[[], Mapping[str, float]]
"""Numbers of this moment by name (`relays_connected`), each a gauge `dvm_<name>`. Quick: it waits for nothing."""

_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")


def routes(site: Site, healthy: Callable[[], str | None], registry: CollectorRegistry) -> APIRouter:
    """`healthy` answers None, or what is wrong."""
    router = APIRouter()

    @router.get("/health", name="health")
    async def health(request: Request) -> Response:
        if from_the_world(request, site):
            return _not_found()
        wrong = healthy()
        said = {"status": "ok"} if wrong is None else {"status": "failing", "reason": wrong}
        return json(said, cache=NO_STORE, status=200 if wrong is None else 503)

    @router.get("/metrics", name="metrics")
    async def metrics(request: Request) -> Response:
        if from_the_world(request, site):
            return _not_found()
        return Response(generate_latest(registry), 200, {"Cache-Control": NO_STORE}, CONTENT_TYPE_LATEST)

    return router


def from_the_world(request: Request, site: Site) -> bool:
    """Whether this came through the reverse proxy: it says so, or hands on the public name."""
    if any(name in request.headers for name in _FORWARDED):
        return True
    local = site.host in ("", "localhost") or site.host.replace(".", "").isdigit() or ":" in site.host
    return not local and (request.url.hostname or "").lower() == site.host


def observe(registry: CollectorRegistry, facts: Facts) -> None:
    """Export the facts, as they are whenever somebody asks."""
    registry.register(_Facts(facts))


class _Facts(Collector):
    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def collect(self) -> Iterable[Metric]:
        for name, value in self._facts().items():
            yield GaugeMetricFamily(f"dvm_{name}", ABOUT.get(name, name.replace("_", " ")), value)


def _not_found() -> Response:
    return json({"error": "not found"}, cache=NO_STORE, status=404)
