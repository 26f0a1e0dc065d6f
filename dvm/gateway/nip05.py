"""Who we are under our domain: `/.well-known/nostr.json` (NIP-05)."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from dvm.gateway.answers import A_MINUTE, public_json
from dvm.gateway.site import Site


def routes(site: Site) -> APIRouter:
    """Our name and `_`, the domain itself; with `?name=` only that one."""
    router = APIRouter()
    names = [each for each in (site.name, "_") if each]

    @router.get("/.well-known/nostr.json", name="nip05")
    async def nostr_json(request: Request) -> Response:
        wanted = request.query_params.get("name")
        found = {name: site.pubkey for name in names if wanted in (None, name)}
        relays = {site.pubkey: list(site.relays)} if found and site.relays else {}
        return public_json({"names": found, "relays": relays}, cache=A_MINUTE)

    return router
