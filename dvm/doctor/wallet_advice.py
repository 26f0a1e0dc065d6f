"""What to do about an error of the wallet: the usual mistake behind it, which depends on the kind of wallet."""

from __future__ import annotations

from collections.abc import Mapping

from dvm.doctor.findings import advice_for
from dvm.lightning.base import WalletError, WalletErrorCode
from dvm.secrets import WALLET_SECRETS

_CHANNELS = "Get inbound liquidity: have others open channels to the node, buy one, or pay out over those there are."
INBOUND: Mapping[str, str] = {
    "lnd": _CHANNELS,
    "cln": _CHANNELS,
    "phoenixd": "phoenixd opens a channel with the first payment that bears its cost: pay it some ten thousand sats.",
}
_INBOUND = "The wallet can receive nothing: open a channel to it, or buy inbound liquidity, from within the wallet."

LESS_THAN_OWED = (
    "Put in what is missing, or find out where it went (`dvm reconcile`): nothing new is sold while it is so."
)
HOLD = "Take wallet.hold out of dvm.toml, or take a wallet that can: lnd, or an NWC wallet with hold invoices."
PAYOUTS: Mapping[str, str] = {
    "lnd": "Bake a macaroon with offchain:read and offchain:write too and set DVM_LND_MACAROON",
    "cln": "Make a rune that allows pay and xpay too and set DVM_CLN_RUNE",
    "lnbits": "Set DVM_LNBITS_KEY to the wallet's admin key, instead of its invoice key",
    "phoenixd": "Set DVM_PHOENIXD_PASSWORD to http-password, instead of http-password-limited-access",
    "nwc": "Make a connection that may pay, with a budget, and set DVM_NWC_URI",
}
PUSH: Mapping[str, str] = {
    "lnd": "Bake a macaroon with invoices:read too and set DVM_LND_MACAROON: payments are noticed a minute late.",
    "lnbits": "Let the reverse proxy before LNbits pass websockets on (/api/v1/ws): payments are noticed later.",
    "phoenixd": "Let what stands before phoenixd pass websockets on (/websocket): payments are noticed later.",
}

_ADDRESSES = {
    "lnd": "lnd's REST interface, https://HOST:8080 (restlisten; 10009 is gRPC, 9735 the peers' port)",
    "cln": "clnrest, https://HOST:3010 (clnrest-port; 9735 is the peers' port)",
    "lnbits": "LNbits itself, such as https://lnbits.example.com, without the path of a page",
    "phoenixd": "phoenixd, http://HOST:9740",
}
_CERTIFICATES = {"lnd": "lnd's tls.cert", "cln": "clnrest's ca.pem"}
_LIQUIDITY = ("liquidity", "inbound", "incoming capacity", "capacity", "channel", "receive")
_NO_ANSWER = ("no json", "is no object", "is this", "not the answer", "rest interface", "is wallet.url", "(404)", "tls")

_MACAROON = (
    "Bake a macaroon (`lncli bakemacaroon info:read invoices:read invoices:write offchain:read offchain:write`) and "
    "set {variable}: this one "
)
_RUNE = (
    "Make a rune (`lightning-cli createrune`, restricted as docs/configuration.md says) and set {variable}: this one "
)
_BY_KIND: Mapping[str, Mapping[WalletErrorCode, str]] = {
    "lnd": {
        "unauthorized": _MACAROON + "is none, has expired, or is another node's or another network's.",
        "restricted": _MACAROON + "may not do that; admin.macaroon may, and more than is needed.",
        "unsupported": "Update lnd to 0.17 or newer, built with invoicesrpc and routerrpc, as the published ones are.",
    },
    "cln": {
        "unauthorized": _RUNE + "is none, or was not made by this node.",
        "restricted": _RUNE + "does not allow the command.",
        "rate_limited": "Make a rune without a rate, or with a higher one, and set {variable}.",
        "unsupported": "Update Core Lightning to 23.11 or newer, and let it run the plugin clnrest.",
    },
    "lnbits": {
        "unauthorized": "Set {variable} to a key of the wallet (admin or invoice key, under API docs, at its side): "
        "LNbits does not know this one.",
        "restricted": "Set {variable} to the wallet's admin key: the invoice key may only receive.",
        "rate_limited": "Raise LNBITS_RATE_LIMIT_NO (200 a minute, as it comes), and run `dvm doctor` again.",
        "unsupported": "Update LNbits to 1.0 or newer.",
    },
    "phoenixd": {
        "unauthorized": "Set {variable} to http-password of ~/.phoenix/phoenix.conf: this one is refused.",
        "restricted": "Set {variable} to http-password of ~/.phoenix/phoenix.conf: the limited one may only receive.",
        "unsupported": "Update phoenixd.",
    },
}
_BY_CODE: Mapping[WalletErrorCode, str] = {
    "unreachable": "Make sure that the wallet is running and online, and that this machine reaches its address (of "
    "an NWC connection: its relay); if its relay is gone, make a new connection and set {variable}.",
    "unauthorized": "Make a new connection in the wallet and set {variable}: this one is wrong, expired or removed.",
    "restricted": "Make a connection that may make and look up invoices, and set {variable}: this one is read-only.",
    "rate_limited": "Wait a minute and run `dvm doctor` again; if it stays so, raise the wallet's limit.",
    "quota": "Raise the budget of the connection, in the wallet.",
    "unsupported": "Update the wallet, or connect another one: this one lacks what is needed (make_invoice, "
    "lookup_invoice, and NIP-44 or NIP-04 encryption).",
    "not_found": "Make a new connection in the wallet and set {variable}: it does not know its own invoices.",
}


def advise(kind: str, error: WalletError) -> str:
    """One sentence or two."""
    address = _ADDRESSES.get(kind)
    if address is not None and (advice := _of_a_server(kind, address, error)) is not None:
        return advice
    text = str(error)
    if error.code in ("failed", "insufficient"):
        return advice_for(
            text,
            (
                (_LIQUIDITY, INBOUND.get(kind, _INBOUND)),
                (("another process",), "End the process that has it, or wait until it is done."),
                (("no space", "disk is full"), "Make room on the disk."),
            ),
            "Look into the wallet itself; without a channel, or without inbound liquidity, it can receive nothing.",
        )
    if error.code == "untrustworthy":
        return advice_for(
            text,
            (
                ((" is expected",), "The wallet is on the wrong network: connect one of the expected network."),
                (("clock",), "Set the clocks of this machine and of the wallet's (NTP)."),
            ),
            "Do not sell with this wallet until its operator has explained that.",
        )
    advice = _BY_KIND.get(kind, {}).get(error.code) or _BY_CODE[error.code]
    return advice.format(variable=WALLET_SECRETS.get(kind, "the wallet's secret"))


def _of_a_server(kind: str, address: str, error: WalletError) -> str | None:
    """What is usual where the wallet is a server at wallet.url; None where it is none of that."""
    text = str(error).lower()
    if "certificate" in text or "tls_cert_file" in text:
        own = _CERTIFICATES.get(kind)
        if own is None:
            return "Set wallet.tls_cert_file to the certificate that it has, or give it one that is signed publicly."
        return f"Set wallet.tls_cert_file to {own}, and wallet.url to a host name or an address that stands in it."
    if "lock" in text and kind == "lnd":
        return "Unlock it: `lncli unlock`; with wallet-unlock-password-file in lnd.conf it does so at every start."
    if "no connection" in text:
        return f"Make sure that it runs and that this machine reaches it: wallet.url must be the address of {address}."
    if "https://" in text and "needs" in text:
        return f"Write https:// in wallet.url: it must be the address of {address}."
    if "elsewhere" in text or any(said in text for said in _NO_ANSWER):
        return f"Correct wallet.url: it must be the address of {address}."
    if error.code == "unreachable":
        return f"Make sure that it runs and that this machine reaches it: wallet.url must be the address of {address}."
    return None
