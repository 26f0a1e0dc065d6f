"""What a check found, and running all checks at once, each bounded in time, none stopping another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "failed"]
SECONDS = 45.0  # for one check, all its steps together

Steps = AsyncGenerator["Finding", None]


@dataclass(frozen=True, slots=True)
class Finding:
    """`name` is what was tried, `subject` on which relay, model…; `advice` is one sentence on what to do."""

    name: str
    subject: str
    state: State
    seen: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """Something to try; it yields its findings as it goes, so that what was found before time is up counts."""

    name: str
    subject: str
    steps: Callable[[], Steps]


async def run(checks: Sequence[Check], seconds: float = SECONDS) -> list[Finding]:
    """All checks at once; their findings in the order of `checks`."""
    found = await asyncio.gather(*(_run(check, seconds) for check in checks))
    return [finding for findings in found for finding in findings]


async def _run(check: Check, seconds: float) -> list[Finding]:
    found: list[Finding] = []
    try:
        async with asyncio.timeout(seconds), aclosing(check.steps()) as steps:
            async for finding in steps:
                found.append(finding)  # noqa: PERF401 - what came before time was up must stay
    except TimeoutError:
        advice = "Run `dvm doctor` again; if it hangs at the same place, restart what stands behind it."
        found.append(Finding(check.name, check.subject, "failed", f"no end within {seconds:g} seconds", advice))
    except Exception as error:  # noqa: BLE001 - the other checks must be told of whatever this one met
        advice = "This is a fault of this program: please report it."
        seen = f"the check itself failed: {type(error).__name__}: {error}"
        found.append(Finding(check.name, check.subject, "failed", seen, advice))
    return found


def advice_for(text: str, rules: Iterable[tuple[tuple[str, ...], str]], otherwise: str) -> str:
    """The advice of the first rule of which a word is in the text."""
    lower = text.lower()
    return next((advice for words, advice in rules if any(word in lower for word in words)), otherwise)
