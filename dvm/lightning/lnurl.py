"""Paying to a Lightning address or an LNURL (LUD-06, LUD-12, LUD-16), whose server is a stranger's."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from dvm.lightning.bolt11 import MAX_MSAT, InvalidInvoice, decode
from dvm.lightning.lnurl_address import InvalidLnurl, pay_url
from dvm.lightning.zaps import description_hash
from dvm.nip90.wire import is_hex64
from dvm.nostr.addresses import AddressRefused, check_url
from dvm.nostr.fetching import Fetched, Fetcher, FetchError
from dvm.nostr.frames import clean

log = logging.getLogger(__name__)

MAX_METADATA_CHARS = 65_536
_MAX_COMMENT = 10_000


class LnurlError(Exception):
    """The address cannot be paid; the text says why, for people, and is bounded.

    `refused`: its server answered and said no, or can never be paid. Otherwise another attempt may succeed.
    """

    def __init__(self, text: str, *, refused: bool = True) -> None:
        super().__init__(text)
        self.refused = refused


@dataclass(frozen=True, slots=True)
class PayParams:
    """What an LNURL-pay server says of itself. Amounts in msat; `comment_chars` is 0 where it takes none.

    `nostr_pubkey` (hex) signs its zap receipts; None where it makes none (NIP-57, appendix C).
    """

    url: str
    callback: str
    min_msat: int
    max_msat: int
    metadata: str
    comment_chars: int = 0
    nostr_pubkey: str | None = None


class LnurlClient:
    """Asks LNURL servers. `allow_private` (tests, one's own machine) allows http:// and private addresses."""

    def __init__(self, *, allow_private: bool = False, timeout: float = 15.0, fetcher: Fetcher | None = None) -> None:
        self._allow_private = allow_private
        self._fetcher = fetcher or Fetcher(allow_private=allow_private, timeout=timeout)

    async def close(self) -> None:
        """Safe to call twice."""
        await self._fetcher.close()

    async def fetch(self, address: str) -> PayParams:
        """How to pay a Lightning address (`name@domain`), `lnurl1…`, `lnurlp://…` or URL. Raises LnurlError."""
        try:
            url = pay_url(address, insecure=self._allow_private)
        except InvalidLnurl as error:
            raise LnurlError(str(error)) from None
        answer = await self._ask(url, {})
        if answer.get("tag") != "payRequest":
            raise LnurlError("its server does not offer payments (LNURL-pay)")
        return self._params(url, answer)

    async def invoice(
        self,
        params: PayParams,
        msat: int,
        comment: str = "",
        *,
        network: str,
        zap_request: str | None = None,
        lnurl: str | None = None,
    ) -> str:
        """An invoice over exactly `msat` for that network, checked and not expired yet. Raises LnurlError.

        A comment is cut to what the server takes. `zap_request` is a signed 9734 as JSON, for a zap, and then
        `lnurl` the address as `lnurl1…` (NIP-57, appendix B).
        """
        if not params.min_msat <= msat <= params.max_msat:
            raise LnurlError(f"{msat} msat: it takes {params.min_msat} to {params.max_msat}")
        query = {"amount": str(msat)}
        if comment := comment[: params.comment_chars]:
            query["comment"] = comment
        if zap_request is not None:
            if params.nostr_pubkey is None:
                raise LnurlError("its server makes no zap receipts")
            query["nostr"] = zap_request
        if lnurl is not None:
            query["lnurl"] = lnurl
        answer = await self._ask(params.callback, query)
        bolt11 = answer.get("pr")
        try:
            if not isinstance(bolt11, str):
                raise InvalidInvoice("none is there")
            invoice = decode(bolt11)
        except InvalidInvoice as error:
            raise LnurlError(f"its server gave no valid invoice: {error}", refused=False) from None
        if invoice.msat != msat:
            raise LnurlError(f"asked for {msat} msat, its server gave an invoice over {invoice.msat}")
        if invoice.network != network:
            raise LnurlError(f"its server gave an invoice for {invoice.network}, and {network} is expected")
        if invoice.expires_at <= time.time():
            raise LnurlError("its server gave an invoice that has expired already", refused=False)
        if invoice.unknown_required:
            raise LnurlError("its server gave an invoice that demands what no wallet here knows")
        if invoice.description_hash not in (None, description_hash(zap_request or params.metadata)):
            # LUD-06 once required it; many servers do not care, and it is not what protects the payer.
            log.debug(
                "an LNURL server's invoice commits to another text", extra={"server": urlsplit(params.url).netloc}
            )
        return bolt11

    def _params(self, url: str, answer: dict[str, Any]) -> PayParams:
        callback, metadata = answer.get("callback"), answer.get("metadata")
        least, most = _msat(answer.get("minSendable")), _msat(answer.get("maxSendable"))
        if least is None or most is None or not 0 < least <= most:
            raise LnurlError("its server names no amounts that it takes")
        if not isinstance(callback, str) or not isinstance(metadata, str) or len(metadata) > MAX_METADATA_CHARS:
            raise LnurlError("its server says nothing of how it is paid: callback and metadata expected")
        try:
            endpoint = check_url(callback, ("https", "http"))
        except AddressRefused as error:
            raise LnurlError(f"its server's callback: {error}") from None
        if endpoint.scheme == "http" and not self._allow_private and not endpoint.host.endswith(".onion"):
            raise LnurlError("its server's callback: http:// is not secure")
        comment, pubkey = answer.get("commentAllowed"), answer.get("nostrPubkey")
        signs = answer.get("allowsNostr") is True and isinstance(pubkey, str) and is_hex64(pubkey)
        return PayParams(
            url=url,
            callback=callback,
            min_msat=least,
            max_msat=min(most, MAX_MSAT),
            metadata=metadata,
            comment_chars=min(comment, _MAX_COMMENT) if type(comment) is int and comment > 0 else 0,
            nostr_pubkey=pubkey if signs else None,
        )

    async def _ask(self, url: str, query: dict[str, str]) -> dict[str, Any]:
        """The JSON object that a server answers, unless it is its refusal."""
        try:
            fetched = await self._fetcher.get(url, params=query, accept="application/json")
        except FetchError as error:
            raise LnurlError(f"its server: {error}", refused=False) from None
        try:
            answer = fetched.json()
        except FetchError as error:
            _must_be_ok(fetched)
            raise LnurlError(f"its server: {error}", refused=False) from None
        if not isinstance(answer, dict):
            raise LnurlError("its server answered what is no JSON object", refused=False)
        if str(answer.get("status", "")).upper() == "ERROR":
            reason = answer.get("reason")
            raise LnurlError(f"its server refused: {clean(reason) if isinstance(reason, str) else 'no reason given'}")
        _must_be_ok(fetched)
        return answer


def _must_be_ok(fetched: Fetched) -> None:
    if fetched.status != 200:
        # 404 says that nobody is paid there; what a proxy or an overloaded server says may pass.
        raise LnurlError(
            f"its server: HTTP status {fetched.status}", refused=fetched.status in (400, 401, 403, 404, 410)
        )


def _msat(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= 1 << 63 else None
