"""Who is taken on: named, trusted, at work, or with a balance; and each other hears a code."""

from __future__ import annotations

import time
from pathlib import Path

from dvm.jobs.admission import Book, Policy, Refusal, denied, first_refusal, jobs_per_minute_total, strangers
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys
from tests.standins.customer import customer
from tests.standins.mining import mine
from tests.standins.relay import local_relay
from tests.standins.workshop import workshop

ADA, BOB, EVE = Keys.generate(), Keys.generate(), Keys.generate()


class EmptyBook:
    def open_quotes(self, customer: str) -> int:
        return 0

    def open_quotes_total(self) -> int:
        return 0

    def deleted_quotes(self) -> int:
        return 0


BOOK: Book = EmptyBook()


class Trusting:
    def __init__(self, *keys: Keys, loaded: bool = True) -> None:
        self._keys, self.loaded = [each.pubkey for each in keys], loaded

    def __contains__(self, pubkey: object) -> bool:
        return pubkey in self._keys


def ask(keys: Keys, bits: int = 0, target: int | None = None) -> Event:
    tags = [["i", "hello", "text"]]
    return mine(keys, 5050, tags, bits, int(time.time()), target) if bits else keys.sign(5050, tags)


def said(policy: Policy, request: Event) -> tuple[str, bool] | None:
    """The code, and whether a balance overrules it."""
    refusal = policy(request, BOOK)
    return None if refusal is None else (refusal.code, refusal.prepaid)


def test_whom_the_operator_denies_is_refused_whatever_they_own() -> None:
    policy = denied({EVE.pubkey})
    assert said(policy, ask(EVE)) == ("not-allowed", False)
    assert said(policy, ask(ADA)) is None


def test_a_list_alone_admits_nobody_else() -> None:
    policy = strangers({ADA.pubkey})
    assert said(policy, ask(ADA)) is None
    assert said(policy, ask(EVE)) == ("not-allowed", False)


def test_strangers_prove_work_and_who_is_no_stranger_need_not() -> None:
    policy = strangers({ADA.pubkey}, pow_bits=8, trust=Trusting(BOB))
    assert said(policy, ask(ADA)) is None
    assert said(policy, ask(BOB)) is None
    assert said(policy, ask(EVE)) == ("pow-required", True)
    assert said(policy, ask(EVE, 8)) is None
    assert said(policy, ask(EVE, 8, target=7)) == ("pow-required", True)  # only lucky
    refusal = policy(ask(EVE), BOOK)
    assert refusal is not None
    assert refusal.text.startswith("8 bits ")


def test_a_web_of_trust_admits_whom_it_holds_and_one_that_is_not_there_yet_says_come_again() -> None:
    assert said(strangers((), trust=Trusting(BOB)), ask(BOB)) is None
    assert said(strangers((), trust=Trusting(BOB)), ask(EVE)) == ("not-trusted", True)
    assert said(strangers((), trust=Trusting(loaded=False)), ask(EVE)) == ("busy", True)
    assert said(strangers((), pow_bits=8, trust=Trusting(loaded=False)), ask(EVE, 8)) is None


def test_refused_strangers_take_no_place_of_others() -> None:
    policies = [strangers((), pow_bits=8), jobs_per_minute_total(3)]

    def refusal(request: Event) -> Refusal | None:
        return first_refusal(policies, request, BOOK)

    for _ in range(20):
        assert (found := refusal(ask(EVE))) is not None
        assert found.code == "pow-required"
    assert [refusal(ask(ADA, 8)) for _ in range(3)] == [None, None, None]
    assert (found := refusal(ask(ADA, 8))) is not None
    assert found.code == "busy"


# A shop


async def test_a_stranger_is_told_what_is_asked_does_it_and_is_quoted(tmp_path: Path) -> None:
    policies = [strangers((), pow_bits=8)]
    async with local_relay() as url, workshop(url, data=tmp_path, policies=policies) as shop, customer(url) as eve:
        tags = [["i", "hello", "text"], ["p", shop.keys.pubkey]]
        refused = await eve.feedback(await eve.send(eve.keys.sign(5050, tags)), "error")
        assert refused.text.startswith("pow-required: 8 bits")
        assert await eve.quote(await eve.send(mine(eve.keys, 5050, tags, 8, int(time.time()))))


async def test_whoever_has_paid_before_needs_neither_work_nor_trust(tmp_path: Path) -> None:
    policies = [strangers((), pow_bits=8, trust=Trusting())]
    async with local_relay() as url, workshop(url, data=tmp_path, policies=policies) as shop, customer(url) as eve:
        tags = [["i", "hello", "text"], ["p", shop.keys.pubkey]]
        first = await eve.send(mine(eve.keys, 5050, tags, 8, int(time.time())))
        await shop.pay(eve, first)
        await eve.receipt(first)
        assert (await shop.store.balance(eve.keys.pubkey)).available
        second = await eve.ask("hello", providers=[shop.keys.pubkey], params=[("max_tokens", "1")])
        assert await eve.result(second)
        too_dear = await eve.ask("hello " * 5000, providers=[shop.keys.pubkey])
        assert (await eve.feedback(too_dear, "error")).text.startswith("pow-required")


def test_the_page_of_codes_has_those_of_admission() -> None:
    page = (Path(__file__).parents[2] / "docs/events.md").read_text()
    for code in ("not-allowed", "pow-required", "not-trusted", "busy"):
        assert f"`{code}`" in page
