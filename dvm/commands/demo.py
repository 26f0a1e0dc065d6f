"""`dvm demo`: a relay, a shop and a customer on this machine; two jobs, the second paid from change."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any

import typer

from dvm import log
from dvm.commands.common import AsJson, Failure, sats
from dvm.customer import (
    Answered,
    Asked,
    Customer,
    Done,
    Failed,
    Paid,
    Partial,
    Processing,
    Quoted,
    Receipted,
    Update,
    as_dict,
)
from dvm.nostr.keys import Keys

MAX_MSAT = 100_000
FIRST = "What is the Bitcoin Lightning Network? Answer in three sentences."
SECOND = "Write one sentence about relays."

Tell = Callable[[dict[str, Any], str], None]


def main(
    as_json: AsJson = False,
    model: Annotated[str, typer.Option("--model", help="embedded (a real language model) or echo.")] = "embedded",
) -> None:
    """See it all work on this machine, with paper money."""
    if model not in ("embedded", "echo"):
        raise typer.BadParameter("one of embedded, echo", param_hint="--model")
    log.set_up("text", level=logging.WARNING)
    try:
        asyncio.run(_demo(model, _tell_json if as_json else _tell_person))
    except ImportError as error:
        raise Failure(
            f"{error.name} is not installed: run scripts/demo, or pip install 'lightning-dvm[embedded]'"
        ) from None


async def _demo(model: str, tell: Tell) -> None:
    from dvm import demo
    from dvm.lightning.nwc import NwcWallet

    tell({"event": "opening", "model": model}, "Opening: a relay, two paper wallets, a daemon and its model …")
    with tempfile.TemporaryDirectory(prefix="dvm-demo-") as directory:
        async with demo.open_shop(Path(directory), model) as shop:
            tell(
                {"event": "open", "npub": shop.npub, "relay": shop.relay},
                f"The shop is open. It is {shop.npub}\nand hears jobs on {shop.relay}. The money is paper.",
            )
            payer = NwcWallet(shop.wallet)
            await payer.start()
            try:
                async with Customer(Keys.generate(), [shop.relay], payer=payer) as customer:
                    first = await _buy(customer, shop.pubkey, FIRST, 256, tell)
                    # No more than what is left: the shop fits the answer into the bid, and asks for no invoice.
                    second = await _buy(customer, shop.pubkey, SECOND, 64, tell, _left(first))
            finally:
                await payer.close()
            if second.msat != 0:
                raise Failure("the second job was to be paid from the first one's change, but was not")
            accounts = await shop.daemon.store.accounts()
            tell(
                {"event": "books", "accounts": accounts, "verified": [first.verified, second.verified]},
                f"\nThe shop's books: Lightning brought {sats(-accounts['wallet'])}, {sats(accounts['revenue'])} are "
                f"earned, {sats(accounts['customers'])} stand on the customer's balance.",
            )


def _left(done: Done) -> int:
    """The balance that the receipt of a job leaves, in msat."""
    return 0 if done.receipt is None else done.receipt.receipt.after


async def _buy(
    customer: Customer, provider: str, prompt: str, max_tokens: int, tell: Tell, max_msat: int = MAX_MSAT
) -> Done:
    """One job, told as it goes. Raises Failure unless there is an answer whose receipt verifies."""
    tell({"event": "prompt", "text": prompt}, f"\n─── {prompt}")
    shown = ""
    async with aclosing(_asking(customer, provider, prompt, max_tokens, max_msat)) as updates:
        async for update in updates:
            text, shown = _words(update, shown)
            tell(as_dict(update), text)
            if isinstance(update, Failed):
                raise Failure(f"{update.code}: {update.text}")
            if isinstance(update, Done):
                if not update.verified:
                    raise Failure("the receipt does not verify: " + "; ".join(update.problems or ("it is missing",)))
                return update
    raise Failure("the job ended without a word")


def _asking(
    customer: Customer, provider: str, prompt: str, max_tokens: int, max_msat: int
) -> AsyncGenerator[Update, None]:
    # Without chance in it, so that the answers are as long each time, and the first one leaves some change.
    params = {"temperature": "0"}
    return customer.ask(prompt, provider=provider, max_msat=max_msat, max_tokens=max_tokens, params=params)


def _words(update: Update, shown: str) -> tuple[str, str]:
    """What a person reads of an update, and how much of the answer has been shown by now."""
    match update:
        case Asked():
            return "asked       the request (kind 5050) is on the relay", shown
        case Quoted(msat=msat, bolt11=bolt11):
            return f"quoted      at most {sats(msat)}: {bolt11[:24]}…{bolt11[-8:]}", shown
        case Paid(msat=msat):
            return f"paid        {sats(msat)} over Nostr Wallet Connect", shown
        case Processing():
            return "running", shown
        case Partial(text=text, remaining_msat=left, remaining_tokens=tokens):
            rest = "" if left is None else f"   ({sats(left)}, {tokens} tokens left)"
            return f"  … {_new(text, shown)}{rest}", text
        case Answered(text=text):
            rest = _new(text, shown)
            last = f"  … {rest}\n" if rest else ""
            return f"{last}answered    the result (kind 6050) is on the relay", text
        case Receipted(receipt=receipt, checked=checked):
            used = ", ".join(f"{count} {name}" for name, count in receipt.usage.items() if count)
            cost = receipt.cost or 0
            balance = f"balance {sats(receipt.before)} → {sats(receipt.after)}"
            return f"receipt     {used} tokens: {sats(cost)}; {balance}\nverified    {', '.join(checked)}", shown
    return "", shown


def _new(text: str, shown: str) -> str:
    """What a partial adds: each has the whole text so far."""
    return (text[len(shown) :] if text.startswith(shown) else text).strip().replace("\n", " ")


def _tell_json(fact: dict[str, Any], _text: str) -> None:
    print(json.dumps(fact, ensure_ascii=False), flush=True)  # noqa: T201


def _tell_person(_fact: dict[str, Any], text: str) -> None:
    if text:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
