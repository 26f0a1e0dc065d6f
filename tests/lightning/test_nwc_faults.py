"""Nostr Wallet Connect when the wallet, its service or the relay fails, each in every way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from pynostr.key import PrivateKey as NostrKey

from dvm.lightning import base
from dvm.lightning.base import WalletError
from dvm.lightning.nip47 import ERRORS
from dvm.lightning.nwc import NwcWallet
from dvm.lightning.nwc_client import Options
from dvm.lightning.paper_service import PaperService
from dvm.nostr.keys import Keys
from tests.lightning.connected import IMPATIENT, QUICK, Body, asked, foreign_invoice, made, result, settle, setup
from tests.lightning.contract import PENDING, SETTLED, UNKNOWN
from tests.standins.waiting import until

# --- errors and time-outs ------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [*(c for c in ERRORS if c not in ("RATE_LIMITED", "UNSUPPORTED_ENCRYPTION")), "NEW"])
async def test_each_error_code_is_told_apart(code: str) -> None:
    async with setup() as ready:
        ready.shop.faults.errors["make_invoice"] = code
        with pytest.raises(WalletError, match=code) as error:
            await made(ready)
        assert error.value.code == ERRORS.get(code, "failed")
        ready.shop.faults.errors.clear()
        ready.shop.faults.errors["lookup_invoice"] = code
        assert (await ready.wallet.lookup(await made(ready))).state is UNKNOWN  # money.md 14: never "unpaid"


async def test_a_rate_limit_is_waited_out() -> None:
    async with setup() as ready:
        ready.shop.faults.limited = 3
        assert await made(ready)
        assert ready.shop.faults.limited == 0


async def test_a_rate_limit_without_end_is_an_error_in_time() -> None:
    async with setup(options=IMPATIENT) as ready:
        ready.shop.faults.limited = 1_000_000
        with pytest.raises(WalletError) as error:
            await made(ready)
        assert error.value.code == "rate_limited"


async def test_a_rate_limit_and_then_silence_is_told_as_the_limit() -> None:
    async with setup(options=IMPATIENT) as ready:
        await made(ready)
        ready.shop.faults.limited = 1

        def fall_silent(_: str, body: Body) -> Body:
            ready.shop.faults.drop_requests = True
            return body

        ready.shop.faults.tamper = fall_silent
        with pytest.raises(WalletError) as error:
            await made(ready)
        assert error.value.code == "rate_limited"


@pytest.mark.parametrize(("announced", "real"), [("nip44", "nip04"), ("nip04", "nip44")])
async def test_a_service_that_refuses_its_own_encryption_is_asked_in_the_other(announced: Any, real: Any) -> None:
    async with setup([announced]) as ready:
        ready.shop.schemes = (real,)
        await made(ready)
        before = ready.shop.counters.requests
        await made(ready)  # it is remembered
        assert ready.shop.counters.requests == before + 1


async def test_a_service_that_announces_nothing_is_spoken_to_in_nip04(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(self: PaperService, timeout: float) -> None: ...

    monkeypatch.setattr(PaperService, "_announce", silent)
    async with setup(["nip04"], Options(timeout=5.0, info_timeout=0.1)) as ready:
        assert await made(ready)


async def test_no_answer_is_unreachable_and_never_unpaid() -> None:
    async with setup(options=IMPATIENT) as ready:
        payment_hash = await made(ready)
        ready.shop.faults.drop_requests = True
        refused, one, many = await asyncio.gather(
            made(ready),
            ready.wallet.lookup(payment_hash),
            ready.wallet.lookup_many([payment_hash], int(time.time())),
            return_exceptions=True,
        )
        assert isinstance(refused, WalletError)
        assert refused.code == "unreachable"
        assert one == base.UNKNOWN
        assert many == {payment_hash: base.UNKNOWN}


@pytest.mark.parametrize("lost", ["drop_requests", "drop_responses"])
async def test_one_lost_message_is_made_good(lost: str) -> None:
    async with setup() as ready:
        setattr(ready.shop.faults, lost, 1)
        assert await made(ready)


async def test_without_the_relay_it_is_unreachable_and_comes_back_with_it() -> None:
    async with setup(options=IMPATIENT) as ready:
        payment_hash = await made(ready)
        await ready.relay.stop()
        with pytest.raises(WalletError) as error:
            await made(ready)
        assert error.value.code == "unreachable"
        await ready.relay.start()
        async with asyncio.timeout(60):
            while (await ready.wallet.lookup(payment_hash)).state is UNKNOWN:
                pass


async def test_a_relay_that_wants_authentication_gets_it() -> None:
    async with setup(nip42="both") as ready:
        hints = ready.wallet.settlements()
        payment_hash = await made(ready)
        settle(ready, payment_hash)
        async with asyncio.timeout(60):
            assert await anext(hints) == payment_hash


async def test_after_closing_it_is_unreachable_at_once() -> None:
    async with setup() as ready:
        ready.shop.faults.drop_requests = True
        waiting = asyncio.create_task(made(ready))
        await until(lambda: ready.shop.counters.requests)
        await ready.wallet.close()
        for call in (waiting, made(ready)):
            with pytest.raises(WalletError) as error:
                await call
            assert error.value.code == "unreachable"


async def test_requests_under_way_are_bounded() -> None:
    async with setup(options=Options(timeout=10.0, concurrency=3)) as ready:
        await made(ready)
        most = 0
        respond = ready.service._respond

        async def watched(*arguments: Any) -> None:
            nonlocal most
            most = max(most, len(ready.wallet._client._waiting))
            await respond(*arguments)

        ready.service._respond = watched  # type: ignore[method-assign]
        ready.shop.faults.delay = 0.01
        await asyncio.gather(*(made(ready) for _ in range(12)))
        assert most == 3


# --- answers that are not to be trusted ----------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r | {"invoice": foreign_invoice(msat=20_000), "payment_hash": "00" * 32},
        lambda r: r | {"invoice": foreign_invoice(msat=None), "payment_hash": "00" * 32},
        lambda r: r | {"invoice": foreign_invoice(network="mainnet"), "payment_hash": "00" * 32},
        lambda r: r | {"invoice": foreign_invoice(created_at=1_500_000_000), "payment_hash": "00" * 32},
        lambda r: (
            r | {"invoice": foreign_invoice(description=None, description_hash=bytes(32)), "payment_hash": "00" * 32}
        ),
        lambda r: r | {"invoice": foreign_invoice()},  # another's: the hash that will be looked up is not the invoice's
        lambda r: r | {"payment_hash": "ab" * 32},
        lambda r: r | {"invoice": "lnbcrt1nonsense"},
        lambda r: r | {"invoice": None},
        lambda r: r | {"invoice": 7},
        lambda r: {"x": 1},
    ],
)
async def test_an_invoice_that_was_not_asked_for_is_refused(change: Callable[[Body], Body]) -> None:
    async with setup() as ready:
        await ready.wallet.info()
        ready.shop.faults.tamper = result(change)
        with pytest.raises(WalletError) as error:
            await made(ready)
        assert error.value.code == "untrustworthy"


async def test_an_invoice_must_commit_to_the_description_hash() -> None:
    async with setup() as ready:
        await ready.wallet.info()
        ready.shop.faults.tamper = result(lambda r: r | {"invoice": foreign_invoice(), "payment_hash": "00" * 32})
        with pytest.raises(WalletError, match="description") as error:
            await ready.wallet.create_invoice(21_000, description_hash=sha256(b"zap").hexdigest(), expiry=600)
        assert error.value.code == "untrustworthy"


async def test_invoices_of_another_network_than_configured_are_refused() -> None:
    async with setup() as ready:
        wallet = NwcWallet(ready.shop.connection.uri(), network="mainnet", options=QUICK)
        await wallet.start()
        with pytest.raises(WalletError, match="regtest"):
            await wallet.create_invoice(1_000, description="a job", expiry=600)
        await wallet.close()


async def test_what_get_info_may_not_tell_the_announcement_does() -> None:
    async with setup(methods=["make_invoice", "lookup_invoice"]) as ready:
        info = await ready.wallet.info()
        assert (info.network, info.balance_msat) == ("mainnet", None)
        assert (info.capabilities.push, info.capabilities.pay) == (True, False)
        with pytest.raises(WalletError, match="mainnet is expected"):  # nothing said that it is regtest
            await made(ready)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r | {"payment_hash": "ab" * 32},
        lambda r: r | {"payment_hash": None},
        lambda r: r | {"type": "outgoing"},
        lambda r: r | {"type": None},
        lambda r: r | {"preimage": "cd" * 32},
        lambda r: r | {"preimage": "short"},
        lambda r: r | {"amount": None},
        lambda r: r | {"amount": 0},
        lambda r: r | {"amount": -21_000},
        lambda r: r | {"amount": "21000"},
        lambda r: r | {"amount": 1e30},
        lambda r: r | {"amount": True},
        lambda r: r | {"state": 7},
        lambda r: r | {"state": "perhaps"},
        lambda r: r | {"settled_at": "yesterday", "state": None},
        lambda r: {"x": []},
    ],
)
async def test_a_settlement_that_contradicts_itself_is_unknown(change: Callable[[Body], Body]) -> None:
    async with setup() as ready:
        payment_hash = await made(ready)
        settle(ready, payment_hash)
        ready.shop.faults.tamper = result(change)
        assert (await ready.wallet.lookup(payment_hash)).state is UNKNOWN
        ready.shop.faults.tamper = result(
            lambda r: {"transactions": [change(t) for t in r["transactions"]]} if "transactions" in r else change(r)
        )
        found = await ready.wallet.lookup_many([payment_hash], int(time.time()) - 5)
        assert found[payment_hash].state is not SETTLED
        ready.shop.faults.tamper = None
        assert (await ready.wallet.lookup(payment_hash)).state is SETTLED


@pytest.mark.parametrize(
    "tamper",
    [
        lambda m, b: "<html><body>502 Bad Gateway</body></html>",
        lambda m, b: " ",
        lambda m, b: "null",
        lambda m, b: "[" * 30_000,
        lambda m, b: {"result_type": m},
        lambda m, b: {"result_type": m, "error": None, "result": None},
        lambda m, b: {"result_type": m, "error": "no"},
        lambda m, b: b | {"result_type": "get_balance"},
        lambda m, b: b | {"result_type": 7},
        lambda m, b: b | {"result": [1]},
    ],
)
async def test_garbage_in_the_answer_is_one_error(tamper: Callable[[str, Body], Any]) -> None:
    async with setup() as ready:
        payment_hash = await made(ready)
        ready.shop.faults.tamper = tamper
        with pytest.raises(WalletError) as error:
            await made(ready)
        assert error.value.code == "untrustworthy"
        assert (await ready.wallet.lookup(payment_hash)).state is UNKNOWN


async def test_only_the_wallets_own_answer_to_this_request_counts() -> None:
    async with setup(options=IMPATIENT) as ready:
        ready.shop.faults.author = Keys.generate()  # anyone can publish a response that names our request
        with pytest.raises(WalletError) as error:
            await made(ready)
        assert error.value.code == "unreachable"
        ready.shop.faults.author = None
        ready.shop.faults.answers_to = "ab" * 32
        with pytest.raises(WalletError) as error:
            await made(ready)
        assert error.value.code == "unreachable"


async def test_omitted_states_and_nulls() -> None:
    async with setup() as ready:
        ready.shop.faults.omit_state = ready.shop.faults.omit_nulls = True
        paid, unpaid = await made(ready), await made(ready)
        settle(ready, paid)
        assert [(await ready.wallet.lookup(h)).state for h in (paid, unpaid)] == [SETTLED, PENDING]
        found = await ready.wallet.lookup_many([paid, unpaid], int(time.time()) - 5)
        assert [found[h].state for h in (paid, unpaid)] == [SETTLED, PENDING]
        with pytest.raises(WalletError, match="NOT_FOUND"):
            await ready.wallet._client.request("lookup_invoice", {"payment_hash": "ab" * 32})


# --- secrets -------------------------------------------------------------------------------------------


async def test_no_secret_is_in_any_log_error_or_repr(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with setup(options=IMPATIENT) as ready:
        uri = ready.shop.connection.uri()
        nsec = ready.shop.connection.keys.nsec()
        secret = NostrKey.from_nsec(nsec).hex()
        assert secret in uri
        seen = [repr(ready.wallet), repr(ready.shop.connection), repr(ready.shop), str(vars(ready.wallet))]
        payment_hash = await made(ready)
        settle(ready, payment_hash)
        preimage = ready.node.get(payment_hash).preimage  # type: ignore[union-attr]
        await ready.wallet.lookup(payment_hash)
        seen.append(repr(ready.node.get(payment_hash)))
        # The service made the secret, so its texts may hold it.
        leak = f"bad key {secret} {nsec} {uri} {preimage}"
        ready.shop.faults.tamper = lambda m, b: b | {"error": {"code": secret, "message": leak}}
        for call in (made(ready), ready.wallet.info(), ready.wallet.pay(asked(ready), fee_limit_msat=0)):
            try:
                seen.append(repr(await call))
            except WalletError as error:
                seen += [str(error), repr(error)]
        await ready.wallet.lookup(payment_hash)
        await ready.wallet.lookup_many([payment_hash], 0)
        ready.shop.faults.tamper = result(lambda r: r | {"alias": uri})
        seen.append(repr(await ready.wallet.info()))
        await ready.relay.stop()
        await ready.wallet.lookup(payment_hash)
    for bad in (uri + "x&relay=http://x", uri[:-1], uri.replace("relay=", "r="), "x" + uri, uri + "&secret=1"):
        with pytest.raises(WalletError) as refused:
            NwcWallet(bad)
        seen += [str(refused.value), repr(refused.value), repr(refused.value.__cause__)]
    text = "\n".join([*seen, caplog.text]).lower()
    for hidden in (secret, nsec, preimage, uri):
        assert hidden not in text
