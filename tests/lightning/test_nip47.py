"""NIP-47's parsers: what they accept, and that hostile input meets only the one documented error."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pynostr.key import PrivateKey as NostrKey

from dvm.lightning.base import InvoiceState
from dvm.lightning.nip47 import (
    Answer,
    Connection,
    InvalidAnswer,
    InvalidConnection,
    Service,
    Transaction,
    clean,
    parse_notification,
)
from dvm.nostr.keys import Keys

WALLET = "b889ff5b1513b641e2a139f661a661364979c5beee91842f8f0ef42ab558e9d4"
SECRET = "71a8c14c1407c113601079c4302dab36460f0ccd0ad506f1f2dc73b5100e4f3c"
URI = f"nostr+walletconnect://{WALLET}?relay=wss%3A%2F%2Frelay.damus.io&secret={SECRET}"

# --- the URI -------------------------------------------------------------------------------------------


def test_the_specifications_example_parses_and_comes_back() -> None:
    connection = Connection.parse(URI)
    assert (connection.wallet, connection.relays) == (WALLET, ("wss://relay.damus.io",))
    assert connection.keys.pubkey == NostrKey.from_hex(SECRET).public_key.hex()
    assert Connection.parse(connection.uri()).uri() == connection.uri()


@pytest.mark.parametrize(
    "text",
    [
        f"  {URI}\n",
        URI.replace("nostr+walletconnect://", "nostr+walletconnect:"),
        URI.replace("nostr+walletconnect", "nostrwalletconnect"),
        URI.replace("nostr+", "NOSTR+"),
        URI.replace(WALLET, WALLET.upper()),
        URI.replace("%3A%2F%2F", "://"),
        f"{URI}&lud16=someone%40example.com&color=red",
    ],
)
def test_spellings_in_the_wild_are_one_connection(text: str) -> None:
    connection = Connection.parse(text)
    assert (connection.wallet, connection.relays) == (WALLET, ("wss://relay.damus.io",))


def test_several_relays_are_all_used_each_once() -> None:
    more = "".join(f"&relay={quote(f'wss://{n}.example', safe='')}" for n in (1, 2, 1))
    assert len(Connection.parse(URI + more).relays) == 3


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "begins with"),
        ("https://example.com", "begins with"),
        (URI[10:], "begins with"),
        (URI.replace(WALLET, ""), "names no wallet"),
        (URI.replace(WALLET, "ab"), "names no wallet"),
        (URI.replace(WALLET, "f" * 64), "not a public key"),
        (URI.replace("relay=", "r="), "no relay"),
        (URI.replace("wss%3A", "ftp%3A"), "a relay"),
        (URI.replace("secret=", "s="), "no secret"),
        (URI.replace(SECRET, ""), "no secret"),
        (URI.replace(SECRET, "ab"), "not a key"),
        (URI.replace(SECRET, "0" * 64), "not a key"),
        (f"{URI}&secret={'1' * 64}", "more than one"),
        (URI.replace(WALLET, "[::1"), "not a URI"),
        (URI + "&a" * 9_000, "longer"),
        (URI + "&a=1" * 100, "not a URI"),
    ],
)
def test_a_uri_that_is_none_is_one_clear_error_without_its_secret(text: str, fault: str) -> None:
    with pytest.raises(InvalidConnection, match=fault) as error:
        Connection.parse(text)
    assert SECRET not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None


def test_neither_repr_nor_str_shows_the_secret() -> None:
    connection = Connection.parse(URI)
    assert SECRET not in repr(connection)
    assert SECRET not in str(connection)
    assert SECRET not in f"{connection}{connection.keys}"


@given(st.text() | st.text(alphabet="nostr+walletconnect://?&=%secretrelay0123456789abcdef[]@#", max_size=300))
@example("nostr+walletconnect://" + "[" * 100)
@example("nostr+walletconnect://\ud800")
@example(URI.replace(WALLET, "%00"))
def test_no_text_raises_anything_but_invalid_connection(text: str) -> None:
    for candidate in (text, URI + text, URI.replace(SECRET, text), URI.replace("damus", text)):
        with suppress(InvalidConnection):
            Connection.parse(candidate)


# --- announcements -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "schemes"),
    [
        ([], {"nip04"}),
        ([["encryption", "nip44_v2"]], {"nip44"}),
        ([["encryption", "nip44_v2 nip04"]], {"nip44", "nip04"}),
        ([["encryption", "nip44_v2", "nip04"]], {"nip44", "nip04"}),
        ([["encryption", "nip99"]], set()),
        ([["encryption"]], {"nip04"}),
    ],
)
def test_no_encryption_tag_means_nip04(tags: list[list[str]], schemes: set[str]) -> None:
    event = Keys.generate().sign(
        13194, [*tags, ["notifications", "payment_received payment_sent"]], "get_info pay_invoice"
    )
    service = Service.parse(event)
    assert service.schemes == schemes
    assert service.methods == {"get_info", "pay_invoice"}
    assert service.notifications == {"payment_received", "payment_sent"}


# --- transactions --------------------------------------------------------------------------------------

HASH = "ab" * 32


def transaction(**changes: Any) -> dict[str, Any]:
    return {"type": "incoming", "payment_hash": HASH, "amount": 21_000} | changes


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"state": "settled"}, InvoiceState.SETTLED),
        ({"state": "SETTLED", "settled_at": 5}, InvoiceState.SETTLED),
        ({"settled_at": 1_780_000_000}, InvoiceState.SETTLED),
        ({}, InvoiceState.PENDING),
        ({"settled_at": None}, InvoiceState.PENDING),
        ({"settled_at": 0}, InvoiceState.PENDING),
        ({"state": "pending"}, InvoiceState.PENDING),
        ({"state": "pending", "settled_at": 1_780_000_000}, InvoiceState.PENDING),
        ({"state": "accepted"}, InvoiceState.HELD),
        ({"state": "accepted", "settle_deadline": 900_000}, InvoiceState.HELD),
        ({"settle_deadline": 900_000}, InvoiceState.HELD),
        ({"settle_deadline": 900_000, "settled_at": 1_780_000_000}, InvoiceState.SETTLED),
        ({"state": "failed"}, InvoiceState.FAILED),
        ({"state": "expired"}, InvoiceState.FAILED),
        ({"state": "expired", "settled_at": 0, "preimage": ""}, InvoiceState.FAILED),
        ({"expires_at": 5}, InvoiceState.PENDING),  # past its time, but the wallet has not said failed
        ({"state": "on its way"}, InvoiceState.UNKNOWN),
    ],
)
def test_14_states_are_told_apart(changes: dict[str, Any], state: InvoiceState) -> None:
    """money.md 14: PENDING, SETTLED, FAILED and UNKNOWN are four different things."""
    assert Transaction.parse(transaction(**changes)).received(HASH).state is state


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"state": "settled"}, InvoiceState.SETTLED),
        ({"state": "pending"}, InvoiceState.PENDING),
        ({"state": "accepted"}, InvoiceState.PENDING),
        ({"state": "failed"}, InvoiceState.FAILED),
        ({"state": "perhaps"}, InvoiceState.UNKNOWN),
    ],
)
def test_a_payment_is_told_as_one(changes: dict[str, Any], state: InvoiceState) -> None:
    payment = Transaction.parse(transaction(type="outgoing", fees_paid=7, preimage="cd" * 32, **changes)).sent(HASH)
    assert payment is not None
    assert (payment.state, payment.preimage) == (state, None)  # the preimage is another's
    assert payment.fee_msat == (7 if state is InvoiceState.SETTLED else 0)
    assert Transaction.parse(transaction(**changes)).sent(HASH) is None
    assert Transaction.parse(transaction(type="outgoing")).sent("cd" * 32) is None


def test_an_answer_does_not_show_its_preimage() -> None:
    answer = Answer.parse(f'{{"result_type": "pay_invoice", "result": {{"preimage": "{"ab" * 32}"}}}}')
    assert answer.result["preimage"] == "ab" * 32
    assert "ab" * 32 not in repr(answer)


def test_nothing_is_held_without_an_amount() -> None:
    with pytest.raises(InvalidAnswer, match="amount"):
        Transaction.parse(transaction(state="accepted", amount=0)).received(HASH)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(HASH),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
names = st.sampled_from(
    ["type", "state", "payment_hash", "preimage", "invoice", "amount", "fees_paid", "settled_at", "settle_deadline"]
)


@given(st.dictionaries(names, json_values) | json_values)
def test_no_transaction_raises_anything_but_invalid_answer(raw: object) -> None:
    with suppress(InvalidAnswer):
        found = Transaction.parse(raw).received(HASH)
        assert found.state is not InvoiceState.SETTLED or found.msat > 0
    if isinstance(raw, dict):
        with suppress(InvalidAnswer):
            found = Transaction.parse(transaction(**{str(name): value for name, value in raw.items()})).received(HASH)
            assert found.state is not InvoiceState.SETTLED or found.msat > 0


@given(st.text() | st.from_regex(r'\{"(result_type|error|result|notification(_type)?)": ?.{0,40}\}', fullmatch=True))
@example("[" * 100_000)
@example('{"a":' * 50_000)
@example('{"result_type":"x","error":{"code":"\\ud800"}}')
@example('{"result_type":"x","result":{"amount":' + "9" * 5_000 + "}}")
def test_no_content_raises_anything_but_invalid_answer(content: str) -> None:
    with suppress(InvalidAnswer):
        Answer.parse(content)
    with suppress(InvalidAnswer):
        parse_notification(content)


@given(st.text(max_size=500))
def test_a_services_text_becomes_one_printable_line(text: str) -> None:
    line = clean(text)
    assert len(line) <= 200
    assert line.isprintable()


def test_a_services_text_loses_what_may_be_a_secret() -> None:
    text = clean(f"key {SECRET} {SECRET.upper()} {Keys.generate().nsec()} {URI} end\n\x1b[31m")
    assert SECRET not in text.lower()
    assert "nsec1" not in text
    assert "secret=" not in text
    assert text.startswith("key … … … … end")
