"""How `dvm ask` shows what comes: for a terminal, for a pipe, for a program.

The answer goes to stdout, everything else to stderr. What a provider says is hostile: it must not move the
cursor, rename the window or hide text.
"""

from __future__ import annotations

import io
import json
import sys
import time
import unicodedata
from typing import Protocol, TextIO

import segno
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from dvm.commands.common import count, sats
from dvm.customer import (
    Answered,
    Asked,
    Declined,
    Done,
    Due,
    Failed,
    Paid,
    Partial,
    PaymentUnclear,
    Processing,
    Quoted,
    Receipted,
    Update,
    Waiting,
    as_dict,
)
from dvm.customer.updates import WaitingFor
from dvm.nostr import npub

# Everything below is the customer's money; whatever a provider adds to it is one line of bounded length.
MAX_SAID = 300


class Display(Protocol):
    """Shows each update; `close` before anything else is printed."""

    def show(self, update: Update) -> None: ...
    def close(self) -> None: ...


def display(*, as_json: bool) -> Display:
    """What fits the terminal, or the lack of one."""
    if as_json:
        return Lines()
    console = Console(stderr=True, highlight=False)
    return Terminal(console) if console.is_terminal else Plain()


class Lines:
    """One JSON object a line on stdout, the last of them `done` or `failed`."""

    def show(self, update: Update) -> None:
        print(json.dumps(as_dict(update)), flush=True)  # noqa: T201

    def close(self) -> None:
        """Nothing is open."""


class Plain:
    """The answer on stdout, a line for each step on stderr."""

    def __init__(self) -> None:
        self._words = Words()

    def show(self, update: Update) -> None:
        for line in self._words.of(update):
            self._say(line)
        match update:
            case Due(by_hand=True):
                self._say(invoice_text(update.quote.bolt11))
            case Answered(text=text):
                write_answer(text, sys.stdout)

    def close(self) -> None:
        """Nothing is open."""

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)  # noqa: T201


class Terminal(Plain):
    """As Plain, and the answer streams: a live view on stderr, which gives way to the whole on stdout."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._live: Live | None = None
        self._partial: Partial | None = None

    def show(self, update: Update) -> None:
        if isinstance(update, Partial):
            self._partial = update
            if self._live is None:
                self._live = Live(console=self._console, transient=True, redirect_stdout=False, redirect_stderr=False)
                self._live.start()
            self._live.update(self._view(update))
            return
        # Else the answer and the lines below would be painted over.
        if not isinstance(update, Processing | Declined | Quoted | Waiting):
            self.close()
        super().show(update)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _say(self, line: str) -> None:
        if self._live is not None:
            self._live.console.print(Text(line))
        else:
            super()._say(line)

    def _view(self, partial: Partial) -> Group:
        """The end of the text, as much as the window holds, and what is left."""
        width, height = self._console.size
        shown = printable(partial.text[-width * height :])
        lines = Text(shown).wrap(self._console, width)[-max(height - 3, 1) :]
        return Group(*lines, Text(left(partial), style="dim"))


class Words:
    """Each update in words for people; some need none."""

    def of(self, update: Update) -> list[str]:
        match update:
            case Asked(request, relays):
                return [f"asked on {count(len(relays), 'relay')}: job {request.id}"]
            case Quoted():
                note = "" if update.network == "mainnet" else f" ({update.network}: not real money)"
                return [f"quote: at most {sats(update.msat)}{note} by {npub(update.provider)}"]
            case Declined(provider, _, text):
                return [f"not taken: {npub(provider)}: {one_line(text)}"]
            case Due(quote, True, until):
                wallet = "any Lightning wallet" if quote.network == "mainnet" else f"a {quote.network} wallet"
                left = max(round((until - time.time()) / 60), 1)
                clock = time.strftime("%H:%M:%S", time.localtime(until))
                return [f"pay this invoice with {wallet} until {clock} ({count(left, 'minute')}), not later:"]
            case Paid(_, msat, fee, _):
                return [f"paid {sats(msat)}" + (f", and {sats(fee)} for routing" if fee else "")]
            case PaymentUnclear():
                return ["the wallet does not know whether it paid; it is not paid again, the result will tell"]
            case Processing(_, text):
                return ["at work" + (f": {one_line(text)}" if text else "")]
            case Waiting(what, until):
                return [_WAITING[what] + ("" if until is None else f"; {_duration(until - time.time())} more at most")]
            case Receipted():
                return self._receipt(update)
            case Done():
                return self._done(update)
            case Failed():
                return self._failed(update)
        return []

    def _receipt(self, receipted: Receipted) -> list[str]:
        receipt = receipted.receipt
        used = ", ".join(
            f"{count} {name}" + (" (estimated)" if name in receipt.estimated else "")
            for name, count in receipt.usage.items()
            if count
        )
        prices = ", ".join(
            f"{name} {sats(price)}" + ("" if name == "request" else " per million")
            for name, price in receipt.prices.items()
        )
        lines = [one_line(f"tokens: {used or 'none'}; model {receipt.model}; price: {prices or 'free'}")]
        lines.append(f"cost {sats(receipt.cost or 0)}, paid {sats(receipt.paid)}, balance left {sats(receipt.after)}")
        if receipted.verified:
            lines.append(f"receipt {receipt.seq} verified: {', '.join(receipted.checked)}")
        else:
            lines.append(f"receipt {receipt.seq} DOES NOT VERIFY:")
            lines += [f"  {one_line(problem)}" for problem in receipted.problems]
        for first, last in receipted.missing:
            lines.append(f"  receipts {first} to {last} are on none of the relays: not checked")
        return lines

    def _done(self, done: Done) -> list[str]:
        known = () if done.receipt is None else done.receipt.problems
        lines = [f"wrong: {one_line(problem)}" for problem in done.problems if problem not in known]
        if done.receipt is None:
            lines.append("no receipt came: what this cost, and what is left, is not known")
        return lines

    def _failed(self, failed: Failed) -> list[str]:
        lines = [f"no answer: {failed.code}: {one_line(failed.text)}"]
        if failed.code == "no-answer" and failed.provider is None:
            lines.append("Who does not take a broadcast says nothing; with --provider you hear why.")
        if failed.msat and failed.provider is not None:
            if failed.receipt is None:
                lines.append(
                    f"{sats(failed.msat)} were paid, or may have been, and no receipt says what became of them."
                )
            lines.append(f"your balance there: dvm balance --at {npub(failed.provider)}")
        return lines


_WAITING: dict[WaitingFor, str] = {
    "wallet": "still waiting: your wallet does not answer yet",
    "quote": "still waiting: no quote yet. The provider may be fetching the inputs, or be waiting for its wallet",
    "answer": "still waiting: no answer yet. The job may be queued behind others",
    "receipt": "still waiting: the receipt has not come yet",
}


def _duration(seconds: float) -> str:
    return count(round(seconds / 60), "minute") if seconds >= 90 else count(max(round(seconds), 1), "second")


def left(partial: Partial) -> str:
    """What remains of the quote, where the provider says so."""
    if partial.remaining_msat is None:
        return "…"
    return f"… {sats(partial.remaining_msat)} and {count(partial.remaining_tokens or 0, 'token')} left"


def invoice_text(bolt11: str) -> str:
    """The invoice as text and as a QR code, which holds it in capitals: fewer, larger dots."""
    out = io.StringIO()
    segno.make("LIGHTNING:" + bolt11.upper(), error="l").terminal(out=out, border=2, compact=True)
    code = out.getvalue()
    try:
        code.encode(sys.stderr.encoding or "ascii")
    except UnicodeEncodeError:
        code = ""
    return f"{code}\n{bolt11}\n"


def write_answer(text: str, out: TextIO) -> None:
    """The answer: as it is into a file or a pipe, without control characters onto a terminal."""
    text = printable(text) if out.isatty() else text
    # A lone surrogate, or a character that the terminal's encoding lacks, must not end the command.
    encoding = out.encoding or "utf-8"
    text = text.encode(encoding, "replace").decode(encoding)
    print(text, end="" if text.endswith("\n") else "\n", file=out, flush=True)


def printable(text: str) -> str:
    """Text without what a terminal obeys, or what reorders it for the eye."""
    return "".join(c if c in "\n\t" or _harmless(c) else "�" for c in text)


def one_line(text: str) -> str:
    """A provider's words as one bounded line."""
    return " ".join(printable(text[:MAX_SAID]).split())


def _harmless(c: str) -> bool:
    return unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") and unicodedata.bidirectional(c) not in _BIDI


_BIDI = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
