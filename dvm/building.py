"""From the operator's files to the parts of the shop, each not yet started."""

from __future__ import annotations

from pathlib import Path

from dvm.config import Config, FilesConfig, LimitsConfig, ModelConfig, PerRequestSats, Relays, ServiceConfig
from dvm.contradictions import Offered
from dvm.jobs import Service, Settings, all_kinds
from dvm.jobs.files import Files
from dvm.jobs.inputs import Inputs, Sources
from dvm.jobs.shop import ZapSettings
from dvm.ledger import Store
from dvm.lightning.base import Wallet, WalletError
from dvm.lightning.lnurl_address import is_at
from dvm.lightning.registry import WALLETS, Setup, make_wallet
from dvm.models import Model
from dvm.models.registry import PROVIDERS, make_model, makes
from dvm.models.router import Bounds
from dvm.nostr.addresses import AddressRefused
from dvm.nostr.blossom import Blossom
from dvm.nostr.fetching import Fetcher
from dvm.nostr.keys import Keys, parse_pubkey
from dvm.nostr.options import PoolOptions, RelayOptions
from dvm.nostr.pool import RelayPool
from dvm.pricing import FREE, PerRequest, PerToken, Price
from dvm.pricing.prices import MSAT
from dvm.problems import ConfigError
from dvm.secrets import Secrets

FRAME_BYTES = 4 << 20  # what "no limit" means for an event: a frame is bounded in any case
PPM_OF_A_PERCENT = 10_000


def offered() -> Offered:
    """What can be built here, kinds that the operator has added included."""
    return Offered(kinds=frozenset(all_kinds()), wallets=frozenset(WALLETS), providers=frozenset(PROVIDERS))


def build_models(config: Config, secrets: Secrets) -> dict[str, Model]:
    """The models that a service uses, not yet started. Raises ConfigError."""
    used = {name for service in config.service for name in service.models}
    models: dict[str, Model] = {}
    for name in sorted(used):
        table = config.models[name]
        try:
            models[name] = make_model(
                name,
                table.provider,
                model=table.model or None,
                base_url=table.base_url,
                api_key=secrets.api_keys.get(name),
                max_output_tokens=table.max_output_tokens,
                options=table.options(),
            )
        except ValueError as error:
            raise ConfigError([f"dvm.toml: models.{name}: {error}"]) from None
    return models


def build_services(config: Config) -> dict[int, Service]:
    """What is sold, by kind, with prices in msat, by those of its models that make such a thing at all. If nothing can
    be made of all that is sold, it is sold all the same: a shop without anything could not even say why."""
    services = {}
    sold = [each for each in config.service if any(_makes(config, name, each.kind) for name in each.models)]
    for each in sold or config.service:
        able = tuple(name for name in each.models if _makes(config, name, each.kind)) or each.models
        services[each.kind] = Service(
            kind=all_kinds()[each.kind],
            models=able,
            prices={name: price_of(config, each, name) for name in able},
            systems={name: each.system or config.models[name].system for name in able},
            name=each.name,
            names={name: config.models[name].model for name in able},
        )
    return services


def unable(config: Config) -> list[str]:
    """Which services name models that make nothing of their kind; for the log at start-up and for `dvm doctor`."""
    found = []
    for number, each in enumerate(config.service, 1):
        if wrong := [name for name in each.models if not _makes(config, name, each.kind)]:
            where, wanted = f"service[{number}].models", all_kinds()[each.kind].makes
            if len(wrong) == len(each.models):
                found.append(f"{where}: none of them makes any {wanted}, so it is not sold; see models.NAME.makes")
            else:
                found.append(f"{where}: without {', '.join(wrong)}, as it makes no {wanted}; see models.NAME.makes")
    return found


def _makes(config: Config, name: str, kind: int) -> bool:
    table = config.models[name]
    return all_kinds()[kind].makes in makes(table.provider, table.model, table.makes)


def price_of(config: Config, service: ServiceConfig, model: str) -> Price:
    """What a service asks for a model: sats per million tokens become msat per million tokens."""
    if isinstance(service.price, PerRequestSats):
        return PerRequest(service.price.per_request * MSAT)
    if service.price == "free":
        return FREE
    return _per_token(config.models[model])


def _per_token(table: ModelConfig) -> PerToken:
    given = table.input or 0
    cached = given if table.cached is None else table.cached
    return PerToken(given * MSAT, cached * MSAT, (table.output or 0) * MSAT)


def build_bounds(config: Config) -> dict[str, Bounds]:
    """What each model may be asked at once and within a minute."""
    return {name: Bounds(each.concurrency, each.requests_per_minute) for name, each in config.models.items()}


def list_prices(config: Config) -> dict[str, PerToken]:
    """What `[models.NAME]` asks for tokens, whatever a service does: by it the operator's spending is counted."""
    return {
        name: _per_token(table)
        for name, table in config.models.items()
        if table.input is not None or table.output is not None
    }


def build_wallet(config: Config, secrets: Secrets, data: Path) -> Wallet:
    """The wallet, not yet started. Raises ConfigError."""
    try:
        setup = Setup(
            url=config.wallet.url,
            secret=secrets.wallet,
            data=data,
            network=config.wallet.network,
            timeout=config.wallet.timeout_seconds,
            tls_cert=config.wallet.tls_cert_file,
        )
        return make_wallet(config.wallet.type, setup)
    except (WalletError, ValueError) as error:
        text = str(error).removeprefix(f"{error.code}: ") if isinstance(error, WalletError) else str(error)
        raise ConfigError([f"dvm.toml: {'' if text.startswith('wallet.') else 'wallet: '}{text}"]) from None


def build_pool(relays: Relays, keys: Keys, limits: LimitsConfig) -> RelayPool:
    """The relays of relays.toml, not yet started. Raises ConfigError."""
    options = PoolOptions(
        relay=RelayOptions(event_bytes=limits.event_bytes or FRAME_BYTES),
        allow_private=limits.allow_private_addresses,
        learn_limits=True,
    )
    try:
        return RelayPool(relays.read, relays.write, keys=keys, options=options)
    except AddressRefused as error:
        raise ConfigError([f"relays.toml: {error}"]) from None


def build_settings(config: Config) -> Settings:
    """`[limits]`, `[payouts]` and whatever else bounds the engine, as it reads them."""
    limits, payouts = config.limits, config.payouts
    return Settings(
        prompt_tokens=limits.prompt_tokens,
        concurrency=limits.concurrency,
        quote_seconds=limits.quote_minutes * 60,
        max_age=limits.max_age_minutes * 60,
        max_ahead=limits.future_minutes * 60,
        job_seconds=limits.job_minutes * 60,
        attempts=limits.attempts,
        spend_msat_per_day=limits.spend_sats_per_day * MSAT,
        wrong_answers_per_day=limits.wrong_answers_per_day,
        partial_seconds=limits.partial_seconds,
        reconcile_seconds=limits.reconcile_seconds,
        sweep_seconds=limits.sweep_seconds,
        shutdown_seconds=limits.shutdown_seconds,
        refusals_per_minute=limits.jobs_per_minute or 60,
        payouts_enabled=payouts.enabled,
        payout_min_msat=payouts.min_sats * MSAT,
        payout_day_msat=payouts.day_sats * MSAT,
        fee_msat=payouts.fee_sats * MSAT,
        fee_ppm=round(payouts.fee_percent * PPM_OF_A_PERCENT),
        watchdog_seconds=limits.watchdog_seconds,
        operator=parse_pubkey(config.operator.npub) if config.operator.npub else None,
        hold=config.wallet.hold,
        customer_relays=limits.customer_relays,
    )


def build_zaps(config: Config) -> ZapSettings | None:
    """How zaps pay; None without a Lightning address. Ours is the one whose domain is that of `gateway.url`."""
    lud16, zaps = config.identity.lud16, config.zaps
    if not lud16:
        return None
    here = config.gateway.url if config.gateway else None
    own = here is not None and is_at(lud16, here)
    return ZapSettings(
        lud16=lud16,
        own=own,
        trust=zaps.trust,
        min_msat=zaps.min_sats * MSAT,
        max_msat=zaps.max_sats * MSAT,
        quote=zaps.quote or ("both" if own else "invoice"),
    )


def build_files(config: FilesConfig, keys: Keys) -> Files:
    """What delivers images and speech; to be closed. All uploads of a job may take four times what one may."""
    if not config.servers:
        return Files()
    return Files(Blossom(keys, config.servers, timeout=config.upload_seconds), seconds=4 * config.upload_seconds)


def build_fetcher(limits: LimitsConfig) -> Fetcher:
    """What fetches the addresses that customers name; to be closed."""
    return Fetcher(
        allow_private=limits.allow_private_addresses,
        plain=True,
        timeout=limits.input_seconds,
        max_bytes=limits.input_bytes,
    )


def build_inputs(limits: LimitsConfig, keys: Keys, store: Store, relays: RelayPool, fetcher: Fetcher) -> Inputs:
    """What finds the inputs that a request names."""
    return Inputs(Sources(keys, store, relays, fetcher, max_bytes=limits.input_bytes, seconds=limits.input_seconds))
