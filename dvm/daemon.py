"""The daemon: builds every part from the configuration, opens the shop, and closes it in good order."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvm.admitting import Lists, build_policies, build_trust
from dvm.announcer import Announcer
from dvm.announcing import IDENTIFIER, drafts_of
from dvm.building import (
    build_bounds,
    build_fetcher,
    build_files,
    build_inputs,
    build_models,
    build_pool,
    build_services,
    build_settings,
    build_wallet,
    build_zaps,
    list_prices,
)
from dvm.config import Config, Relays
from dvm.datadir import DataDir
from dvm.jobs import Engine, Shop
from dvm.jobs.watching.figures import figures
from dvm.jobs.watching.trouble import Trouble
from dvm.ledger import SqliteStore, StoreError
from dvm.ledger.examine import exists
from dvm.ledger.sqlite import FILE
from dvm.lightning.base import WalletError
from dvm.lightning.lnurl import LnurlClient
from dvm.models import ModelError, Prompt
from dvm.problems import ConfigError
from dvm.secrets import Secrets

if TYPE_CHECKING:
    from dvm.gateway.server import Gateway

log = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
DEAF_BEATS = 3  # so many without a relay are told: one alone is a relay that restarts
SAME_SIGNAL_SECONDS = 0.5  # within this time, a second signal is the first once more
FIRST_RELAY_SECONDS = 5.0
SETTLED_SECONDS = 60.0  # by then what models load in the background is there as well
# Of the garbage collector (gc.set_threshold). A pass over everything takes a tenth of a second, in which no job goes
# on, and by default the growth of a thousand jobs brings one about.
COLLECTED_AFTER = (10_000, 10, 10)


class Daemon:
    """The running shop. `async with` opens it; leaving the block finishes what runs and stores the rest.

    Raises ConfigError where the configuration, the data directory or the wallet's connection cannot work;
    a wallet, a model or relays that are merely down are waited for.
    """

    def __init__(self, config: Config, relays: Relays, secrets: Secrets, data: Path) -> None:
        self.config = config
        self.keys = secrets.keys
        self.data = DataDir(data)
        self.models = build_models(config, secrets)
        self.services = build_services(config)
        self.wallet = build_wallet(config, secrets, data)
        self.pool = build_pool(relays, self.keys, config.limits)
        self.lnurl = LnurlClient(allow_private=config.limits.allow_private_addresses)
        self.fetcher = build_fetcher(config.limits)
        self.files = build_files(config.files, self.keys)
        self.lists = Lists(config)
        self.trust = build_trust(config, self.pool)
        self.relays = relays
        self.gateway: Gateway | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Daemon:
        stack = self._stack
        try:
            self.data.make()
            stack.enter_context(self.data.only_one())
            self.store = await self._open_store()
            stack.push_async_callback(self.store.close)
            stack.push_async_callback(self.pool.close)
            stack.push_async_callback(self.lnurl.close)
            stack.push_async_callback(self.fetcher.close)
            stack.push_async_callback(self.files.close)
            self.pool.start()
            await self._start_wallet()
            await self._start_models()
            shop = Shop(
                keys=self.keys,
                store=self.store,
                wallet=self.wallet,
                relays=self.pool,
                models=self.models,
                services=self.services,
                settings=build_settings(self.config),
                policies=build_policies(self.config, self.lists, self.trust),
                zaps=build_zaps(self.config),
                lnurl=self.lnurl,
                files=self.files,
                inputs=build_inputs(self.config.limits, self.keys, self.store, self.pool, self.fetcher),
                announcement=IDENTIFIER,
                bounds=build_bounds(self.config),
                list_prices=list_prices(self.config),
            )
            self.engine = Engine(shop)
            if self.trust is not None:
                self._background(self.trust.run(), "web of trust")
            self._background(self.lists.watch(), "lists of keys")
            await self.engine.start()
            stack.push_async_callback(self.engine.stop)
            await self._open_gateway(shop)
            if self.config.identity.announce:
                drafts = drafts_of(self.config, self.relays, self.services)
                self._background(Announcer(drafts, self.keys, self.pool.writers).run(), "announcer")
            beat = asyncio.create_task(self._beat(), name="heartbeat")
            stack.callback(self.data.end)
            stack.callback(beat.cancel)
            self._background(self._try_wallet(), "wallet trial")
            for name in self.models:
                self._background(self._try_model(name), "model trial")
            if not await self.pool.wait_connected(1, FIRST_RELAY_SECONDS):
                log.warning("no relay can be reached: nothing is heard until one is; see relays.toml and `dvm doctor`")
        except BaseException:
            await stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def _background(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Work that nobody waits for, until this ends."""
        task = asyncio.create_task(work, name=name)

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._stack.push_async_callback(end)

    def ready(self) -> dict[str, Any]:
        """What the log's first line says."""
        urls = [relay.url for relay in self.relays.relay]
        said = {"pubkey": self.keys.pubkey, "npub": self.keys.npub, "relays": urls}
        if self.gateway is not None and self.config.gateway is not None:
            host = self.config.gateway.listen.rpartition(":")[0]
            said["gateway"] = f"http://{host}:{self.gateway.port}"
        return said

    async def _open_store(self) -> SqliteStore:
        new = not exists(self.data.path)
        try:
            store = await SqliteStore.open(self.data.path)
        except StoreError as error:
            raise ConfigError([f"--data: the database cannot be used: {error}; see `dvm doctor`"]) from None
        if new:  # whoever has named the wrong directory, or lost the volume, learns it here
            log.info("a new, empty database", extra={"directory": str(self.data.path)})
        return store

    async def _start_wallet(self) -> None:
        self._stack.push_async_callback(self.wallet.close)
        try:
            await self.wallet.start()
        except WalletError as error:
            raise ConfigError([f"dvm.toml: wallet: {error}"]) from None

    async def _try_wallet(self) -> None:
        """A wallet that is away is waited for, but its operator should not learn of it from the first customer."""
        try:
            info = await self.wallet.info()
        except WalletError as error:
            log.warning(
                "the wallet does not answer: no invoice can be made until it does; see `dvm doctor`",
                extra={"error": str(error)},
            )
            return
        expected = self.config.wallet.network
        if expected not in (None, info.network):
            log.error(
                "the wallet is on another network than wallet.network: no invoice can be made; see `dvm doctor`",
                extra={"expected": expected, "network": info.network},
            )

    async def _try_model(self, name: str) -> None:
        """A wrong key, or a name that its maker does not know, should not be learned of from a job that is paid for.
        Where a prompt is counted on this machine alone, nothing is found out."""
        try:
            await self.models[name].count_tokens(Prompt.of("A trial."))
        except ModelError as error:
            lasting = error.code in ("unauthorized", "not_found")
            if lasting or error.passing:
                log.log(
                    logging.ERROR if lasting else logging.WARNING,
                    "the model cannot be used: jobs that need it are refused, or given back; see `dvm doctor`",
                    extra={"model": name, "error": str(error)},
                )

    async def _open_gateway(self, shop: Shop) -> None:
        if self.config.gateway is None:
            return
        # Here, since it takes half a second to import, which who has no gateway need not wait for.
        from dvm.gateway.app import make_app
        from dvm.gateway.server import Gateway, GatewayError
        from dvm.gateway.site import Site

        engine, listen = self.engine, self.config.gateway.listen
        site = Site(
            url=self.config.gateway.url or f"http://{listen}",
            pubkey=self.keys.pubkey,
            name=self.config.identity.lud16.partition("@")[0] if engine.zaps else "",
            relays=tuple(self.relays.write),
        )

        def facts() -> dict[str, float]:
            return figures(shop, engine, engine.payouts, engine.watchdog)

        app = make_app(site, desk=engine.zaps, healthy=self._trouble, facts=facts)
        self.gateway = Gateway(app, listen)
        self._stack.push_async_callback(self.gateway.close)
        try:
            await self.gateway.start()
        except GatewayError as error:
            raise ConfigError([f"dvm.toml: {error}"]) from None

    def _trouble(self) -> str | None:
        """What keeps it from selling now, for whoever watches over it."""
        if not self.pool.connected:
            return "no relay can be reached"
        if not self.engine.watchdog.selling:
            return "the wallet holds less than customers are owed"
        if self.engine.watchdog.silent_seconds:
            return "the wallet does not answer"
        return None

    async def _start_models(self) -> None:
        for model in self.models.values():
            self._stack.push_async_callback(model.close)
        try:
            await asyncio.gather(*(model.start() for model in self.models.values()))
        except ModelError as error:
            raise ConfigError([f"dvm.toml: models: {error}"]) from None

    async def _beat(self) -> None:
        """The heartbeat of `dvm doctor --health`."""
        file = await asyncio.to_thread(_identity, self.data.path / FILE)
        deaf = Trouble(
            log,
            logging.ERROR,
            "no relay can be reached, so no job is heard: see this machine's network, relays.toml and `dvm doctor`",
            "a relay can be reached again",
        )
        heartless = Trouble(
            log,
            logging.ERROR,
            "the data directory cannot be written, so nothing can be sold and `dvm doctor --health` fails: make room "
            "on the disk, or see whose the directory is",
            "the data directory can be written again",
            directory=str(self.data.path),
        )
        unheard = 0
        while True:
            now = await asyncio.to_thread(_identity, self.data.path / FILE)
            if file is not None and now != file:
                file = None  # told once
                log.error(
                    "the database file was removed or replaced, and what is stored now ends with this process: "
                    "stop it and put back your last backup",
                    extra={"directory": str(self.data.path)},
                )
            facts = {"relays": self.pool.connected, "waiting": self.engine.outbox.refused}
            try:
                await asyncio.to_thread(self.data.beat, facts)
                heartless.fine()
            except OSError as error:
                heartless.failing(error=str(error))
            unheard = 0 if self.pool.connected else unheard + 1
            if unheard >= DEAF_BEATS:
                deaf.failing()
            elif not unheard:
                deaf.fine()
            await asyncio.sleep(BEAT_SECONDS)


def _identity(file: Path) -> tuple[int, int] | None:
    """Which file this is, whatever its name; None if it is not there."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def settle() -> None:
    """Tell the garbage collector that what is there now stays: modules, configuration, schemas, which it would else
    look through again and again. What is freed by the count of its references still is."""
    gc.set_threshold(*COLLECTED_AFTER)
    gc.collect()
    gc.freeze()


async def serve(config: Config, relays: Relays, secrets: Secrets, data: Path) -> None:
    """Run until SIGTERM or SIGINT. A second signal ends it at once; that is safe as well.

    Not one that comes with the first: some supervisors signal both the process and its group.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    first = 0.0

    def on_signal(number: int) -> None:
        nonlocal first
        if stop.is_set():
            if loop.time() - first < SAME_SIGNAL_SECONDS:
                return
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        log.info("stopping: finishing what runs", extra={"signal": signal.Signals(number).name})
        first = loop.time()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    async with Daemon(config, relays, secrets, data) as daemon:
        log.info("ready", extra=daemon.ready())
        settle()
        again = loop.call_later(SETTLED_SECONDS, settle)
        await stop.wait()
        again.cancel()
    log.info("stopped")
