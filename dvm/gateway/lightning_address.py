"""Our Lightning address: LUD-06 and LUD-16 with comments (LUD-12) and zaps (NIP-57)."""

from __future__ import annotations

import re
from typing import Protocol

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from dvm.gateway.answers import A_MINUTE, NO_STORE, lnurl_error, public_json
from dvm.gateway.limits import Limit
from dvm.gateway.site import Site
from dvm.jobs.payments.zaps import NoInvoice

CALLBACK = "/lnurlp/{name}/callback"
_AMOUNT = re.compile(r"[1-9][0-9]{0,15}").fullmatch


class ZapDesk(Protocol):
    """Who makes the invoices: `dvm.jobs.payments.zaps.Zaps`. Amounts in msat, `pubkey` in hex."""

    @property
    def pubkey(self) -> str: ...
    @property
    def min_msat(self) -> int: ...
    @property
    def max_msat(self) -> int: ...
    @property
    def comment_chars(self) -> int: ...
    @property
    def metadata(self) -> str: ...

    async def invoice(self, msat: int, zap_request: str | None = None, comment: str = "") -> str:
        """A BOLT 11 invoice. Raises NoInvoice, whose text the payer may read."""
        ...


def routes(site: Site, desk: ZapDesk, limit: Limit) -> APIRouter:
    """`/.well-known/lnurlp/<name>` and the callback that it names."""
    router = APIRouter()

    @router.get("/.well-known/lnurlp/{name}", name="lnurlp")
    async def offer(name: str) -> Response:
        if name != site.name:
            return lnurl_error("nobody of that name is paid here", status=404)
        said = {
            "tag": "payRequest",
            "callback": site.at(CALLBACK.format(name=site.name)),
            "minSendable": _whole_sats(desk.min_msat),
            "maxSendable": desk.max_msat,
            "metadata": desk.metadata,
            "commentAllowed": desk.comment_chars,
            "allowsNostr": True,
            "nostrPubkey": desk.pubkey,
        }
        return public_json(said, cache=A_MINUTE)

    @router.get(CALLBACK, name="lnurlp-callback")
    async def pay(request: Request, name: str) -> Response:
        if name != site.name:
            return lnurl_error("nobody of that name is paid here", status=404)
        if limit.exceeded(request):
            return lnurl_error("too many invoices were asked for: try again in a minute", status=429)
        query = request.query_params
        if any(len(query.getlist(key)) > 1 for key in ("amount", "nostr", "comment")):
            return lnurl_error("a parameter is given twice")
        amount, comment = query.get("amount", ""), query.get("comment", "")
        if not _AMOUNT(amount):
            return lnurl_error("amount: a whole number of millisatoshi expected")
        if len(comment) > desk.comment_chars:
            return lnurl_error(f"comment: at most {desk.comment_chars} characters")
        try:
            bolt11 = await desk.invoice(int(amount), query.get("nostr"), comment)
        except NoInvoice as error:
            return lnurl_error(str(error))
        return public_json({"pr": bolt11, "routes": []}, cache=NO_STORE)

    return router


def _whole_sats(msat: int) -> int:
    return -(-msat // 1000) * 1000
