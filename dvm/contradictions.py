"""What no single key of the configuration shows: keys that contradict each other, or that this build lacks.

All of it reads the raw tables, whatever their values are, so that it speaks even where some key is wrong
in itself and everything is told in one go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from dvm.problems import Loc, did_you_mean

CLASSES = ("input", "cached", "output")
MAX_ZAP_SATS = 1_000_000
MIN_PAYOUT_SATS = 10
DAY_PAYOUT_SATS = 100_000

WalletType = Literal["nwc", "lnd", "cln", "lnbits", "phoenixd", "paper"]
Provider = Literal["gemini", "openai", "embedded", "google-generativeai", "echo"]

_NEEDS_URL = frozenset({"lnd", "cln", "lnbits", "phoenixd"})
_CAN_HOLD = frozenset({"lnd", "nwc", "paper"})
_NEEDS_MODEL = frozenset({"gemini", "openai", "google-generativeai"})
USES_KEY = frozenset({"gemini", "openai", "google-generativeai"})
# What only some providers take.
_ENDPOINT = ("base_url", "api_key_env", "api_key_file")
_PATIENCE = ("first_chunk_seconds", "stall_seconds", "count_seconds")
_OPTIONS: dict[str, tuple[str, ...]] = {
    "gemini": (*_PATIENCE, "makes", "thinking_budget", "thinking_level"),
    "google-generativeai": (*_PATIENCE, "makes"),
    "openai": (*_PATIENCE[:2], "makes"),  # it has no way to ask for a count
    "embedded": ("parallel", "context", "threads"),
    "echo": ("chunk_tokens", "delay_seconds"),
}
_EVERY_OPTION = frozenset(option for options in _OPTIONS.values() for option in options)


@dataclass(frozen=True)
class Offered:
    """What this build can do; None leaves a list unchecked. The caller knows the registries, this page not."""

    kinds: frozenset[int] | None = None
    wallets: frozenset[str] | None = None
    providers: frozenset[str] | None = None


ANYTHING = Offered()


def options_of(provider: str) -> tuple[str, ...]:
    """The keys of a model that only some providers have, this one among them."""
    return _OPTIONS.get(provider, ())


def contradictions(tables: dict[str, Any], offered: Offered) -> Iterator[tuple[Loc, str]]:
    """Of `dvm.toml`: each place, and what is wrong there."""
    yield from _wallet_contradictions(_table(tables.get("wallet")), offered)
    yield from _money_contradictions(tables)
    models = _table(tables.get("models"))
    for name, model in models.items():
        model = _table(model)
        provider = _text(model.get("provider"))
        yield from _not_offered(("models", name, "provider"), provider, get_args(Provider), offered.providers)
        if provider in get_args(Provider):
            foreign = _EVERY_OPTION.difference(options_of(provider))
            if provider not in USES_KEY:
                foreign = foreign.union(_ENDPOINT)
            for key in sorted(foreign & model.keys()):
                yield ("models", name, key), f"does not belong to a model of {provider}"
        if provider in _NEEDS_MODEL and not model.get("model"):
            yield ("models", name, "model"), f"is missing: the name by which {provider} knows the model"
        if "api_key_env" in model and "api_key_file" in model:
            yield ("models", name, "api_key_file"), "stands beside api_key_env: one of the two, not both"

    sold: dict[object, int] = {}
    services = tables.get("service")
    for index, service in enumerate(services if isinstance(services, list) else ()):
        yield from _service_contradictions(index, _table(service), models)
        kind = _table(service).get("kind")
        if isinstance(kind, int) and kind in sold:
            yield ("service", index, "kind"), f"{kind} is sold by service[{sold[kind] + 1}] already"
        elif isinstance(kind, int):
            sold[kind] = index
            if offered.kinds is not None and kind not in offered.kinds:
                there = ", ".join(map(str, sorted(offered.kinds)))
                yield ("service", index, "kind"), f"{kind} is not offered by this version, which has {there}"


def _wallet_contradictions(wallet: dict[str, Any], offered: Offered) -> Iterator[tuple[Loc, str]]:
    kind, url = _text(wallet.get("type")), _text(wallet.get("url"))
    if kind in _NEEDS_URL and "url" not in wallet:
        yield ("wallet", "url"), f"is missing: where the {kind} wallet answers"
    elif kind == "nwc" and "url" in wallet:
        yield ("wallet", "url"), "does not belong to a wallet of type nwc: its address is in DVM_NWC_URI"
    elif kind == "paper" and "url" in wallet:
        yield ("wallet", "url"), "does not belong to a wallet of type paper"
    elif "?" in url:
        # LNbits' own links have ?usr=…, which opens the whole account.
        yield ("wallet", "url"), "must be the address alone: what follows the ? may be a secret, so take it out"
    if "tls_cert_file" in wallet:
        if kind in get_args(WalletType) and kind not in _NEEDS_URL:
            yield ("wallet", "tls_cert_file"), f"does not belong to a wallet of type {kind}"
        elif url.startswith("http://"):
            yield ("wallet", "tls_cert_file"), "is for an https:// address, and wallet.url is none"
    if wallet.get("hold") is True and kind in get_args(WalletType) and kind not in _CAN_HOLD:
        able = ", ".join(sorted(_CAN_HOLD))
        yield ("wallet", "hold"), f"a wallet of type {kind} cannot hold invoices; {able} can"
    if kind == "paper" and wallet.get("network") not in (None, "regtest"):
        yield ("wallet", "network"), "a wallet of type paper is on regtest"
    yield from _not_offered(("wallet", "type"), kind, get_args(WalletType), offered.wallets)


def _money_contradictions(tables: dict[str, Any]) -> Iterator[tuple[Loc, str]]:
    zaps, payouts = _table(tables.get("zaps")), _table(tables.get("payouts"))
    if not _table(tables.get("identity")).get("lud16"):
        for key in ("quote", "trust"):
            if zaps.get(key) in ("zap", "both", "provider"):
                yield ("zaps", key), f'"{zaps[key]}" needs a Lightning address: identity.lud16 is missing'
    url = _text(_table(tables.get("gateway")).get("url"))
    if url.partition("://")[2].partition("/")[2]:
        yield (
            ("gateway", "url"),
            "must be the address alone, without a path: wallets look for a Lightning address at it",
        )
    least, most = zaps.get("min_sats", 1), zaps.get("max_sats", MAX_ZAP_SATS)
    if isinstance(least, int) and isinstance(most, int) and least > most:
        yield ("zaps", "min_sats"), f"is more than max_sats, {most}"
    least, day = payouts.get("min_sats", MIN_PAYOUT_SATS), payouts.get("day_sats", DAY_PAYOUT_SATS)
    if isinstance(least, int) and isinstance(day, int) and 0 < day < least:
        yield ("payouts", "min_sats"), f"is more than day_sats, {day}: nobody could withdraw anything"


def _service_contradictions(index: int, service: dict[str, Any], models: dict[str, Any]) -> Iterator[tuple[Loc, str]]:
    names = service.get("models")
    seen: set[str] = set()
    for place, name in enumerate(names if isinstance(names, list) else ()):
        if not isinstance(name, str):
            continue
        loc = ("service", index, "models", place)
        if name in seen:
            yield loc, "is named twice"
        elif name not in models:
            yield loc, f"there is no [models.{name}]; {did_you_mean(name, models)}"
        elif service.get("price") == "per-token":
            for token_class in CLASSES:
                if token_class not in _table(models[name]):
                    yield (
                        ("models", name, token_class),
                        f"is missing: service[{index + 1}] sells this model per token (sats per million tokens)",
                    )
        seen.add(name)


def relay_contradictions(tables: dict[str, Any]) -> Iterator[tuple[Loc, str]]:
    """Of `relays.toml`: each place, and what is wrong there."""
    relays = tables.get("relay")
    if not isinstance(relays, list) or not relays:
        return
    seen: dict[str, int] = {}
    for index, relay in enumerate(relays):
        url = _table(relay).get("url")
        if isinstance(url, str) and (first := seen.setdefault(_same_relay(url), index)) != index:
            yield ("relay", index, "url"), f"is the same relay as relay[{first + 1}]"
    for use, why in (("read", "listen"), ("write", "publish")):
        if not any(_table(relay).get(use, True) for relay in relays):
            yield ("relay",), f"none has {use} = true: there would be nowhere to {why}"


def _same_relay(url: str) -> str:
    """What two spellings of one relay's address have in common."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    scheme, host = scheme.lower(), host.lower()
    default = {"ws": ":80", "wss": ":443"}.get(scheme, "")
    return f"{scheme}://{host.removesuffix(default)}{slash}{path}".rstrip("/")


def _not_offered(
    loc: Loc, value: str, known: Iterable[str], offered: frozenset[str] | None
) -> Iterator[tuple[Loc, str]]:
    if offered is not None and value in known and value not in offered:
        yield loc, f'"{value}" is not part of this version, which has {", ".join(sorted(offered))}'


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
