"""`dvm ask`: buy an answer."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack, aclosing
from typing import Annotated, cast, get_args

import typer

from dvm.commands.ask_display import display
from dvm.commands.buyer import (
    INTERRUPTED,
    AllowPrivate,
    KeyFile,
    NwcFile,
    Paper,
    archive,
    provider_key,
    purse_of,
    run,
    urls_of,
    wallet_of,
)
from dvm.commands.common import RELAYS, Failure, RelaysPath
from dvm.commands.paper_payer import PaperPayer
from dvm.config import load_relays
from dvm.customer import Answered, Asked, Customer, Done, Failed
from dvm.lightning.lnurl import LnurlClient
from dvm.lightning.nwc import NwcWallet
from dvm.nip90 import Input, InputType, InvalidRequest
from dvm.nostr import EncryptError, Event, Keys

MAX_PROMPT_BYTES = 10 << 20


def main(
    prompt: Annotated[str | None, typer.Argument(help='What to ask, the first input; "-" reads it from stdin.')] = None,
    max_sats: Annotated[int, typer.Option("--max-sats", min=0, help="Pay no more than this for the answer.")] = 100,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1, help="The longest answer.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="One of the provider's models.")] = None,
    kind: Annotated[int, typer.Option("--kind", min=5000, max=5999, help="The kind of job.")] = 5050,
    provider: Annotated[
        str | None, typer.Option("--provider", help="Ask this npub only; else whoever hears it, the cheapest is paid.")
    ] = None,
    encrypt: Annotated[
        bool, typer.Option("--encrypt", help="So that only --provider can read it, and only you the answer.")
    ] = False,
    session: Annotated[
        str | None, typer.Option("--session", help="Continue the conversation of this name at --provider, or begin it.")
    ] = None,
    param: Annotated[list[str] | None, typer.Option("--param", help="name=value; may be repeated.")] = None,
    given: Annotated[
        list[str] | None,
        typer.Option("--input", help="url=, event=, job= (ids in hex) or text=, what to work on; may be repeated."),
    ] = None,
    output: Annotated[str | None, typer.Option("--output", help="The media type, such as text/markdown.")] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, help="Seconds to wait for the answer, once it is paid for.")
    ] = 300,
    relays: RelaysPath = RELAYS,
    nwc_file: NwcFile = None,
    paper: Paper = None,
    key_file: KeyFile = None,
    allow_private: AllowPrivate = False,
    require_receipt: Annotated[
        bool, typer.Option("--require-receipt", help="An answer without a receipt is a failure.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, the last is done or failed (docs/ask.md).")
    ] = False,
) -> None:
    """Buy an answer: ask, pay, watch it stream, check the receipt.

    The answer goes to stdout, everything else to stderr. Without a wallet connection the invoice is shown, as text
    and as a QR code, for any wallet to pay. Change stays on your balance at the provider, and the next
    question there is paid from it.

    Ctrl-C cancels the job: what has not been paid is void; of what has, the tokens used so far are billed and
    the rest stays on your balance.

    Exit code 0: answered. 1: refused, failed, too dear, or the receipt does not verify. 2: wrong usage.
    """
    where = load_relays(relays)
    named = None if provider is None else provider_key(provider, "--provider")
    if encrypt and named is None:
        raise typer.BadParameter("an encrypted job names the --provider that can read it", param_hint="--encrypt")
    if session is not None and named is None:
        raise typer.BadParameter("a conversation is continued by the --provider that has it", param_hint="--session")
    params = [_param(text) for text in param or ()]
    if session is not None:
        params.append(("session", session))
    inputs = [_input(text) for text in given or ()]
    if prompt is not None:
        text = _stdin() if prompt == "-" else prompt
        if not text.strip():
            raise typer.BadParameter("the prompt is empty", param_hint="PROMPT")
        inputs.insert(0, Input(text, "text"))
    if not inputs:
        raise typer.BadParameter("nothing to ask: a prompt or an --input expected", param_hint="PROMPT")
    wallet = wallet_of(nwc_file) if paper is None else PaperPayer(paper)
    keys = purse_of(key_file, make=True).keys

    async def ask() -> int:
        return await _ask(
            keys,
            urls_of(where),
            wallet,
            allow_private=allow_private,
            as_json=as_json,
            require_receipt=require_receipt,
            prompt=inputs,
            max_msat=max_sats * 1000,
            kind=kind,
            provider=named,
            model=model,
            max_tokens=max_tokens,
            params=params,
            output=output,
            encrypted=encrypt,
            timeout=timeout,
        )

    raise typer.Exit(run(ask))


async def _ask(  # type: ignore[no-untyped-def]
    keys: Keys,
    urls: list[str],
    wallet: NwcWallet | PaperPayer | None,
    *,
    allow_private: bool,
    as_json: bool,
    require_receipt: bool,
    **job,
) -> int:
    """The exit code."""
    screen = display(as_json=as_json)
    asked: Event | None = None
    end = "interrupted; the job was cancelled"
    try:
        async with AsyncExitStack() as stack:
            stack.callback(screen.close)
            if wallet is not None:
                stack.push_async_callback(wallet.close)
                await wallet.start()
            lnurl = LnurlClient(allow_private=allow_private)
            stack.push_async_callback(lnurl.close)
            customer = await stack.enter_async_context(
                Customer(keys, urls, payer=wallet, archive=archive(), lnurl=lnurl)
            )
            updates = await stack.enter_async_context(aclosing(customer.ask(**job)))
            async for update in updates:
                screen.show(update)
                match update:
                    case Asked(request):
                        asked = request
                    case Answered():
                        end = "interrupted before the receipt came"
                    case Done(receipt=None):
                        return 1 if update.verified is False or require_receipt else 0
                    case Done():
                        return 0 if update.verified else 1
    except (InvalidRequest, EncryptError) as error:
        raise typer.BadParameter(str(error)) from None
    except asyncio.CancelledError:
        # By now the cancellation has been published, unless there was an answer already.
        screen.show(Failed("cancelled", end, request=asked))
        return INTERRUPTED
    return 1


def _param(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise typer.BadParameter("name=value expected", param_hint="--param")
    return name, value


def _input(text: str) -> Input:
    """What else is wrong with it, the request's own parser says."""
    type_, equals, data = text.partition("=")
    if type_ not in get_args(InputType) or not equals or not data.strip():
        raise typer.BadParameter(
            f"{', '.join(f'{each}=…' for each in get_args(InputType))} expected", param_hint="--input"
        )
    return Input(data, cast("InputType", type_))


def _stdin() -> str:
    raw = sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1)
    if len(raw) > MAX_PROMPT_BYTES:
        raise Failure(f"stdin has more than {MAX_PROMPT_BYTES} bytes")
    return raw.decode("utf-8", "replace")
