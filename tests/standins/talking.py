"""Conversations in tests: turn after turn, paid as it comes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dvm.models import Prompt
from dvm.nip90 import RECEIPT, Input
from tests.standins.customer import Customer
from tests.standins.workshop import Workshop

LIMIT = ("max_tokens", "60")


async def turn(
    shop: Workshop,
    buyer: Customer,
    *inputs: str | Input,
    session: str | None = None,
    model: str | None = None,
    settings: Sequence[tuple[str, str]] = (),
    **fields: Any,
) -> str:
    """The id of a job that has been paid, out of the balance where that does, and has ended."""
    params = [*_params(session, model), *settings]
    job = await buyer.ask(*inputs, params=params, providers=[shop.keys.pubkey], **fields)
    first = await buyer.until(job, lambda event: event.kind == RECEIPT or event.tag("status") == "payment-required")
    if first.kind != RECEIPT:
        await shop.pay(buyer, job)
    await buyer.receipt(job)
    return job


async def refusal(
    shop: Workshop,
    buyer: Customer,
    *inputs: str | Input,
    session: str | None = None,
    model: str | None = None,
    **fields: Any,
) -> str:
    """With what a request is refused."""
    params = _params(session, model)
    job = await buyer.ask(*inputs, params=params, providers=[shop.keys.pubkey], **fields)
    return (await buyer.feedback(job, "error")).text


def said(prompt: Prompt) -> list[tuple[Any, ...]]:
    """Its turns: the role, then the parts."""
    return [(each.role, *each.parts) for each in prompt.turns]


def _params(session: str | None, model: str | None) -> list[tuple[str, str]]:
    said = {"session": session, "model": model}
    return [LIMIT, *((name, value) for name, value in said.items() if value is not None)]
