"""What customers ask of their account: only their own, never in clear, each withdrawal once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dvm.jobs.balances import payouts
from dvm.jobs.balances.accounts import Accounts
from dvm.jobs.balances.payees import fee_limit
from dvm.ledger import PayoutState
from dvm.lightning.base import WalletError
from dvm.lightning.lnurl import LnurlError, PayParams
from dvm.nip90 import AccountAnswer, account_request_draft, parse_account_answer
from dvm.nostr.encryption import Scheme
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys
from tests.standins.cashier import DEPOSIT, QUICK, Cashier, Purse, invoice
from tests.standins.waiting import until


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(payouts, "MAX_PAUSE", 0.01)
    return


class Addresses:
    """Lightning addresses of others, as `LnurlClient` sees them."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.gives: list[str] = []
        self.fails: LnurlError | None = None
        self.hangs = False

    async def fetch(self, address: str) -> PayParams:
        self.asked.append(address)
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails is not None:
            raise self.fails
        return PayParams(f"https://{address}", "https://callback", 1, 10**12, "[]")

    async def invoice(self, _params: PayParams, msat: int, _comment: str, *, network: str) -> str:
        self.gives.append(invoice(msat, network=network))
        return self.gives[-1]


class Desk:
    """Accounts with the parts of a `Cashier`."""

    def __init__(self, cashier: Cashier) -> None:
        self.cashier = cashier
        self.addresses = Addresses()
        addresses: Any = self.addresses
        self.accounts = Accounts(cashier.shop, cashier.outbox, cashier.payouts, addresses)

    def request(self, method: Any, *, by: Keys | None = None, scheme: Scheme = "nip44", **fields: Any) -> Event:
        keys, now = by or self.cashier.customer, fields.pop("at", self.cashier.shop.now())
        return account_request_draft(keys, self.cashier.keys.pubkey, method, now, scheme=scheme, **fields).sign(
            keys, now
        )

    def hear(self, event: Event) -> None:
        self.accounts.on_request(event, "wss://relay.example")

    def answers(self, event: Event, by: Keys | None = None) -> list[AccountAnswer]:
        keys = by or self.cashier.customer
        found = {each.id: each for each in self.cashier.relays.events if each.kind == 7092}
        mine = [each for each in found.values() if each.values("p") == [keys.pubkey]]
        return [answer for each in mine if (answer := parse_account_answer(each, keys)).request == event.id]

    async def ask(self, method: Any, **fields: Any) -> AccountAnswer:
        """The first answer."""
        by = fields.get("by")
        event = self.request(method, **fields)
        self.hear(event)
        await until(lambda: self.answers(event, by))
        return self.answers(event, by)[0]

    async def outcome(self, event: Event) -> AccountAnswer:
        """The last word about a withdrawal."""
        await until(lambda: [each for each in self.answers(event) if each.status != "processing"])
        return self.answers(event)[-1]


@asynccontextmanager
async def desk(data: Path, *acts: str, funded: int = DEPOSIT, **settings: Any) -> AsyncIterator[Desk]:
    cashier = Cashier(data, Purse(*acts), settings=replace(QUICK, **settings))
    await cashier.open()
    at = Desk(cashier)
    try:
        if funded:
            await cashier.fund(funded)
        yield at
    finally:
        await at.accounts.close()
        await cashier.close()


async def test_the_balance(tmp_path: Path) -> None:
    async with desk(tmp_path, "pending") as at:
        answer = await at.ask("balance")
        assert answer.balance is not None
        assert (answer.balance.available, answer.balance.leaving) == (DEPOSIT, 0)
        at.hear(at.request("withdraw", bolt11=invoice(100_000)))
        await until(lambda: at.cashier.purse.asked)
        answer = await at.ask("balance")
        assert answer.balance is not None
        assert (answer.balance.available, answer.balance.leaving) == (DEPOSIT - 105_000, 105_000)


async def test_nobody_sees_anothers_account(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        other = Keys.generate()
        answer = await at.ask("balance", by=other)
        assert answer.balance is not None
        assert answer.balance.available == 0
        assert (await at.ask("statement", by=other)).entries == ()


async def test_a_statement_in_pages(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        for _ in range(4):
            await at.cashier.fund(1000)
        newest = await at.ask("statement", limit=2)
        assert [each.seq for each in newest.entries] == [5, 4]
        assert newest.entries[0].after == DEPOSIT + 4000
        older = await at.ask("statement", limit=10, before=4)
        assert [each.seq for each in older.entries] == [3, 2, 1]


@pytest.mark.parametrize("scheme", ["nip44", "nip04"])
async def test_answers_come_in_the_scheme_of_the_question(tmp_path: Path, scheme: Scheme) -> None:
    async with desk(tmp_path) as at:
        assert (await at.ask("balance", scheme=scheme)).scheme == scheme
        event = at.request("withdraw", bolt11=invoice(100_000), scheme=scheme)
        at.hear(event)
        assert (await at.outcome(event)).scheme == scheme


async def test_answers_go_where_the_customer_listens(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        answer = await at.ask("balance", relays=["wss://customer.example"])
        assert list(at.cashier.relays.named[answer.event.id]) == ["wss://customer.example"]


async def test_a_withdrawal_to_an_invoice(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        event = at.request("withdraw", bolt11=invoice(100_000).upper())
        at.hear(event)
        answer = await at.outcome(event)
        assert answer.withdrawal is not None
        assert (answer.withdrawal.state, answer.withdrawal.msat) == ("paid", 100_000)
        row = await at.cashier.store.payout(event.id)
        assert row is not None
        assert row.fee_limit_msat == 5_000


async def test_a_withdrawal_to_a_lightning_address(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        event = at.request("withdraw", lud16="me@example.com", amount_msat=200_000)
        at.hear(event)
        assert (await at.outcome(event)).status == "success"
        assert at.addresses.asked == ["me@example.com"]


async def test_a_withdrawal_to_the_address_in_the_profile(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        profile = at.cashier.customer.sign(0, [], json.dumps({"lud16": "mine@example.com"}))
        at.cashier.relays.stored = [profile]
        event = at.request("withdraw", amount_msat=200_000)
        at.hear(event)
        assert (await at.outcome(event)).status == "success"
        assert at.addresses.asked == ["mine@example.com"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"lud16": 7}', '{"lud16": "https://evil"}', "[" * 5000, "{}"])
async def test_a_profile_without_an_address(tmp_path: Path, content: str) -> None:
    async with desk(tmp_path) as at:
        at.cashier.relays.stored = [at.cashier.customer.sign(0, [], content)]
        assert (await at.ask("withdraw", amount_msat=200_000)).code == "no-address"


DAY = 86_400  # these are made when the tests are collected
REFUSED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("too-small", {"bolt11": invoice(9_999, expiry=DAY)}, {}),
    ("insufficient", {"bolt11": invoice(DEPOSIT, expiry=DAY)}, {}),
    ("insufficient", {"lud16": "me@example.com", "amount_msat": DEPOSIT - 4_000}, {}),
    ("invalid-invoice", {"bolt11": invoice(None, expiry=DAY)}, {}),
    ("invalid-invoice", {"bolt11": invoice(100_000, network="mainnet", expiry=DAY)}, {}),
    ("invalid-invoice", {"bolt11": invoice(100_000, expiry=20)}, {}),
    ("invalid-invoice", {"bolt11": "lnbcrt1" + "q" * 200}, {}),
    ("invalid-invoice", {"bolt11": invoice(100_000, expiry=DAY), "amount_msat": 100_001}, {}),
    ("daily-limit", {"bolt11": invoice(100_000, expiry=DAY)}, {"payout_day_msat": 99_000}),
    ("unavailable", {"bolt11": invoice(100_000, expiry=DAY)}, {"payouts_enabled": False}),
]


@pytest.mark.parametrize(("code", "asked", "settings"), REFUSED)
async def test_what_is_refused(tmp_path: Path, code: str, asked: dict[str, Any], settings: dict[str, Any]) -> None:
    async with desk(tmp_path, **settings) as at:
        event = at.request("withdraw", **asked)
        at.hear(event)
        answer = await at.outcome(event)
        assert (answer.status, answer.code) == ("error", code)
        assert answer.withdrawal is not None
        assert answer.withdrawal.state == "refused"
        assert await at.cashier.available() == DEPOSIT
        assert at.cashier.purse.asked == []
        row = await at.cashier.store.payout(event.id)
        assert row is not None
        assert row.state is PayoutState.REFUSED


@pytest.mark.parametrize("wallet", ["cannot pay", "is away"])
async def test_a_wallet_that_cannot_pay(tmp_path: Path, wallet: str) -> None:
    async with desk(tmp_path) as at:
        if wallet == "cannot pay":
            at.cashier.purse.pays = False
        else:
            at.cashier.purse.error = WalletError("unreachable", "away")
        assert (await at.ask("withdraw", bolt11=invoice(100_000))).code == "unavailable"


async def test_an_address_that_fails_or_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dvm.jobs.balances.accounts.ADDRESS_SECONDS", 0.02)
    async with desk(tmp_path) as at:
        at.addresses.fails = LnurlError("no such user")
        assert (await at.ask("withdraw", lud16="me@example.com", amount_msat=100_000)).code == "address-failed"
        at.addresses.fails, at.addresses.hangs = None, True
        assert (await at.ask("withdraw", lud16="me@example.com", amount_msat=100_000)).code == "address-failed"


async def test_whoever_has_no_money_makes_us_ask_nobody(tmp_path: Path) -> None:
    async with desk(tmp_path, funded=0) as at:
        assert (await at.ask("withdraw", lud16="me@example.com", amount_msat=100_000)).code == "insufficient"
        assert at.addresses.asked == []


async def test_our_own_invoice_is_not_paid(tmp_path: Path) -> None:
    from dvm.ledger import PendingPayment
    from dvm.lightning.bolt11 import decode

    async with desk(tmp_path) as at:
        ours = invoice(100_000)
        said, now = decode(ours), at.cashier.shop.now()
        await at.cashier.store.expect(
            PendingPayment(said.payment_hash, "zap", "ab" * 32, None, ours, 100_000, now, said.expires_at)
        )
        assert (await at.ask("withdraw", bolt11=ours)).code == "invoice-used"


async def test_a_request_is_handled_once_also_over_a_restart(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        event = at.request("withdraw", lud16="me@example.com", amount_msat=100_000)
        for _ in range(5):
            at.hear(event)
        await at.outcome(event)
        await until(lambda: not at.cashier.payouts.unresolved())
        left = await at.cashier.available()
        assert len(at.addresses.asked) == 1, "its address is asked once"
    again = Cashier(tmp_path)
    again.keys, again.customer = at.cashier.keys, at.cashier.customer
    await again.open()
    after = Desk(again)
    after.hear(event)
    answer = await after.outcome(event)
    assert (answer.status, await again.available()) == ("success", left)
    assert after.addresses.asked == []
    assert again.purse.asked == []
    await after.accounts.close()
    await again.close()


async def test_a_refusal_stands_when_the_request_comes_again(tmp_path: Path) -> None:
    async with desk(tmp_path, funded=1000) as at:
        event = at.request("withdraw", bolt11=invoice(100_000))
        at.hear(event)
        assert (await at.outcome(event)).code == "insufficient"
        await at.cashier.fund()
        at.hear(event)
        await until(lambda: len(at.answers(event)) >= 1 and not at.accounts._tasks)
        assert at.cashier.purse.asked == []


async def test_what_is_old_from_the_future_or_expired_is_not_answered(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        now = at.cashier.shop.now()
        for at_ in (now - 700, now + 1000):
            at.hear(at.request("withdraw", bolt11=invoice(100_000), at=at_))
        assert not at.accounts._tasks
        assert at.cashier.relays.events == []


async def test_what_is_for_somebody_else_or_from_ourselves_is_not_answered(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        other = Keys.generate()
        draft = account_request_draft(at.cashier.customer, other.pubkey, "balance", at.cashier.shop.now())
        at.hear(draft.sign(at.cashier.customer, at.cashier.shop.now()))
        at.hear(at.request("balance", by=at.cashier.keys))
        assert not at.accounts._tasks


async def test_a_request_in_clear_is_refused_encrypted(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        tags = [["p", at.cashier.keys.pubkey]]
        event = at.cashier.customer.sign(7091, tags, '[["method","balance"]]', at.cashier.shop.now())
        at.hear(event)
        await until(lambda: at.answers(event))
        assert at.answers(event)[0].code == "not-encrypted"


async def test_so_many_requests_a_minute_and_one_word_about_it(tmp_path: Path) -> None:
    async with desk(tmp_path, account_requests_per_minute=3) as at:
        events = [at.request("balance", at=at.cashier.shop.now() - number) for number in range(20)]
        for event in events:
            at.hear(event)
        await until(lambda: not at.accounts._tasks)
        said = [answer for event in events for answer in at.answers(event)]
        assert [each.status for each in said].count("success") == 3
        assert [each.code for each in said if each.status == "error"] == ["rate-limited"]
        other = Keys.generate()
        assert (await at.ask("balance", by=other)).status == "success"


async def test_ever_new_keys_are_bounded_and_so_is_what_they_are_told(tmp_path: Path) -> None:
    async with desk(tmp_path, account_requests_per_minute_total=5, refusals_per_minute=2) as at:
        for _ in range(20):
            at.hear(at.request("withdraw", by=Keys.generate(), bolt11=invoice(100_000)))
        await until(lambda: not at.accounts._tasks)
        assert len([each for each in at.cashier.relays.events if each.kind == 7092]) == 5 + 2
        assert len(await at.cashier.store.payouts((PayoutState.REFUSED,))) == 5


async def test_withdrawals_of_one_balance_at_once_take_no_more_than_there_is(tmp_path: Path) -> None:
    async with desk(tmp_path, funded=300_000) as at:
        events = [at.request("withdraw", bolt11=invoice(100_000)) for _ in range(6)]
        for event in events:
            at.hear(event)
        answers = [await at.outcome(event) for event in events]
        assert sum(each.status == "success" for each in answers) == 2
        assert {each.code for each in answers if each.status == "error"} == {"insufficient"}
        await until(lambda: not at.cashier.payouts.unresolved())
        assert await at.cashier.available() == 300_000 - 2 * 100_100
        at.cashier.audited()


async def test_close_ends_what_waits_for_a_stranger(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        at.addresses.hangs = True
        event = at.request("withdraw", lud16="me@example.com", amount_msat=100_000)
        at.hear(event)
        await until(lambda: at.addresses.asked)
        await at.accounts.close()
        assert not at.accounts._tasks
        assert await at.cashier.store.payout(event.id) is None, "the next start takes it up"


@pytest.mark.parametrize(
    ("msat", "limit"), [(1, 5_000), (500_000, 5_000), (500_100, 5_001), (10**15, 10**13), (999_999, 9_999)]
)
def test_the_fee_limit_is_the_larger_one_in_whole_msat(msat: int, limit: int) -> None:
    assert fee_limit(msat, fee_msat=5_000, fee_ppm=10_000) == limit
