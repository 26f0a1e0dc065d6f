"""Accounts over Nostr: what is asked is read back, what is answered fits, and what is hostile is refused."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvm.nip90 import (
    ACCOUNT_ANSWER,
    ACCOUNT_REQUEST,
    AccountAnswer,
    AccountRequest,
    AnswerTooLarge,
    InvalidAccountAnswer,
    InvalidAccountRequest,
    StatedBalance,
    StatedEntry,
    Withdrawal,
    account_request_draft,
    addressee,
    is_lightning_address,
    make_account_answer,
    parse_account_answer,
    parse_account_request,
    untimely,
)
from dvm.nip90.account import MAX_ENTRIES
from dvm.nip90.wire import MAX_MSAT, Draft, tags_to_json
from dvm.nostr.encryption import Scheme, decrypt, encrypt
from dvm.nostr.event import Event
from tests.nip90.samples import CUSTOMER, HASH, NOW, PROVIDER, STRANGER, unsigned

SCHEMES: tuple[Scheme, ...] = ("nip44", "nip04")
INVOICE = "lnbc10n1pj" + "q" * 200


def asked(method: str, scheme: Scheme = "nip44", **more: Any) -> Event:
    return account_request_draft(CUSTOMER, PROVIDER.pubkey, method, NOW, scheme=scheme, **more).sign(  # type: ignore[arg-type]
        CUSTOMER, NOW
    )


def hidden(*tags: list[str], outer: list[list[str]] | None = None) -> Event:
    """A request with any tags inside."""
    content = encrypt("nip44", CUSTOMER, PROVIDER.pubkey, tags_to_json(list(tags)))
    outer = [["p", PROVIDER.pubkey], ["encrypted"]] if outer is None else outer
    return CUSTOMER.sign(ACCOUNT_REQUEST, outer, content, NOW)


def refusal(event: Event) -> str:
    with pytest.raises(InvalidAccountRequest) as refused:
        parse_account_request(event, PROVIDER)
    assert str(refused.value) == f"{refused.value.code}: {refused.value.text}"
    return refused.value.code


def entry(seq: int, **more: Any) -> StatedEntry:
    return replace(StatedEntry(seq, HASH, NOW + seq, 21_000, 1_165, 19_835 + seq, "cd" * 32), **more)


def answered(request: AccountRequest, **more: Any) -> AccountAnswer:
    """What the customer reads of an answer to it."""
    answer = make_account_answer(PROVIDER, request, NOW + 1, **more)
    assert answer.verify()
    return parse_account_answer(answer, CUSTOMER, request.event)


# --- asking ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_balance_is_asked_for(scheme: Scheme) -> None:
    event = asked("balance", scheme, relays=["wss://a.example", "wss://b.example"])
    request = parse_account_request(event, PROVIDER)
    assert (request.method, request.scheme, request.customer) == ("balance", scheme, CUSTOMER.pubkey)
    assert (request.id, request.relays) == (event.id, ("wss://a.example", "wss://b.example"))
    assert request == parse_account_request(event, CUSTOMER)


def test_a_request_shows_relays_nothing_but_the_provider_and_expires() -> None:
    event = asked("withdraw", amount_msat=21_000, lud16="name@example.com")
    assert event.tags == [["p", PROVIDER.pubkey], ["encrypted"], ["expiration", str(NOW + 600)]]
    assert not any(secret in event.to_json() for secret in ("withdraw", "21000", "example.com"))
    assert (untimely(event, NOW + 599), untimely(event, NOW + 600, max_age=0)) == (None, "expired")


def test_the_same_question_twice_in_a_second_is_two_requests() -> None:
    assert asked("withdraw", amount_msat=1000).id != asked("withdraw", amount_msat=1000).id


@pytest.mark.parametrize(
    ("given_", "limit", "before"), [({}, 50, None), ({"limit": 1}, 1, None), ({"limit": 500, "before": 7}, 500, 7)]
)
def test_a_statement_is_asked_for(given_: dict[str, int], limit: int, before: int | None) -> None:
    request = parse_account_request(asked("statement", **given_), PROVIDER)
    assert (request.method, request.limit, request.before) == ("statement", limit, before)


@pytest.mark.parametrize(
    "given_",
    [
        {"bolt11": INVOICE},
        {"bolt11": INVOICE.upper(), "amount_msat": 1_001},
        {"lud16": "name@example.com", "amount_msat": 21_000},
        {"amount_msat": 21_000},
    ],
)
def test_a_withdrawal_is_asked_for(given_: dict[str, Any]) -> None:
    request = parse_account_request(asked("withdraw", **given_), PROVIDER)
    assert request.method == "withdraw"
    assert {name: getattr(request, name) for name in given_} == given_
    assert [name for name in ("bolt11", "lud16", "amount_msat") if getattr(request, name) is not None] == [
        name for name in ("bolt11", "lud16", "amount_msat") if name in given_
    ]


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ([], "invalid-method"),
        ([["method"]], "invalid-method"),
        ([["method", "Balance"]], "invalid-method"),
        ([["method", "balance"], ["method", "withdraw"]], "invalid-method"),
        ([["method", "statement"], ["limit", "0"]], "invalid-limit"),
        ([["method", "statement"], ["limit", str(MAX_ENTRIES + 1)]], "invalid-limit"),
        ([["method", "statement"], ["limit", "１"]], "invalid-limit"),
        ([["method", "statement"], ["limit", "5"], ["limit", "5"]], "invalid-limit"),
        ([["method", "statement"], ["before", "0"]], "invalid-limit"),
        ([["method", "statement"], ["before", "-1"]], "invalid-limit"),
        ([["method", "withdraw"]], "invalid-amount"),
        ([["method", "withdraw"], ["amount", "0"]], "invalid-amount"),
        ([["method", "withdraw"], ["amount", "-1000"]], "invalid-amount"),
        ([["method", "withdraw"], ["amount", "1e3"]], "invalid-amount"),
        ([["method", "withdraw"], ["amount", " 1000"]], "invalid-amount"),
        ([["method", "withdraw"], ["amount", "1001"]], "invalid-amount"),
        ([["method", "withdraw"], ["amount", str(MAX_MSAT + 1000)]], "invalid-amount"),
        ([["method", "withdraw"], ["amount", "1000"], ["amount", "2000"]], "invalid-amount"),
        ([["method", "withdraw"], ["bolt11", INVOICE], ["amount", "0"]], "invalid-amount"),
        ([["method", "withdraw"], ["lud16", "a@b.example"]], "invalid-amount"),
        ([["method", "withdraw"], ["lud16", "a@b.example"], ["bolt11", INVOICE]], "invalid-destination"),
        ([["method", "withdraw"], ["bolt11", INVOICE], ["bolt11", INVOICE]], "invalid-destination"),
        ([["method", "withdraw"], ["bolt11", "lnbc1é"]], "invalid-destination"),
        ([["method", "withdraw"], ["bolt11", "lnBC10n1pj"]], "invalid-destination"),
        ([["method", "withdraw"], ["bolt11", "ln" + "q" * 7088]], "invalid-destination"),
        ([["method", "withdraw"], ["bolt11", ""]], "invalid-destination"),
        ([["method", "withdraw"], ["bolt11"]], "invalid-destination"),
        ([["method", "withdraw"], ["amount", "1000"], ["lud16", "a@b.example\n"]], "invalid-destination"),
        ([["method", "withdraw"], ["amount", "1000"], ["lud16", "a@b.example/x?y"]], "invalid-destination"),
        ([["method", "withdraw"], ["amount", "1000"], ["lud16", "a@user:secret@b"]], "invalid-destination"),
        ([["method", "balance"], ["relays", *map(str, range(17))]], "invalid-relays"),
        ([["method", "balance"], ["relays", "x" * 2049]], "invalid-relays"),
    ],
)
def test_what_is_not_exactly_said_is_refused(tags: list[list[str]], code: str) -> None:
    assert refusal(hidden(*tags)) == code


def test_only_what_is_encrypted_is_obeyed() -> None:
    clear = [["p", PROVIDER.pubkey], ["method", "withdraw"], ["amount", "1000"], ["lud16", "thief@example.com"]]
    assert refusal(CUSTOMER.sign(ACCOUNT_REQUEST, clear, "", NOW)) == "not-encrypted"
    # Beside encrypted content, what stands in clear is nothing: somebody else could not have put it there, but
    # neither must it ever be published.
    event = hidden(["method", "balance"], outer=[*clear, ["encrypted"]])
    assert parse_account_request(event, PROVIDER).method == "balance"


def test_what_is_for_others_or_damaged_is_undecryptable() -> None:
    event = asked("balance")
    with pytest.raises(InvalidAccountRequest) as refused:
        parse_account_request(event, STRANGER)
    assert refused.value.code == "invalid-tags"
    stolen = STRANGER.sign(ACCOUNT_REQUEST, event.tags, event.content, NOW)
    assert refusal(stolen) == "undecryptable"
    outer = [["p", PROVIDER.pubkey], ["encrypted"]]
    for content in ("", "x", "A" * 200, event.content[:-4] + "AAAA"):
        assert refusal(CUSTOMER.sign(ACCOUNT_REQUEST, outer, content, NOW)) == "undecryptable"
    for text in ("{}", "[1]", '[["method", 1]]', "[" * 5000, "not JSON"):
        content = encrypt("nip44", CUSTOMER, PROVIDER.pubkey, text)
        assert refusal(CUSTOMER.sign(ACCOUNT_REQUEST, outer, content, NOW)) == "undecryptable"


@pytest.mark.parametrize(
    ("outer", "code"),
    [
        ([["encrypted"]], "invalid-tags"),
        ([["encrypted"], ["p", PROVIDER.pubkey], ["p", STRANGER.pubkey]], "invalid-tags"),
        ([["encrypted"], ["p", STRANGER.pubkey]], "invalid-tags"),
        ([["encrypted"], ["p", "x"]], "invalid-tags"),
        ([["encrypted"], ["p", PROVIDER.pubkey], *([["x"]] * 1000)], "invalid-tags"),
        ([["encrypted"], ["p", PROVIDER.pubkey], ["expiration", "soon"]], "invalid-expiration"),
    ],
)
def test_the_outside_is_read_as_strictly(outer: list[list[str]], code: str) -> None:
    assert refusal(hidden(["method", "balance"], outer=outer)) == code


def test_another_kind_is_no_request() -> None:
    assert refusal(CUSTOMER.sign(5050, [["p", PROVIDER.pubkey]], "", NOW)) == "invalid-kind"


def test_whoever_asked_in_clear_or_unreadably_is_answered_encrypted() -> None:
    assert addressee(CUSTOMER.sign(ACCOUNT_REQUEST, [], "hello", NOW))[1:] == (CUSTOMER.pubkey, "nip44")
    assert addressee(asked("balance", "nip04"))[2] == "nip04"
    event = CUSTOMER.sign(ACCOUNT_REQUEST, [["p", PROVIDER.pubkey]], "hello", NOW)
    answer = make_account_answer(PROVIDER, addressee(event), NOW, status="error", code="not-encrypted", text="no")
    assert parse_account_answer(answer, CUSTOMER, event).code == "not-encrypted"


TAG = st.lists(st.text(max_size=20), max_size=5)
NAMED = st.builds(
    lambda name, rest: [name, *rest],
    st.sampled_from(["method", "amount", "bolt11", "lud16", "limit", "before", "relays", "status", "entry", "p", "e"]),
    st.lists(
        st.one_of(st.sampled_from(["withdraw", "statement", "5000", "-5", HASH, "success"]), st.text()), max_size=8
    ),
)
TAGS = st.lists(TAG | NAMED, max_size=8)


@given(TAGS, TAGS, st.sampled_from([ACCOUNT_REQUEST, ACCOUNT_ANSWER, 1]), st.booleans())
def test_whatever_comes_the_parsers_raise_only_their_own_error(
    inner: list[list[str]], outer: list[list[str]], kind: int, addressed: bool
) -> None:
    text = tags_to_json(inner).encode("utf-8", "replace").decode()
    content = encrypt("nip44", CUSTOMER, PROVIDER.pubkey, text)
    if addressed:
        outer = [["p", PROVIDER.pubkey], ["e", HASH], ["encrypted"], *outer]
    event = unsigned(kind, outer, content)
    with contextlib.suppress(InvalidAccountRequest):
        parse_account_request(event, PROVIDER)
    with contextlib.suppress(InvalidAccountAnswer):
        parse_account_answer(event, PROVIDER)


@pytest.mark.parametrize("address", ["a@b", "name.x+y_z-1@Example.COM:8443"])
def test_addresses(address: str) -> None:
    assert is_lightning_address(address)
    assert not is_lightning_address(f"A{address}")
    assert not is_lightning_address(f"{address}\n")
    assert not is_lightning_address(address.replace("@", ""))


# --- answering -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_answered_is_read(scheme: Scheme) -> None:
    request = parse_account_request(asked("statement", scheme), PROVIDER)
    entries = (entry(3, job=None, paid=-5_000, cost=0), entry(2), entry(1))
    told = Withdrawal(request.id, "paid", 5_000, 12, HASH, "sent")
    answer = answered(
        request, text="here", balance=StatedBalance(1, 2, 3), entries=entries, withdrawal=told, status="processing"
    )
    assert (answer.balance, answer.entries, answer.withdrawal) == (StatedBalance(1, 2, 3), entries, told)
    assert (answer.status, answer.code, answer.text, answer.scheme) == ("processing", "", "here", scheme)
    assert (answer.provider, answer.customer, answer.request) == (PROVIDER.pubkey, CUSTOMER.pubkey, request.id)


def test_an_answer_shows_relays_nothing_private() -> None:
    request = parse_account_request(asked("balance"), PROVIDER)
    answer = make_account_answer(PROVIDER, request, NOW, balance=StatedBalance(21_000_123, 0, 0))
    assert "21000123" not in answer.to_json()
    assert {tag[0] for tag in answer.tags} == {"p", "e", "encrypted", "alt", "expiration"}
    inside = decrypt(CUSTOMER, PROVIDER.pubkey, answer.content)[0]
    assert "21000123" in inside


def test_an_error_has_a_code_for_programs() -> None:
    request = parse_account_request(asked("withdraw", amount_msat=1000), PROVIDER)
    answer = answered(request, status="error", code="too-little", text="you have 5 sat: not enough")
    assert (answer.status, answer.code, answer.text) == ("error", "too-little", "you have 5 sat: not enough")
    bare = answered(request, status="error", text="Something Else: happened")
    assert (bare.code, bare.text) == ("", "Something Else: happened")


def test_what_became_of_a_withdrawal_never_expires() -> None:
    request = parse_account_request(asked("withdraw", amount_msat=1000), PROVIDER)
    told = Withdrawal(request.id, "paid", 1000, 0, HASH)
    assert answered(request, withdrawal=told).event.tag("expiration") is None
    assert answered(request, status="error", code="too-little").event.tag("expiration") is None
    assert answered(request).event.tag("expiration") == str(NOW + 1 + 3600)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("room", [2_000, 16_384, 65_536])
def test_a_statement_has_as_many_entries_as_fit_the_newest_first(scheme: Scheme, room: int) -> None:
    request = parse_account_request(asked("statement", scheme), PROVIDER)
    entries = [entry(seq) for seq in range(700, 0, -1)]
    answer = make_account_answer(
        PROVIDER, request, NOW, balance=StatedBalance(1, 0, 0), entries=entries, max_bytes=room
    )
    assert Draft(answer.kind, answer.tags, answer.content).wire_bytes() <= room
    read = parse_account_answer(answer, CUSTOMER)
    assert read.entries == tuple(entries[: len(read.entries)])
    more = make_account_answer(
        PROVIDER,
        request,
        NOW,
        balance=StatedBalance(1, 0, 0),
        entries=entries[: len(read.entries) + 1],
        max_bytes=10**6,
    )
    assert len(read.entries) == MAX_ENTRIES or Draft(more.kind, more.tags, more.content).wire_bytes() > room


def test_an_answer_that_does_not_fit_at_all_is_not_made() -> None:
    request = parse_account_request(asked("balance"), PROVIDER)
    with pytest.raises(AnswerTooLarge):
        make_account_answer(PROVIDER, request, NOW, text="x" * 500, max_bytes=1000)


def test_half_a_character_does_not_prevent_an_answer() -> None:
    request = parse_account_request(asked("balance"), PROVIDER)
    told = Withdrawal(request.id, "failed", 1, 0, "", "\ud83d")
    answer = answered(request, status="error", code="unavailable", text="half a \ud83d", withdrawal=told)
    assert answer.text == "half a ?"


def test_an_answer_is_held_against_its_request() -> None:
    mine, another = (parse_account_request(asked("balance"), PROVIDER) for _ in range(2))
    answer = make_account_answer(PROVIDER, mine, NOW)
    with pytest.raises(InvalidAccountAnswer, match="another request"):
        parse_account_answer(answer, CUSTOMER, another.event)
    forged = make_account_answer(STRANGER, mine, NOW)
    with pytest.raises(InvalidAccountAnswer, match="not signed by the provider"):
        parse_account_answer(forged, CUSTOMER, mine.event)
    in_other_scheme = make_account_answer(PROVIDER, (mine.id, mine.customer, "nip04"), NOW)
    with pytest.raises(InvalidAccountAnswer, match="scheme"):
        parse_account_answer(in_other_scheme, CUSTOMER, mine.event)


@pytest.mark.parametrize(
    "tags",
    [
        [],
        [["status"]],
        [["status", "perhaps"]],
        [["status", "success"], ["status", "error"]],
        [["status", "success"], ["balance", "1", "2"]],
        [["status", "success"], ["balance", "1", "-2", "3"]],
        [["status", "success"], ["balance", "1", "2", str(MAX_MSAT + 1)]],
        [["status", "success"], ["balance", "1", "2", "3"], ["balance", "1", "2", "3"]],
        [["status", "success"], ["entry", "1", HASH, "5", "5", "5"]],
        [["status", "success"], ["entry", "1", "no id", "5", "5", "5", "5"]],
        [["status", "success"], ["entry", "1", HASH, "5", "5", "-5", "5"]],
        [["status", "success"], ["entry", "1", HASH, "5", "5", "5", "5", "no job"]],
        [["status", "success"], *([["entry", "1", HASH, "5", "5", "5", "5"]] * (MAX_ENTRIES + 1))],
        [["status", "success"], ["withdrawal", HASH, "gone", "5", "5", HASH]],
        [["status", "success"], ["withdrawal", HASH, "paid", "5", "-5", HASH]],
        [["status", "success"], ["withdrawal", HASH, "paid", "5", "5", "no hash"]],
        [["status", "success"], ["withdrawal", "no id", "paid", "5", "5", HASH]],
        [["status", "success"], ["withdrawal", HASH, "paid"]],
    ],
)
def test_a_malformed_answer_is_refused(tags: list[list[str]]) -> None:
    content = encrypt("nip44", PROVIDER, CUSTOMER.pubkey, tags_to_json(tags))
    outer = [["p", CUSTOMER.pubkey], ["e", HASH], ["encrypted"]]
    with pytest.raises(InvalidAccountAnswer):
        parse_account_answer(PROVIDER.sign(ACCOUNT_ANSWER, outer, content, NOW), CUSTOMER)


def test_an_answer_in_clear_or_without_addressee_is_refused() -> None:
    good = make_account_answer(PROVIDER, parse_account_request(asked("balance"), PROVIDER), NOW)
    parse_account_answer(good, CUSTOMER)
    for missing in ("p", "e", "encrypted"):
        tags = [tag for tag in good.tags if tag[0] != missing]
        with pytest.raises(InvalidAccountAnswer):
            parse_account_answer(PROVIDER.sign(ACCOUNT_ANSWER, tags, good.content, NOW), CUSTOMER)
    with pytest.raises(InvalidAccountAnswer):
        parse_account_answer(good, STRANGER)
