"""A customer of NIP-90 providers: asks, pays at most once, listens, checks the receipt."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing

from dvm.customer.account import Account, fetch_account, fetch_announcements
from dvm.customer.accounting import AccountFailed, Accounting, ToppedUp, Withdrawn
from dvm.customer.archive import Archive
from dvm.customer.payment import Options, Payer
from dvm.customer.purchase import Purchase, publish_cancel
from dvm.customer.quotes import Unpayable
from dvm.customer.updates import Done, Failed, Quoted, Update
from dvm.customer.waiting import patiently
from dvm.customer.zapping import REAL, Zapper
from dvm.lightning.base import WalletError
from dvm.lightning.lnurl import LnurlClient
from dvm.nip90 import AccountAnswer, Announcement, Input, JobRequest, parse_request, request_draft
from dvm.nostr import Event, Keys, RelayPool, Scheme, parse_pubkey

MAX_RELAYS_NAMED = 5


class JobFailed(Exception):
    """There is no answer; `failed` says why, and where the money is if any was paid."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(f"{failed.code}: {failed.text}")
        self.failed = failed


class Customer:
    """One customer key on some relays, with a wallet that pays or without.

        async with Customer(keys, ["wss://relay.example.com"], payer=wallet) as customer:
            async for update in customer.ask("What is a zap?", max_msat=50_000):
                ...

    `relays` are URLs, each of them both read and written; or a RelayPool, which stays its owner's. `payer` must
    be started already.
    """

    def __init__(
        self,
        keys: Keys,
        relays: Sequence[str] | RelayPool,
        *,
        payer: Payer | None = None,
        archive: Archive | None = None,
        options: Options | None = None,
        lnurl: LnurlClient | None = None,
    ) -> None:
        """`lnurl` asks the Lightning addresses that are paid by zap, and stays its owner's; without one, only
        public addresses are asked. Raises AddressRefused for a bad URL."""
        self.keys = keys
        self._payer, self._archive = payer, archive
        self._options = options or Options()
        self._network: str | None = None
        self._own = not isinstance(relays, RelayPool)
        self._named: tuple[str, ...] = ()
        if isinstance(relays, RelayPool):
            self.relays = relays
        else:
            self._named = tuple(relays)[:MAX_RELAYS_NAMED]
            # One connection for both: a second one for publishing spares a few ms of some 100 where a relay
            # does not send small messages at once, and costs strangers' relays twice the connections.
            self.relays = RelayPool(relays, relays, keys=keys)
        self._lnurl, self._own_lnurl = lnurl or LnurlClient(), lnurl is None
        self._zapper = Zapper(keys, self.relays, self._lnurl, timeout=self._options.query)
        self._accounting = Accounting(keys, self.relays, self._named, archive, self._options)

    def start(self) -> None:
        """Connect in the background. Returns at once."""
        if self._own:
            self.relays.start()

    async def close(self) -> None:
        """Disconnect. Safe to call twice."""
        if self._own_lnurl:
            await self._lnurl.close()
        if self._own:
            await self.relays.close()

    async def __aenter__(self) -> Customer:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def ask(
        self,
        prompt: str | Iterable[Input | str],
        *,
        max_msat: int,
        kind: int = 5050,
        provider: str | None = None,
        model: str | None = None,
        max_tokens: int | None = None,
        params: Mapping[str, str] | Iterable[Sequence[str]] = (),
        output: str | None = None,
        encrypted: bool | Scheme = False,
        timeout: float = 300.0,  # noqa: ASYNC109
    ) -> AsyncGenerator[Update, None]:
        """Buy one answer: the updates as they come, the last of them `Done` or `Failed`.

        `max_msat` is the most that it may cost (routing fees of the wallet come on top): it is sent as the
        `bid`, and no invoice above it is paid. `provider` is an npub or hex. With one, its first payable quote
        is paid at once. Without, the job is a broadcast: anybody may answer, whoever works without asking
        for money first is let do so, else the cheapest quote within `Options.window` is paid; exactly one is.
        Where several providers hold a balance of yours, each of them may take a broadcast: name one.

        An invoice is paid only if it decodes, is over exactly the quoted amount, is for the wallet's network
        and has not expired; and once only, whatever comes after: when the wallet does not know what became
        of a payment, it is the result that is waited for. Without a payer the `Due` update has the invoice.

        `encrypted` (True is NIP-44) needs a provider. `timeout` counts, in seconds, from the payment or from
        the beginning of the work; after it the job is cancelled.

        Leaving the iterator before the answer (close it: `contextlib.aclosing`) cancels the job as well: a
        quote is void then, of work under way the used tokens are billed, and the rest of a payment stays on
        the balance. Raises ValueError, before anything is sent, for what cannot be asked.
        """
        request = self._request(prompt, kind, provider, model, max_tokens, params, output, encrypted, max_msat)
        if timeout <= 0:
            raise ValueError("the time-out must be positive")
        knowing = asyncio.create_task(self._payers_network(), name="customer wallet")
        try:
            async with aclosing(patiently(knowing, "wallet", self._options)) as pauses:
                async for waiting in pauses:
                    yield waiting
            network = knowing.result()
        except WalletError as error:
            yield Failed("payment-failed", f"the wallet cannot be used, so nothing was asked: {error}")
            return
        purchase = Purchase(
            request,
            self.keys,
            self.relays,
            max_msat=max_msat,
            network=network,
            payer=self._payer,
            zapper=self._zapper,
            archive=self._archive,
            timeout=timeout,
            options=self._options,
        )
        async with aclosing(purchase.updates()) as updates:
            async for update in updates:
                yield update

    async def buy(
        self,
        prompt: str | Iterable[Input | str],
        *,
        max_msat: int,
        kind: int = 5050,
        provider: str | None = None,
        model: str | None = None,
        max_tokens: int | None = None,
        params: Mapping[str, str] | Iterable[Sequence[str]] = (),
        output: str | None = None,
        encrypted: bool | Scheme = False,
        timeout: float = 300.0,  # noqa: ASYNC109
    ) -> Done:
        """As `ask`, for who wants the answer only. Raises JobFailed, and ValueError as `ask` does.

        An answer whose receipt is wrong is an answer: look at `Done.verified` and `Done.problems`.
        """
        updates = self.ask(
            prompt,
            max_msat=max_msat,
            kind=kind,
            provider=provider,
            model=model,
            max_tokens=max_tokens,
            params=params,
            output=output,
            encrypted=encrypted,
            timeout=timeout,
        )
        async with aclosing(updates):
            async for update in updates:
                if isinstance(update, Done):
                    return update
                if isinstance(update, Failed):
                    raise JobFailed(update)
        raise AssertionError("the last update is Done or Failed")

    async def cancel(self, request: Event, provider: str | None = None) -> bool:
        """Publish the cancellation of a job of ours. True if a relay took it; the provider answers with the
        error "cancelled", and with a receipt if it had begun."""
        return await publish_cancel(self.relays, self.keys, request, _hex(provider))

    async def account(self, provider: str) -> Account:
        """Our account at a provider (npub or hex), as its receipts on the relays and in the archive tell it.

        Raises ArchiveError, and InvalidKey (a ValueError) for what is no public key.
        """
        return await fetch_account(
            self.relays, self.keys, parse_pubkey(provider), self._archive, timeout=self._options.query
        )

    async def balance(self, provider: str) -> AccountAnswer:
        """What a provider (npub or hex) itself says that we own there: `AccountAnswer.balance`, which is signed.

        Raises AccountFailed, and InvalidKey (a ValueError).
        """
        return await self._accounting.look(parse_pubkey(provider), "balance")

    async def statement(self, provider: str, *, limit: int = 50, before: int | None = None) -> AccountAnswer:
        """The balance and the newest entries of our statement there, or the newest below number `before`; fewer than
        `limit` (at most 500) where they do not fit into an event. Raises as `balance` does."""
        return await self._accounting.look(parse_pubkey(provider), "statement", limit, before)

    async def withdraw(
        self,
        provider: str,
        *,
        to: str | None = None,
        msat: int | None = None,
        processing: Callable[[AccountAnswer], None] | None = None,
    ) -> Withdrawn:
        """Have a provider pay out of our balance there, and wait until it has.

        `to` is an invoice over the amount, or a Lightning address; without it, it is the address in our own
        profile (kind 0). `msat`, in whole sats, is needed but for an invoice. `processing` gets what the provider
        says meanwhile. A failure with the code "unclear" or "no-answer" may still be paid: do not ask again
        before `AccountFailed.text` says so. Raises AccountFailed, and ValueError before anything is sent.
        """
        return await self._accounting.withdraw(parse_pubkey(provider), to, msat, processing)

    async def top_up(
        self, provider: str, msat: int, *, text: str = "", show: Callable[[Quoted], None] | None = None
    ) -> ToppedUp:
        """Zap a provider's profile, which tops our balance there up, and wait for the receipt that says so.

        Paid by the wallet; without one, `show` gets the invoice for somebody to pay. `text` is the zap's comment,
        for all to read. Raises AccountFailed, and ValueError before anything is asked.
        """
        if msat <= 0 or msat % 1000:
            raise ValueError("a whole number of sats above 0 can be zapped")
        if self._payer is None and show is None:
            raise ValueError("without a wallet, somebody must be shown the invoice")
        pubkey = parse_pubkey(provider)
        try:
            network = await self._payers_network() or REAL
            quote = await self._zapper.quote(pubkey, msat, network=network, text=text)
        except WalletError as error:
            raise AccountFailed("payment-failed", f"the wallet cannot be used, so nothing was asked: {error}") from None
        except Unpayable as error:
            raise AccountFailed("unpayable", str(error)) from None
        return await self._accounting.top_up(quote, self._payer, show)

    async def announcements(self, provider: str) -> list[Announcement]:
        """What a provider (npub or hex) announces. Raises InvalidKey (a ValueError)."""
        return await fetch_announcements(self.relays, parse_pubkey(provider), timeout=self._options.query)

    def _request(
        self,
        prompt: str | Iterable[Input | str],
        kind: int,
        provider: str | None,
        model: str | None,
        max_tokens: int | None,
        params: Mapping[str, str] | Iterable[Sequence[str]],
        output: str | None,
        encrypted: bool | Scheme,
        max_msat: int,
    ) -> JobRequest:
        """The signed request, read back as the provider will read it. Raises ValueError."""
        if max_msat < 0:
            raise ValueError("the limit must not be negative")
        scheme: Scheme | None = encrypted if isinstance(encrypted, str) else ("nip44" if encrypted else None)
        if scheme is not None and provider is None:
            raise ValueError("an encrypted job names the provider that can read it")
        named = _hex(provider)
        pairs = list(params.items()) if isinstance(params, Mapping) else [tuple(param) for param in params]
        if model is not None:
            pairs.append(("model", model))
        if max_tokens is not None:
            pairs.append(("max_tokens", str(max_tokens)))
        draft = request_draft(
            kind,
            [prompt] if isinstance(prompt, str) else prompt,
            params=pairs,
            output=output,
            bid=max_msat,
            relays=self._named,
            providers=[] if named is None else [named],
            keys=self.keys,
            scheme=scheme,
        )
        # An event's id is its content's hash: the same question twice in a second would be one job.
        draft.tags.append(["salt", secrets.token_hex(8)])
        request = parse_request(draft.sign(self.keys, int(time.time())), self.keys)
        request.require_input()
        return request

    async def _payers_network(self) -> str | None:
        """The network of the wallet; None without one. Raises WalletError."""
        if self._payer is None:
            return None
        if self._network is None:
            try:
                self._network = (await self._payer.info()).network
            except WalletError as error:
                if error.code not in ("unsupported", "restricted"):
                    raise
                # A connection that may pay and tell nothing of itself is one to real money.
                self._network = "mainnet"
        return self._network


def _hex(provider: str | None) -> str | None:
    return None if provider is None else parse_pubkey(provider)
