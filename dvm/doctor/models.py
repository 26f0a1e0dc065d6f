"""One model: a prompt of two words counted, and a token or so of an answer, streamed, if it writes."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from dvm.config import ModelConfig
from dvm.doctor.findings import Finding, Steps
from dvm.models import Limits, Model, ModelError, Prompt, Usage
from dvm.models.base import ErrorCode
from dvm.secrets import API_KEYS

SECONDS = 30.0
PROMPT = Prompt.of("Say hi.")
# The limit includes thoughts. An answer that ends at once, in its thoughts, is answer enough.
LIMITS = Limits(max_output_tokens=1)


async def model(name: str, table: ModelConfig, used: Model) -> Steps:
    """The model `name` of dvm.toml, built and not yet started; closed afterwards."""
    subject = f"{name} ({table.provider}{f' {table.model}' if table.model else ''})"
    try:
        async with asyncio.timeout(SECONDS):
            await used.start()
            counted = await used.count_tokens(PROMPT)
            usage, version = await _answer(used) if "text" in used.makes else (Usage(), None)
    except ModelError as error:
        yield Finding("model", subject, "failed", str(error), advise(name, table, error))
        return
    except TimeoutError:
        what = "Try again; if it stays so, the provider is overloaded or a proxy holds answers back."
        yield Finding("model", subject, "failed", f"no answer within {SECONDS:g} s", what)
        return
    finally:
        await used.close()
    if "text" not in used.makes:
        what = " and ".join(used.makes) or "nothing that could be asked for"
        seen = f"it is there, and counts {counted} tokens; what it makes, {what}, is not tried, as it costs more"
        yield Finding("model", subject, "ok", seen)
    elif usage is None or usage.estimated:
        missing = "anything" if usage is None else ", ".join(sorted(usage.estimated))
        seen = f"it answers, and does not say how many tokens it used ({missing})"
        what = "Sell it at a price per request: the tokens on its bills would be our own estimates."
        yield Finding("model", subject, "warning", seen, what)
    elif usage.input + usage.cached > counted:
        seen = f"it counted {counted} tokens of a prompt, and billed {usage.input + usage.cached}"
        what = "Raise the prices of this model a little: quotes are made from the count, and may be too low."
        yield Finding("model", subject, "warning", seen, what)
    else:
        called = f" as {version}" if version and version != table.model else ""
        seen = f"it answers{called}: {counted} tokens counted, {usage.total} used"
        yield Finding("model", subject, "ok", seen)


async def _answer(used: Model) -> tuple[Usage | None, str | None]:
    """The usage and the model's own name, from the end of the stream. Raises ModelError."""
    usage, version = None, None
    async with aclosing(used.stream(PROMPT, LIMITS)) as chunks:
        async for chunk in chunks:
            usage, version = chunk.usage or usage, chunk.version or version
    return usage, version


def advise(name: str, table: ModelConfig, error: ModelError) -> str:
    """What to do about an error of the model."""
    variable = table.api_key_env or API_KEYS.get(table.provider, "its API key")
    wait = f" It asks to wait {error.retry_after:.0f} s." if error.retry_after else ""
    key = f"{variable}, or the file in models.{name}.api_key_file" if table.api_key_file else variable
    if error.code == "not_found" and (table.provider == "embedded" or "pip install" in str(error)):
        return f"Install it, or correct models.{name}.model."
    return _BY_CODE[error.code].format(name=name, key=key) + wait


_AGAIN = "Run `dvm doctor` again in a while: this is usually the provider's trouble, and passes."
_BY_CODE: dict[ErrorCode, str] = {
    "unauthorized": "Set a valid key in {key}, of an account that is active and may use this model.",
    "not_found": "Correct models.{name}.model (or its base_url): the provider has no such model, or not for you.",
    "rate_limited": "The account's quota is used up or very small: raise it with the provider, or wait.",
    "unavailable": "Make sure that this machine reaches the provider (and that models.{name}.base_url, if set, is "
    "right); otherwise try again later.",
    "bad_request": "Correct the settings of [models.{name}]: the provider refuses even the smallest request.",
    "blocked": "Try another model: this one blocks even a greeting.",
    "broken_off": _AGAIN,
    "stalled": _AGAIN,
    "empty": _AGAIN,
}
