"""A paid job from the relay to the receipt: daemon, wallet service and Gemini endpoint are processes of their
own, and the customer is rust-nostr's client with its own NWC."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from dvm.nip90 import parse_receipt, verify_chain
from dvm.nostr.event import Event
from tests.e2e.stranger import stranger, tag, tags
from tests.standins.daemon import daemon
from tests.standins.process import running
from tests.standins.relay import local_relay

PRICE = {"input": 300, "cached": 75, "output": 2500}
GEMINI = {"provider": "gemini", "model": "gemini-slow", "max_output_tokens": 8192, **PRICE}
QUESTION = "Why does a coin on a table cast no shadow at noon, and what would change if the table were glass?"


async def test_quote_payment_partials_result_receipt_and_a_second_job_from_the_change(tmp_path: Path) -> None:
    wallet = ["-m", "dvm.lightning.paper_service", "--data", str(tmp_path / "wallet")]
    async with (
        local_relay() as relay,
        running([*wallet, "--relay", relay]) as (_, uris),
        running(["-m", "tests.standins.gemini", "--port", "0"]) as (_, gemini),
        daemon(
            tmp_path, [relay],
            env={"DVM_NWC_URI": uris["shop"], "GEMINI_API_KEY": gemini["key"]},
            wallet={"type": "nwc"}, model={**GEMINI, "base_url": gemini["url"]},
        ) as shop,
        stranger(relay, uris["customer"]) as customer,
    ):  # fmt: skip
        provider = shop.log[-1]["pubkey"]
        first = await customer.ask(QUESTION)
        quote = await customer.feedback(first, "payment-required")
        _, msat, invoice = tag(quote, "amount")
        assert quote["pubkey"] == provider
        assert quote["tags"][0][:2] == ["e", first]
        assert tag(quote, "p")[1] == customer.pubkey
        assert int(msat) % 1000 == 0
        assert customer.statuses(first) == ["payment-required"]

        preimage = await customer.pay(invoice)
        receipt = await customer.of_kind(first, 7090)
        result = await customer.of_kind(first, 6050)
        assert result["content"] == QUESTION
        assert json.loads(tag(result, "request")[1])["id"] == first
        assert tag(result, "status")[1] == "success"

        await customer.feedback(first, "processing")
        heard = sorted(customer.heard[first], key=lambda event: event["created_at"])
        feedback = [event for event in heard if event["kind"] == 7000]
        partials = [event["content"] for event in feedback if tag(event, "status")[1] == "partial"]
        assert len(partials) > 1
        for shorter, longer in zip(partials, [*partials[1:], QUESTION], strict=True):
            assert longer.startswith(shorter)
            assert len(longer) > len(shorter)
        stamps = [event["created_at"] for event in heard]
        assert len(set(stamps)) == len(stamps)
        assert customer.statuses(first).index("payment-required") < customer.statuses(first).index("6050")

        payment_hash = sha256(bytes.fromhex(preimage)).hexdigest()
        assert tags(receipt, "payment") == [["payment", "bolt11", payment_hash, msat]]
        assert tag(receipt, "output_sha256")[1] == sha256(QUESTION.encode()).hexdigest()
        _, before, after = tag(receipt, "balance")
        assert (int(before), int(after)) == (0, int(msat) - int(tag(receipt, "cost")[1]))

        second = await customer.ask("And at night?", ["param", "max_tokens", "100"])
        again = await customer.of_kind(second, 7090)
        await customer.of_kind(second, 6050)
        assert "payment-required" not in customer.statuses(second)
        assert tag(again, "balance")[1] == after
        assert tag(again, "prev")[1] == receipt["id"]
        assert tags(again, "payment")[0][1] == "balance"
        chain = [parse_receipt(Event.parse(each), None) for each in (receipt, again)]
        assert verify_chain(chain, paid=[payment_hash]) == []

        assert await shop.end() == 0
        assert shop.strange == []
        assert not [record for record in shop.log if record["level"] in ("error", "critical")]
