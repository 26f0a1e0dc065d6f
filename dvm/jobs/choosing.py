"""Which models a job may be answered by, and in which order they are asked."""

from __future__ import annotations

from dvm.jobs.kinds import Ask, Service
from dvm.models.counting import approximate_tokens
from dvm.models.router import Router
from dvm.nip90 import InvalidRequest, JobRequest
from dvm.pricing import quote

AUTO = "auto"
"""The value of the param `model` for "whichever costs the least for this"; unless a model has that very name."""


def choices(service: Service, wanted: str | None) -> tuple[str, ...]:
    """The models that the customer's choice leaves: those of that name, ours or their maker's, and no others; all
    of them where there is no choice, or AUTO. Raises InvalidRequest."""
    wanted = (wanted or "").strip()
    found = tuple(name for name in service.models if wanted in (name, service.names.get(name)))
    if found and wanted:
        return found
    if wanted in ("", AUTO):
        return service.models
    names = service.models if len(service.models) == 1 else (*service.models, AUTO)
    raise InvalidRequest("invalid-param", f"model: one of {', '.join(names)} expected")


def in_order(router: Router, service: Service, request: JobRequest, ask: Ask, first: str | None = None) -> list[str]:
    """Those that can answer this, in the order in which they are asked: `first`, then the service's order; or for
    AUTO by what they would be quoted at. Never empty. Raises InvalidRequest."""
    wanted = request.param("model")
    names = choices(service, wanted)
    auto = (wanted or "").strip() == AUTO and names == service.models

    def price(name: str) -> int:
        most = router.most_output(name, ask.max_tokens)
        return quote(service.prices[name], approximate_tokens(ask.prompt), most).msat

    output = ask.limits(1).output
    found = router.candidates(names, ask.prompt, output=output, price=price if auto else None, first=first)
    if not found and not any(router.fits(name, approximate_tokens(ask.prompt)) for name in names):
        raise InvalidRequest("prompt-too-long", f"of {', '.join(names)} none has room for it")
    if not found:
        raise InvalidRequest("invalid-input", f"of {', '.join(names)} none takes such an input, or one of that size")
    return found
