"""Everything that can be sold and paid back, with Alby's own wallet service before a real LNbits, in either
encryption of NIP-47; the service is stopped and started in between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dvm.lightning.bolt11 import decode
from dvm.lightning.lnbits import PAYMENTS
from dvm.lightning.nip47 import INFO, NOTIFICATIONS, REQUEST, RESPONSE, SCHEME_NAMES
from dvm.nostr.encryption import Scheme, decrypt
from dvm.nostr.event import Event
from dvm.nostr.filters import Filter
from dvm.nostr.keys import Keys
from dvm.nostr.options import PoolOptions
from dvm.nostr.pool import RelayPool
from tests.e2e.market import Market, Wallets, market
from tests.standins.alby import AlbyService
from tests.standins.lnbits import Lnbits, running_lnbits
from tests.standins.relay import TestRelay

pytestmark = [pytest.mark.lnbits, pytest.mark.node]


@pytest.fixture(scope="module")
def lnbits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lnbits]:
    with running_lnbits(tmp_path_factory.mktemp("lnbits")) as server:
        yield server


@asynccontextmanager
async def service(relay: str, lnbits: Lnbits, scheme: Scheme) -> AsyncIterator[AlbyService]:
    process = AlbyService(relay, lnbits, lnbits.shop, scheme)
    await process.start()
    try:
        yield process
    finally:
        await process.end()


@asynccontextmanager
async def overheard(relay: str, alby: AlbyService) -> AsyncIterator[list[Event]]:
    """All that is said over the wallet's connection: its kinds are ephemeral, who does not listen misses them."""
    said: list[Event] = []
    pool = RelayPool([relay], [], options=PoolOptions(allow_private=True))
    kinds = [INFO, REQUEST, RESPONSE, *NOTIFICATIONS.values()]
    people = [alby.connection.wallet, alby.connection.keys.pubkey]
    pool.subscribe(Filter(kinds=kinds, authors=people), lambda event, _relay: said.append(event))
    pool.start()
    assert await pool.wait_connected(1, 10)
    try:
        yield said
    finally:
        await pool.close()


@pytest.mark.parametrize("scheme", ["nip04", "nip44"])
async def test_jobs_zaps_top_ups_and_withdrawals_while_albys_service_comes_and_goes(
    relay: TestRelay, lnbits: Lnbits, tmp_path: Path, scheme: Scheme
) -> None:
    async def pay(bolt11: str) -> None:
        await lnbits.pay(lnbits.customer, bolt11)

    async def invoice(msat: int) -> str:
        return await lnbits.invoice(lnbits.customer, msat // 1000)

    before = await balance(lnbits)
    async with service(relay.url, lnbits, scheme) as alby, overheard(relay.url, alby) as said:
        table = {"type": "nwc", "timeout_seconds": 3}
        wallets = Wallets(table, {"DVM_NWC_URI": alby.connection.uri()}, pay, invoice)
        async with market(tmp_path / "shop", relay.url, wallets) as each:
            await each.buy()
            await paid_and_asked_for_while_it_is_away(each, alby)
            await each.buy_by_zap()
            topped = await each.top_up(300_000)
            await each.spend()
            first = await each.withdraw(100_000)
            second = await withdrawn_while_it_is_away(each, alby)
            await paid_by_lnbits(lnbits, second)
            left = (await each.spend()).after
            assert left < topped.after - 150_000
            accounts = await each.books_are_right()
            assert accounts["customers"] == left
            # 21 sats each for three jobs by invoice and one by zap, and the top-up; less what was withdrawn.
            assert await balance(lnbits) - before == 4 * 21_000 + 300_000 + first.paid - 50_000
            assert accounts["wallet"] == -(await balance(lnbits) - before)
    encrypted_as_announced(said, alby, scheme)


async def paid_and_asked_for_while_it_is_away(each: Market, alby: AlbyService) -> None:
    job = await each.ask()
    quote = await each.buyer.quote(job)
    assert quote.bolt11 is not None
    await alby.end()
    await each.pay(quote.bolt11)  # nobody tells the shop
    later = await each.ask()
    await each.shop.said("the wallet does not answer; trying again: see `dvm doctor`")
    await alby.start()
    await each.buyer.result(job, 60)
    await each.buyer.receipt(job, 60)
    quote = await each.buyer.quote(later, 60)
    assert quote.bolt11 is not None
    await each.pay(quote.bolt11)
    await each.buyer.receipt(later, 60)


async def withdrawn_while_it_is_away(each: Market, alby: AlbyService) -> str:
    """The shop asks for the payment, nobody hears it, and it cannot know: it ends before it has learned more."""
    bolt11 = await each.wallets.invoice(50_000)
    await alby.end()
    request = await each.ask_to_withdraw(bolt11)
    await each.answer(request, "processing")
    await each.shop.kill()
    await alby.start()
    await each.shop.start()
    answer = await each.answer(request, "success")
    assert answer.withdrawal is not None
    assert (answer.withdrawal.state, answer.withdrawal.msat) == ("paid", 50_000)
    return bolt11


def encrypted_as_announced(said: list[Event], alby: AlbyService, scheme: Scheme) -> None:
    """Every event was in that scheme, and said so as NIP-47 has it."""
    wallet, client = alby.connection.wallet, alby.connection.keys
    assert {event.tag("encryption") for event in said if event.kind == INFO} == {SCHEME_NAMES[scheme]}
    kinds = {REQUEST: client.pubkey, RESPONSE: wallet, NOTIFICATIONS[scheme]: wallet}
    spoken = [event for event in said if event.kind != INFO]
    assert {(event.kind, event.pubkey) for event in spoken} == set(kinds.items())
    for event in spoken:
        assert decrypted_with(client, wallet, event) == scheme
    asked = {event.tag("encryption") for event in spoken if event.kind == REQUEST}
    assert asked == {None if scheme == "nip04" else SCHEME_NAMES[scheme]}


def decrypted_with(keys: Keys, wallet: str, event: Event) -> str:
    content, scheme = decrypt(keys, wallet, event.content)
    assert content.startswith("{")
    return scheme


async def balance(lnbits: Lnbits) -> int:
    """Of the shop's wallet, in msat."""
    return int((await lnbits.get("/api/v1/wallet", lnbits.shop.invoice))["balance"])


async def paid_by_lnbits(lnbits: Lnbits, bolt11: str) -> None:
    found = await lnbits.get(f"{PAYMENTS}/{decode(bolt11).payment_hash}", lnbits.shop.admin)
    assert found["paid"]
    assert found["details"]["amount"] == -50_000
