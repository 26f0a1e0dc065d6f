"""What the operator writes: `dvm.toml` (what is sold, for how much, where it is paid) and `relays.toml`.

Every key, its unit and its default is described in docs/configuration.md, and a test compares the two.
Prices are whole sats here, as people write them; the ledger's msat begin behind this door. Secrets never
stand in these files: see dvm.secrets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dvm.problems import ConfigError, Loc, describe, did_you_mean, line, read_toml, secrets_within
from dvm.values import (
    MAX_SATS,
    AsTuple,
    Count,
    EnvName,
    FilePath,
    HttpUrl,
    Interval,
    JobKind,
    LightningAddress,
    Listen,
    Minutes,
    ModelName,
    Picture,
    RelayUrl,
    Sats,
    System,
    Text,
)

CLASSES = ("input", "cached", "output")

WalletType = Literal["nwc", "lnd", "cln", "lnbits", "phoenixd", "paper"]
Provider = Literal["gemini", "openai", "embedded", "google-generativeai", "echo"]

_NEEDS_URL = frozenset({"lnd", "cln", "lnbits", "phoenixd"})
_NEEDS_MODEL = frozenset({"gemini", "openai", "google-generativeai"})
_USES_KEY = frozenset({"gemini", "openai", "google-generativeai"})


@dataclass(frozen=True)
class Offered:
    """What this build can do; None leaves a list unchecked. The caller knows the registries, this page not."""

    kinds: frozenset[int] | None = None
    wallets: frozenset[str] | None = None
    providers: frozenset[str] | None = None
    gateway: bool = True


class Table(BaseModel):
    """A table of the file: unknown keys and wrong types are errors, and errors do not show the value."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


# ── dvm.toml ──────────────────────────────────────────────────────────────────────────────────────


class Identity(Table):
    """Who the service is on Nostr. The key comes from DVM_NSEC or from `nsec_file`."""

    name: Text = "dvm"
    about: Text = ""
    picture: Picture = ""
    lud16: LightningAddress = ""
    nsec_file: FilePath | None = None


class WalletConfig(Table):
    """Where the service is paid. The secret comes from the environment or from `secret_file`."""

    type: WalletType
    url: HttpUrl | None = None
    secret_file: FilePath | None = None
    timeout_seconds: Interval = 30.0


class ModelConfig(Table):
    """One model and its prices, in sats per million tokens; thinking tokens cost what output costs."""

    provider: Provider
    model: Text = ""
    base_url: HttpUrl | None = None
    api_key_env: EnvName | None = None
    api_key_file: FilePath | None = None
    input: Sats | None = None
    cached: Sats | None = None
    output: Sats | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=10_000_000)] = 8192
    system: System | None = None
    stall_seconds: Interval = 60.0


class PerRequestSats(Table):
    """One price for a whole job, in sats."""

    per_request: Annotated[int, Field(ge=1, le=MAX_SATS)]


def _price(value: object) -> object:
    match value:
        case "per-token" | "free":
            return value
        case {"per_request": int(sats), **rest} if not rest and not isinstance(sats, bool):
            if sats == 0:
                raise ValueError('a price of 0 sats is written "free"')
            if 0 < sats <= MAX_SATS:
                return PerRequestSats(per_request=sats)
            raise ValueError(f"per_request must be from 1 to {MAX_SATS} sats")
    raise ValueError('must be "per-token", "free" or { per_request = SATS }, SATS a whole number')


class ServiceConfig(Table):
    """One kind of job that is sold; `models` in order of preference."""

    kind: JobKind
    models: Annotated[tuple[str, ...], AsTuple, Field(min_length=1)]
    price: Annotated[Literal["per-token", "free"] | PerRequestSats, BeforeValidator(_price)]
    name: Text | None = None
    system: System | None = None


class LimitsConfig(Table):
    """Bounds on what strangers can make the daemon do. A count of 0 is no limit."""

    jobs_per_minute: Count = 60
    open_quotes: Count = 50
    open_quotes_total: Count = 10_000
    prompt_tokens: Count = 100_000
    event_bytes: Count = 262_144
    concurrency: Count = 32
    quote_minutes: Annotated[int, Field(ge=1, le=525_600)] = 1440
    max_age_minutes: Minutes = 10
    future_minutes: Minutes = 15
    job_minutes: Annotated[int, Field(ge=0, le=1440)] = 10
    attempts: Annotated[int, Field(ge=1, le=100)] = 3
    partial_seconds: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 1.0
    reconcile_seconds: Interval = 60.0
    sweep_seconds: Interval = 60.0
    shutdown_seconds: Interval = 30.0
    allow_private_addresses: bool = False


class GatewayConfig(Table):
    """The HTTP side."""

    listen: Listen = "127.0.0.1:8402"


class Config(Table):
    """The whole of `dvm.toml`. File names in it are resolved against its own directory."""

    identity: Identity = Identity()
    wallet: WalletConfig
    models: Annotated[dict[ModelName, ModelConfig], Field(min_length=1)]
    service: Annotated[tuple[ServiceConfig, ...], AsTuple, Field(min_length=1)]
    limits: LimitsConfig = LimitsConfig()
    gateway: GatewayConfig | None = None


# ── relays.toml ───────────────────────────────────────────────────────────────────────────────────


class RelayConfig(Table):
    """One relay: whether to listen there, whether to publish there."""

    url: RelayUrl
    read: bool = True
    write: bool = True


class Relays(Table):
    """The whole of `relays.toml`."""

    relay: Annotated[tuple[RelayConfig, ...], AsTuple, Field(min_length=1)]

    @property
    def read(self) -> list[str]:
        """Where to listen."""
        return [relay.url for relay in self.relay if relay.read]

    @property
    def write(self) -> list[str]:
        """Where to publish."""
        return [relay.url for relay in self.relay if relay.write]


# The table that stands at each place of the files; `*` is a name or a number that the operator chose.
_DVM_TABLES: dict[tuple[str, ...], type[Table]] = {
    (): Config,
    ("identity",): Identity,
    ("wallet",): WalletConfig,
    ("models", "*"): ModelConfig,
    ("service", "*"): ServiceConfig,
    ("limits",): LimitsConfig,
    ("gateway",): GatewayConfig,
}
_RELAY_TABLES: dict[tuple[str, ...], type[Table]] = {(): Relays, ("relay", "*"): RelayConfig}
_File = TypeVar("_File", bound=Table)


# ── reading ───────────────────────────────────────────────────────────────────────────────────────


def load_config(path: Path, offered: Offered = Offered()) -> Config:
    """`dvm.toml`. Raises ConfigError with everything that is wrong with it, in one go."""
    tables = read_toml(path)
    return _validated(Config, tables, path, _DVM_TABLES, _contradictions(tables, offered))


def load_relays(path: Path) -> Relays:
    """`relays.toml`. Raises ConfigError with everything that is wrong with it, in one go."""
    tables = read_toml(path)
    return _validated(Relays, tables, path, _RELAY_TABLES, _relay_contradictions(tables))


def warnings(config: Config, offered: Offered = Offered()) -> list[str]:
    """What may be meant, but probably is not; for the log at start-up and for `dvm doctor`."""
    found = []
    used = {name for service in config.service for name in service.models}
    for name, model in config.models.items():
        if name not in used:
            found.append(f"models.{name}: no service uses it")
        if model.base_url and model.provider in _USES_KEY and _sends_in_clear(model.base_url):
            found.append(f"models.{name}.base_url: http:// sends the API key and the prompts unencrypted")
    if config.wallet.url and _sends_in_clear(config.wallet.url):
        found.append("wallet.url: http:// sends the wallet's secret unencrypted")
    if config.wallet.type == "paper":
        found.append("wallet.type: paper is for trying things out: no payment is real")
    if config.gateway is not None and not offered.gateway:
        found.append("gateway: this version has no HTTP gateway; nothing listens there")
    return found


def _sends_in_clear(url: str) -> bool:
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme == "http" and host not in ("localhost", "::1") and not host.startswith("127.")


def _validated(
    model: type[_File],
    tables: dict[str, Any],
    path: Path,
    places: dict[tuple[str, ...], type[Table]],
    contradictions: Iterator[tuple[Loc, str]],
) -> _File:
    """The tables as `model`, or one ConfigError with all that is wrong with them."""
    # A secret in a file that is copied and committed is told first, and is all that is told of its place.
    problems = {
        loc: f"holds what looks like {what}: take it out, put it into the environment or into a file "
        "(docs/configuration.md, Secrets), and consider it known to others"
        for loc, what in secrets_within(tables)
    }
    result = None
    try:
        result = model.model_validate(tables, context={"directory": path.parent})
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            problems.setdefault(detail["loc"], describe(detail, lambda loc: _keys(places, loc)))
    for loc, text in contradictions:
        problems.setdefault(loc, text)
    if problems or result is None:
        raise ConfigError(line(str(path), loc, text) for loc, text in problems.items())
    return result


def _keys(places: dict[tuple[str, ...], type[Table]], loc: Loc) -> Iterable[str]:
    place = tuple(
        "*" if index == 1 and loc[0] in ("models", "service", "relay") else str(part) for index, part in enumerate(loc)
    )
    return places[place].model_fields if place in places else ()


def _contradictions(tables: dict[str, Any], offered: Offered) -> Iterator[tuple[Loc, str]]:
    """What no single key shows. Reads the raw tables, so that it speaks even if some key is wrong."""
    wallet = _table(tables.get("wallet"))
    kind_of_wallet = wallet.get("type")
    if kind_of_wallet in _NEEDS_URL and "url" not in wallet:
        yield ("wallet", "url"), f"is missing: where the {kind_of_wallet} wallet answers"
    elif kind_of_wallet == "nwc" and "url" in wallet:
        yield ("wallet", "url"), "does not belong to a wallet of type nwc: its address is in DVM_NWC_URI"
    elif kind_of_wallet == "paper" and "url" in wallet:
        yield ("wallet", "url"), "does not belong to a wallet of type paper"
    yield from _not_offered(("wallet", "type"), kind_of_wallet, get_args(WalletType), offered.wallets)

    models = _table(tables.get("models"))
    for name, model in models.items():
        model = _table(model)
        provider = model.get("provider")
        yield from _not_offered(("models", name, "provider"), provider, get_args(Provider), offered.providers)
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


def _relay_contradictions(tables: dict[str, Any]) -> Iterator[tuple[Loc, str]]:
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
    loc: Loc, value: object, known: Iterable[str], offered: frozenset[str] | None
) -> Iterator[tuple[Loc, str]]:
    if offered is not None and isinstance(value, str) and value in known and value not in offered:
        yield loc, f'"{value}" is not part of this version, which has {", ".join(sorted(offered))}'


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
