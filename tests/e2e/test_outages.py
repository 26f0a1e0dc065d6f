"""Wallet, model and relays down, at the start and in the middle: the log says so, and the job is done when they
are back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.e2e.conftest import WalletProcess
from tests.e2e.test_lives import IMPATIENT, SLOW, shop_with
from tests.standins.customer import Customer, customer
from tests.standins.daemon import DaemonProcess
from tests.standins.gemini import GeminiStandIn
from tests.standins.process import running
from tests.standins.relay import TestRelay

PRICE = {"input": 300, "cached": 75, "output": 2500}
GEMINI = {"provider": "gemini", "model": "gemini-2.5-flash", "max_output_tokens": 1024, **PRICE}


def complaints(shop: DaemonProcess, level: str = "warning") -> str:
    """What the log warned of, as text."""
    return " | ".join(f"{each['event']} {each.get('error', '')}" for each in shop.log if each["level"] == level)


def calm(shop: DaemonProcess) -> None:
    """No exception was logged, and nothing was written beside the log."""
    assert not [each for each in shop.log if "traceback" in each]
    assert shop.strange == []


async def buys(buyer: Customer, wallet: WalletProcess, text: str = "a question") -> None:
    """One job from request to receipt."""
    job = await buyer.ask(text, params=[("max_tokens", "1000")])
    await buyer.until(job, lambda event: event.tag("status") in ("payment-required", "processing", "success"))
    if any(event.tag("amount") for event in buyer.heard[job]):
        await wallet.pay((await buyer.quote(job)).bolt11 or "")
    assert (await buyer.result(job, 40)).content == text
    await buyer.receipt(job)


async def test_a_wallet_that_is_down_at_the_start_is_waited_for(
    relay: TestRelay, wallet: WalletProcess, buyer: Customer, tmp_path: Path
) -> None:
    await wallet.kill()
    async with shop_with(wallet, relay, tmp_path / "shop", table=IMPATIENT) as shop:
        job = await buyer.ask("a question")
        said = await shop.said("the wallet does not answer; trying again: see `dvm doctor`", job=job)
        assert "unreachable" in said["error"]
        await wallet.start()
        await wallet.pay((await buyer.quote(job, 60)).bolt11 or "")
        await buyer.receipt(job)
        calm(shop)


async def test_a_payment_while_the_wallet_goes_down_is_credited_when_it_is_back(
    relay: TestRelay, wallet: WalletProcess, buyer: Customer, tmp_path: Path
) -> None:
    async with shop_with(wallet, relay, tmp_path / "shop", table=IMPATIENT) as shop:
        job = await buyer.ask("a question")
        quote = await buyer.quote(job)
        await wallet.order({"drop_notifications": True, "drop_requests": True})
        await wallet.line("obeyed")
        paid = await wallet.pay(quote.bolt11 or "")
        await wallet.kill()
        await wallet.start()
        await buyer.receipt(job, 60)
        buyer.check_chain(paid)
        calm(shop)


async def test_a_wallet_that_refuses_is_told_to_the_operator_and_to_the_customer(
    relay: TestRelay, wallet: WalletProcess, buyer: Customer, tmp_path: Path
) -> None:
    async with shop_with(wallet, relay, tmp_path / "shop") as shop:
        await wallet.order({"errors": {"make_invoice": "QUOTA_EXCEEDED"}})
        await wallet.line("obeyed")
        job = await buyer.ask("a question", providers=[shop.log[-1]["pubkey"]])
        assert "payment-unavailable" in (await buyer.feedback(job, "error")).event.to_json()
        assert "dvm doctor" in complaints(shop, "error")
        await wallet.order({"errors": {}})
        await wallet.line('{"errors": {}}')
        await buys(buyer, wallet)
        calm(shop)


async def test_a_model_that_is_down_is_tried_again_and_then_the_money_given_back(
    relay: TestRelay, wallet: WalletProcess, buyer: Customer, tmp_path: Path
) -> None:
    async with GeminiStandIn() as gemini:
        await gemini.close()  # down at the start
        async with shop_with(
            wallet, relay, tmp_path / "shop", model={**GEMINI, "base_url": gemini.url}, limits={"attempts": 3}
        ) as shop:
            job = await buyer.ask("a question", params=[("max_tokens", "1000")])
            paid = await wallet.pay((await buyer.quote(job)).bolt11 or "")
            await shop.said("the model failed", job=job)
            await gemini.start()
            assert (await buyer.result(job, 60)).content == "a question"
            await buyer.receipt(job)

            gemini.script("*", status=503)
            job = await buyer.ask("another question", params=[("max_tokens", "100")])
            error = await buyer.feedback(job, "error", 60)
            assert "unavailable" in error.event.to_json()
            gemini.forget()
            third = await buyer.ask("a third question", params=[("max_tokens", "100")])
            await buyer.receipt(third)
            assert "payment-required" not in " ".join(buyer.said(third))
            buyer.check_chain(paid)
            assert [each for each in shop.log if each["event"] == "the model failed" and not each["again"]]
            calm(shop)


async def test_a_wrong_api_key_is_the_operators_affair(
    relay: TestRelay, wallet: WalletProcess, buyer: Customer, tmp_path: Path
) -> None:
    async with running(["-m", "tests.standins.gemini", "--port", "0"]) as (_, gemini):
        model: dict[str, Any] = {**GEMINI, "base_url": gemini["url"]}
        key = "a-wrong-key-of-some-length"
        async with shop_with(wallet, relay, tmp_path / "shop", key=key, model=model) as shop:
            job = await buyer.ask("a question", providers=[shop.log[-1]["pubkey"]])
            error = await buyer.feedback(job, "error")
            assert "unavailable" in error.event.to_json()
            assert "key" not in error.event.content.lower()
            assert "dvm doctor" in complaints(shop, "error")
            assert key not in "\n".join(shop.lines)
            calm(shop)


async def test_relays_that_are_down_at_the_start_and_in_the_middle_are_waited_for(
    relay: TestRelay, wallet: WalletProcess, tmp_path: Path
) -> None:
    await relay.stop()
    async with shop_with(wallet, relay, tmp_path / "shop", model={**SLOW, "output": 40_000}) as shop:
        assert "no relay can be reached" in complaints(shop)
        away = await shop.said("relay away: trying again", relay=relay.url)
        assert (away["level"], bool(away["error"])) == ("warning", True)
        await relay.start()
        async with customer(relay.url) as buyer:
            await buys(buyer, wallet)
            job = await buyer.ask("a question in between", params=[("max_tokens", "100")])
            await buyer.until(job, lambda event: event.tag("status") in ("payment-required", "processing", "success"))
            await relay.stop()
        await relay.start()  # empty: what it had is gone
        async with customer(relay.url, keys=buyer.keys) as back:
            assert (await back.result(job, 60)).content == "a question in between"
            await back.receipt(job)
        calm(shop)
