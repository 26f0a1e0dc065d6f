"""The one payment of a job, and how patient and how generous a customer is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dvm.customer.updates import Paid, PaymentUnclear, Quoted
from dvm.lightning.base import InvoiceState, Payment, WalletError, WalletInfo

log = logging.getLogger(__name__)


class Payer(Protocol):
    """The part of a `Wallet` that pays."""

    async def info(self) -> WalletInfo: ...
    async def pay(self, bolt11: str, *, fee_limit_msat: int) -> Payment: ...


@dataclass(frozen=True, slots=True)
class Options:
    """How patient a customer is; times in seconds, amounts in msat.

    `quote`: for a first sign of life, longer than a shop waits for a wallet that hangs. `window`: for cheaper
    offers, after the first. `by_hand`: for somebody to pay the invoice. `silence`: for a word from who answers a
    broadcast without being paid. `receipt`: for the receipt, after the result. `money`: for a withdrawal to be paid,
    or a payment to be credited. `inputs`, `prior`: more than `quote`, for what the request names by an address or an
    id to be fetched, and for the result of another job (NIP-90 says 20 minutes). `notice`: without any news, before
    it is said what is waited for. Routing fees are limited to the larger of `fee_msat` and one part in `fee_part` of
    the price.
    """

    publish: float = 10.0
    quote: float = 45.0
    window: float = 2.0
    by_hand: float = 900.0
    silence: float = 60.0
    receipt: float = 15.0
    money: float = 180.0
    inputs: float = 30.0
    prior: float = 1200.0
    notice: float = 5.0
    poll: float = 5.0
    republish: float = 15.0
    query: float = 5.0
    fee_msat: int = 5_000
    fee_part: int = 50


class OnePayment:
    """Pays one quote, once. There is no way to pay a second time, or again.

    `settled` is True once the wallet has said so; `refused` is why it definitely did not pay. Neither: it
    is under way, or nobody knows, and then it is not paid again either (money.md, case 7).
    """

    def __init__(
        self,
        payer: Payer,
        quote: Quoted,
        options: Options,
        said: Callable[[Paid | PaymentUnclear], None],
        ended: Callable[[], None],
    ) -> None:
        """Begin to pay. `said` gets what the wallet answers, unless it refuses; then `ended` is called."""
        self.settled = False
        self.refused = ""
        self._quote, self._said, self._ended = quote, said, ended
        fee = max(options.fee_msat, quote.msat // options.fee_part)
        # A task, since a provider may be quicker than the wallet's own answer.
        self._task = asyncio.get_running_loop().create_task(
            payer.pay(quote.bolt11, fee_limit_msat=fee), name="customer payment"
        )
        self._task.add_done_callback(self._on_done)

    @property
    def done(self) -> bool:
        return self._task.done()

    async def close(self) -> None:
        """Wait for the wallet no longer. What has left it stays paid."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _on_done(self, task: asyncio.Task[Payment]) -> None:
        if task.cancelled():
            return
        quote, error = self._quote, task.exception()
        if isinstance(error, WalletError):  # raised before anything left
            self.refused = str(error)
        elif error is not None:
            log.error("the wallet failed in an unexpected way: %s", type(error).__name__)
            self._said(PaymentUnclear(quote.provider, quote.msat, quote.payment_hash))
        elif task.result().state is InvoiceState.FAILED:
            self.refused = "the payment failed"
        elif task.result().state is InvoiceState.SETTLED:
            self.settled = True
            self._said(Paid(quote.provider, quote.msat, task.result().fee_msat, quote.payment_hash))
        else:
            self._said(PaymentUnclear(quote.provider, quote.msat, quote.payment_hash))
        self._ended()
