"""The paper wallet service as a process, and wallets by name."""

from __future__ import annotations

import asyncio
import json
import signal
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from dvm.lightning.base import WalletError
from dvm.lightning.nwc import NwcWallet
from dvm.lightning.paper import PaperWallet
from dvm.lightning.paper_node import SOCKET
from dvm.lightning.paper_socket import pay_over_socket
from dvm.lightning.registry import WALLETS, Setup, make_wallet
from dvm.nostr.keys import Keys
from tests.lightning.contract import SETTLED
from tests.standins.relay import local_relay

COMMAND = (sys.executable, "-m", "dvm.lightning.paper_service")


@asynccontextmanager
async def process(*arguments: str, end: signal.Signals = signal.SIGTERM) -> AsyncIterator[dict[str, str]]:
    running = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert running.stdout is not None
    try:
        async with asyncio.timeout(30):
            line = await running.stdout.readline()
        yield json.loads(line)
    finally:
        running.send_signal(end)
        _, error = await running.communicate()
    assert error == b""
    assert running.returncode == (0 if end is signal.SIGTERM else -end)


async def test_two_wallets_pay_each_other_over_two_lives_of_the_process(tmp_path: Path) -> None:
    async with local_relay() as relay:
        arguments = ("--relay", relay, "--data", str(tmp_path / "paper"), "--sats", "1000")
        async with process(*arguments, end=signal.SIGKILL) as told:
            assert "paper" in told["wallet"]
            shop, customer = NwcWallet(told["shop"]), NwcWallet(told["customer"])
            await shop.start()
            await customer.start()
            first = await shop.create_invoice(100_000, description="a job", expiry=600)
            second = await shop.create_invoice(1_000, description="a job", expiry=600)
            assert (await customer.pay(first.bolt11, fee_limit_msat=0)).state is SETTLED
        async with process(*arguments) as again:
            assert (again["shop"], again["customer"]) == (told["shop"], told["customer"])
            assert (await shop.lookup(first.payment_hash)).state is SETTLED
            assert (await customer.info()).balance_msat == 900_000
            assert (await pay_over_socket(tmp_path / "paper" / SOCKET, second.bolt11))["paid"]
            assert (await shop.info()).balance_msat == 101_000
        assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "paper").iterdir()} == {0o600}
        await shop.close()
        await customer.close()


@pytest.mark.parametrize("arguments", [(), ("--relay", "http://x"), ("--relay", "ws://x", "--sats", "many")])
async def test_wrong_arguments_are_a_usage_error(arguments: tuple[str, ...]) -> None:
    running = await asyncio.create_subprocess_exec(*COMMAND, *arguments, stderr=asyncio.subprocess.PIPE)
    _, error = await running.communicate()
    assert running.returncode == 2
    assert b"Traceback" not in error


async def test_a_file_that_is_not_ours_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "paper-connections.json").write_text("[]")
    running = await asyncio.create_subprocess_exec(
        *COMMAND, "--relay", "ws://127.0.0.1:1", "--data", str(tmp_path), stderr=asyncio.subprocess.PIPE
    )
    _, error = await running.communicate()
    assert running.returncode == 1
    assert b"paper-connections.json" in error
    assert b"Traceback" not in error


# --- wallets by name -----------------------------------------------------------------------------------


async def test_a_paper_wallet_in_process_can_be_paid_from_outside(tmp_path: Path) -> None:
    wallet = make_wallet("paper", Setup(None, None, tmp_path))
    assert isinstance(wallet, PaperWallet)
    await wallet.start()
    invoice = await wallet.create_invoice(1_000, description="a job", expiry=600)
    hints = wallet.settlements()
    assert (await pay_over_socket(tmp_path / SOCKET, invoice.bolt11))["paid"]
    assert await anext(hints) == invoice.payment_hash
    await wallet.close()
    again = make_wallet("paper", Setup(None, None, tmp_path))
    await again.start()
    assert (await again.lookup(invoice.payment_hash)).state is SETTLED
    await again.close()


async def test_an_nwc_wallet_takes_its_connection_from_the_secret(tmp_path: Path) -> None:
    keys = Keys.generate()
    uri = f"nostr+walletconnect://{keys.pubkey}?relay=ws://127.0.0.1:1&secret={'12' * 32}"
    wallet = make_wallet("nwc", Setup(None, uri, tmp_path))
    assert isinstance(wallet, NwcWallet)
    await wallet.start()
    await wallet.close()


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("piggybank", {}),
        ("nwc", {}),
        ("nwc", {"secret": "nostr+walletconnect://secret"}),
        ("paper", {"network": "mainnet"}),
    ],
)
def test_what_makes_no_wallet_is_one_error(tmp_path: Path, name: str, given: dict[str, object]) -> None:
    with pytest.raises(WalletError) as error:
        make_wallet(name, replace(Setup(None, None, tmp_path), **given))  # type: ignore[arg-type]
    assert "secret" not in str(error.value)
    assert {"nwc", "paper"} <= set(WALLETS)
