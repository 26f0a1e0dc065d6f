"""What the operator writes: `dvm.toml` (what is sold, for how much, where it is paid) and `relays.toml`.

Every key, its unit and its default is described in docs/configuration.md, and a test compares the two.
Prices are whole sats here, as people write them; the ledger's msat begin behind this door. Secrets never
stand in these files: see dvm.secrets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dvm.contradictions import (
    ANYTHING,
    DAY_PAYOUT_SATS,
    MAX_ZAP_SATS,
    MIN_PAYOUT_SATS,
    USES_KEY,
    Offered,
    Provider,
    WalletType,
    contradictions,
    options_of,
    relay_contradictions,
)
from dvm.problems import ConfigError, Loc, describe, line, read_toml, secrets_within
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
    Npub,
    Picture,
    RelayUrl,
    Sats,
    System,
    Text,
)

MAKE_FILES = frozenset({5100, 5250})
"""Of the kinds that come with this program those whose answers are files."""


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
    announce: bool = True


class WalletConfig(Table):
    """Where the service is paid. The secret comes from the environment or from `secret_file`."""

    type: WalletType
    url: HttpUrl | None = None
    secret_file: FilePath | None = None
    tls_cert_file: FilePath | None = None
    network: Literal["mainnet", "testnet", "signet", "regtest"] | None = None
    timeout_seconds: Interval = 30.0
    hold: bool = False


class ZapsConfig(Table):
    """How zaps pay. The Lightning address is `identity.lud16`; it is served here if it is at `gateway.url`."""

    quote: Literal["invoice", "zap", "both"] | None = None
    trust: Literal["wallet", "provider"] = "wallet"
    min_sats: Annotated[int, Field(ge=1, le=MAX_SATS)] = 1
    max_sats: Annotated[int, Field(ge=1, le=MAX_SATS)] = MAX_ZAP_SATS


class PayoutsConfig(Table):
    """What customers may withdraw. A fee limit is the larger one of `fee_sats` and `fee_percent`."""

    enabled: bool = True
    min_sats: Annotated[int, Field(ge=1, le=MAX_SATS)] = MIN_PAYOUT_SATS
    day_sats: Count = DAY_PAYOUT_SATS
    fee_sats: Count = 7
    fee_percent: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 1.0


class OperatorConfig(Table):
    """Who is told, by an encrypted message, when selling has to stop."""

    npub: Npub | None = None


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
    max_output_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    concurrency: Count = 0
    requests_per_minute: Count = 0
    system: System | None = None
    makes: Annotated[tuple[Literal["text", "image", "speech"], ...], AsTuple, Field(min_length=1)] | None = None
    first_chunk_seconds: Interval | None = None
    stall_seconds: Interval | None = None
    count_seconds: Interval | None = None
    thinking_budget: Annotated[int, Field(ge=-1, le=10_000_000)] | None = None
    thinking_level: Text | None = None
    parallel: Annotated[int, Field(ge=1, le=64)] | None = None
    context: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    chunk_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    delay_seconds: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] | None = None

    def options(self) -> dict[str, Any]:
        """What was set beyond the keys that every provider has, by the names of the backend's arguments."""
        set_here = {key: value for key in options_of(self.provider) if (value := getattr(self, key)) is not None}
        if "delay_seconds" in set_here:
            set_here["delay"] = set_here.pop("delay_seconds")
        return set_here


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
    jobs_per_minute_total: Count = 6_000
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
    spend_sats_per_day: Count = 0
    wrong_answers_per_day: Count = 5
    partial_seconds: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 1.0
    reconcile_seconds: Interval = 60.0
    watchdog_seconds: Interval = 60.0
    sweep_seconds: Interval = 60.0
    shutdown_seconds: Interval = 30.0
    customer_relays: bool = True
    input_bytes: Annotated[int, Field(ge=1, le=1_000_000_000)] = 20_000_000
    input_seconds: Interval = 30.0
    allow_private_addresses: bool = False


class AdmissionConfig(Table):
    """Who is taken on as a customer. A key file has one npub in each line."""

    allow: Annotated[tuple[Npub, ...], AsTuple] = ()
    allow_file: FilePath | None = None
    deny: Annotated[tuple[Npub, ...], AsTuple] = ()
    deny_file: FilePath | None = None
    pow_bits: Annotated[int, Field(ge=0, le=64)] = 0
    follows_of: Npub | None = None
    follows_depth: Annotated[int, Field(ge=1, le=2)] = 1


class FilesConfig(Table):
    """Where the images and the speech that jobs make are uploaded: Blossom servers, in order of preference."""

    servers: Annotated[tuple[HttpUrl, ...], AsTuple] = ()
    upload_seconds: Interval = 30.0


class GatewayConfig(Table):
    """The HTTP side: `url` is where the world reaches it, through a reverse proxy with TLS."""

    listen: Listen = "127.0.0.1:8402"
    url: HttpUrl | None = None


class Config(Table):
    """The whole of `dvm.toml`. File names in it are resolved against its own directory."""

    identity: Identity = Identity()
    wallet: WalletConfig
    models: Annotated[dict[ModelName, ModelConfig], Field(min_length=1)]
    service: Annotated[tuple[ServiceConfig, ...], AsTuple, Field(min_length=1)]
    limits: LimitsConfig = LimitsConfig()
    admission: AdmissionConfig = AdmissionConfig()
    files: FilesConfig = FilesConfig()
    zaps: ZapsConfig = ZapsConfig()
    payouts: PayoutsConfig = PayoutsConfig()
    operator: OperatorConfig = OperatorConfig()
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
DVM_TABLES: dict[tuple[str, ...], type[Table]] = {
    (): Config,
    ("identity",): Identity,
    ("wallet",): WalletConfig,
    ("models", "*"): ModelConfig,
    ("service", "*"): ServiceConfig,
    ("limits",): LimitsConfig,
    ("admission",): AdmissionConfig,
    ("files",): FilesConfig,
    ("zaps",): ZapsConfig,
    ("payouts",): PayoutsConfig,
    ("operator",): OperatorConfig,
    ("gateway",): GatewayConfig,
}
RELAY_TABLES: dict[tuple[str, ...], type[Table]] = {(): Relays, ("relay", "*"): RelayConfig}
_File = TypeVar("_File", bound=Table)


# ── reading ───────────────────────────────────────────────────────────────────────────────────────


def load_config(path: Path, offered: Offered = ANYTHING) -> Config:
    """`dvm.toml`. Raises ConfigError with everything that is wrong with it, in one go."""
    tables = read_toml(path)
    return _validated(Config, tables, path, DVM_TABLES, contradictions(tables, offered))


def load_relays(path: Path) -> Relays:
    """`relays.toml`. Raises ConfigError with everything that is wrong with it, in one go."""
    tables = read_toml(path)
    return _validated(Relays, tables, path, RELAY_TABLES, relay_contradictions(tables))


def warnings(config: Config) -> list[str]:
    """What may be meant, but probably is not; for the log at start-up and for `dvm doctor`."""
    found = []
    used = {name for service in config.service for name in service.models}
    for name, model in config.models.items():
        if name not in used:
            found.append(f"models.{name}: no service uses it")
        if model.base_url and model.provider in USES_KEY and _sends_in_clear(model.base_url):
            found.append(f"models.{name}.base_url: http:// sends the API key and the prompts unencrypted")
    if config.wallet.url and _sends_in_clear(config.wallet.url):
        found.append("wallet.url: http:// sends the wallet's secret unencrypted")
    if config.wallet.type == "paper":
        found.append("wallet.type: paper is for trying things out: no payment is real")
    if config.zaps.trust == "provider":
        found.append("zaps.trust: a zap is credited on the word of the Lightning address' provider, not of your wallet")
    if not config.files.servers and any(service.kind in MAKE_FILES for service in config.service):
        found.append("files.servers: is missing: only what fits into an event can be delivered, which few files do")
    return [*found, *_address_warnings(config)]


def _address_warnings(config: Config) -> Iterator[str]:
    """Of the Lightning address and the gateway, which serves it if both have the same domain."""
    lud16, gateway = config.identity.lud16, config.gateway
    if gateway is None:
        return
    if gateway.url is None:
        if lud16:
            yield f"gateway.url: is missing, so {lud16} is not served here"
        return
    here = urlsplit(gateway.url).netloc.lower()
    if not lud16:
        yield f'identity.lud16: is missing: nobody can zap without one, such as "zaps@{here}"'
    elif lud16.partition("@")[2].lower() != here:
        yield f"identity.lud16: {lud16} is not at gateway.url, {here}, and so not served here"
    if _sends_in_clear(gateway.url) and not (urlsplit(gateway.url).hostname or "").endswith(".onion"):
        yield "gateway.url: wallets pay a Lightning address by https:// only"


def _sends_in_clear(url: str) -> bool:
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme == "http" and host not in ("localhost", "::1") and not host.startswith("127.")


def _validated(
    model: type[_File],
    tables: dict[str, Any],
    path: Path,
    places: dict[tuple[str, ...], type[Table]],
    found: Iterator[tuple[Loc, str]],
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
    for loc, text in found:
        problems.setdefault(loc, text)
    if problems or result is None:
        raise ConfigError(line(str(path), loc, text) for loc, text in problems.items())
    return result


def _keys(places: dict[tuple[str, ...], type[Table]], loc: Loc) -> Iterable[str]:
    place = tuple(
        "*" if index == 1 and loc[0] in ("models", "service", "relay") else str(part) for index, part in enumerate(loc)
    )
    return places[place].model_fields if place in places else ()
