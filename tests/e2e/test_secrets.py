"""No secret in any output: everything is run, and made to fail, with known secrets, which are then looked for."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from pynostr.key import PrivateKey

from dvm.nostr.keys import Keys
from tests.e2e.conftest import WalletProcess
from tests.standins.bad_relay import BadRelay, bad_relay
from tests.standins.customer import customer
from tests.standins.daemon import daemon
from tests.standins.gemini import GeminiStandIn
from tests.standins.process import Process

API_KEY = "AIzaSyD-this-is-a-known-key-0123456789ab"
CODES = ("RATE_LIMITED", "NOT_IMPLEMENTED", "QUOTA_EXCEEDED", "RESTRICTED", "UNAUTHORIZED", "INTERNAL", "OTHER", "WHAT")
FLASH = {"provider": "gemini", "model": "gemini-2.5-flash", "input": 300, "cached": 75, "output": 2500}


class Known:
    """The secrets, each with a name, in every spelling in which they could turn up."""

    def __init__(self) -> None:
        self.spellings: dict[str, str] = {}

    def add(self, name: str, secret: str) -> None:
        assert len(secret) >= 16
        bare = {secret, quote(secret, safe=""), json.dumps(secret)[1:-1], base64.b64encode(secret.encode()).decode()}
        for number, text in enumerate(bare):
            self.spellings[f"{name} ({number})"] = text.lower()

    def add_keys(self, name: str, keys: Keys) -> None:
        nsec = keys.nsec()
        key = PrivateKey.from_nsec(nsec)
        self.add(f"{name}'s nsec", nsec)
        self.add(f"{name}'s key in hex", key.hex())
        self.add(f"{name}'s key in base64", base64.b64encode(key.raw_secret).decode())

    def add_connection(self, name: str, uri: str) -> None:
        self.add(f"{name}'s connection", uri)
        self.add(f"{name}'s connection secret", parse_qs(urlsplit(uri).query)["secret"][0])

    def within(self, text: str) -> list[str]:
        """The names of those that are in `text`."""
        lower = text.lower()
        return [name for name, spelling in self.spellings.items() if spelling in lower]


def test_a_secret_is_found_however_it_is_written() -> None:
    """The search itself: what finds nothing must be able to find something."""
    known, keys = Known(), Keys.generate()
    known.add_keys("shop", keys)
    known.add("key", "a b/c+d&e=f0123456789")
    secret = PrivateKey.from_nsec(keys.nsec())
    for text in (keys.nsec(), secret.hex().upper(), base64.b64encode(secret.raw_secret).decode()):
        assert known.within(f"…{text}…")
    assert known.within('{"error": "a%20b%2Fc%2Bd%26e%3Df0123456789"}')
    assert known.within("nothing") == []


class Everything:
    """All that was ever put out, by where."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    async def run(self, name: str, arguments: Sequence[str], env: Mapping[str, str]) -> int:
        """One command; its exit code."""
        process = Process(["-m", "dvm", *arguments], env)
        await process.spawn()
        code = await process.ended(120)
        text = "\n".join(process.lines)
        self.texts[f"dvm {name} ({len(self.texts)})"] = text
        assert "Traceback" not in text
        return code

    def files(self, *directories: Path) -> None:
        for directory in directories:
            for path in directory.rglob("*"):
                if path.is_file():
                    self.texts[str(path)] = path.read_bytes().decode("latin-1")

    def events(self, relay: BadRelay) -> None:
        self.texts["events"] = "\n".join(json.dumps(raw) for raw in relay.stored.values())


@pytest.mark.timeout(180)
async def test_no_secret_in_any_output(wallet: WalletProcess, tmp_path: Path) -> None:
    known, out = Known(), Everything()
    keys, buyer_keys = Keys.generate(), Keys.generate()
    uris = json.loads(wallet.lines[0])
    known.add_keys("the shop", keys)
    known.add_keys("the customer", buyer_keys)
    known.add_connection("the shop", uris["shop"])
    known.add_connection("the customer", uris["customer"])
    known.add("the API key", API_KEY)
    env = {"DVM_NSEC": keys.nsec(), "DVM_NWC_URI": uris["shop"], "GEMINI_API_KEY": API_KEY}
    env |= {"DVM_CUSTOMER_NSEC": buyer_keys.nsec(), "DVM_CUSTOMER_NWC": uris["customer"]}
    env |= {"XDG_DATA_HOME": str(tmp_path / "customer")}
    model = {**FLASH, "max_output_tokens": 500}
    async with (
        bad_relay() as relay,
        GeminiStandIn(key=API_KEY) as gemini,
        daemon(
            tmp_path / "shop", [relay.url], keys=keys, env=env, options=["--verbose"],
            wallet={"type": "nwc", "timeout_seconds": 1}, model={**model, "base_url": gemini.url},
            limits={"attempts": 1},
        ) as shop,
        customer(relay.url) as buyer,
    ):  # fmt: skip
        config, relays, data = (shop.files()[i : i + 2] for i in (0, 2, 4))
        files = [*config, *relays, *data]

        # All is well.
        await out.run("announce", ["announce", *files], env)
        await out.run("doctor", ["doctor", *files], env)
        assert await out.run("ask", ["ask", "What is a coin?", *relays, "--json"], env) == 0
        assert await out.run("ask", ["ask", "And a note?", *relays, "--encrypt", "--provider", keys.npub], env) == 0
        job = await buyer.ask("a question")
        await wallet.pay((await buyer.quote(job)).bolt11 or "")
        await buyer.receipt(job)
        await asyncio.gather(
            out.run("statement", ["statement", buyer_keys.npub, *files, "--json"], env),
            out.run("balance", ["balance", *files, "--json"], env),
            out.run("report", ["report", *files, "--json"], env),
            out.run("balance", ["balance", "--at", keys.npub, *relays], env),
        )

        # All goes wrong: the wallet, the model, the relay.
        for number, code in enumerate(CODES):
            await wallet.order({"errors": {"*": code}})
            await wallet.line(code)
            await buyer.ask(f"with {code}, {number}", providers=[keys.pubkey])
        await out.run("doctor", ["doctor", *files, "--json"], env)
        await wallet.order({"errors": {}})
        await wallet.line('"errors": {}}')
        for number, fault in enumerate(({"status": 401}, {"status": 400}, {"fault": "garbage"}, {"fault": "reset"})):
            gemini.script("*", **fault)
            job = await buyer.ask(f"question {number}", params=[("max_tokens", "100")], providers=[keys.pubkey])
            await buyer.until(job, lambda event: event.tag("status") in ("payment-required", "error"))
            if (bolt11 := next((e.all("amount")[0][2] for e in buyer.heard[job] if e.all("amount")), None)) is not None:
                await wallet.pay(bolt11)
            await buyer.feedback(job, "error")
        gemini.forget()
        # A relay's words are hostile: were a secret among them, the daemon's log would have to black it out.
        relay.faults.reject = f"blocked: {keys.nsec()} and {API_KEY}"
        for client in list(relay.clients):  # not through the relay's own store: nobody else may read this
            await client.socket.send(json.dumps(["NOTICE", relay.faults.reject]))
        relay.faults.reject = "blocked: not you"
        await asyncio.gather(
            out.run("ask", ["ask", "Are you there?", *relays, "--timeout", "2", "--max-sats", "0"], env),
            out.run("announce", ["announce", *files], env),
        )
        relay.faults.reject = None
        await wallet.kill()
        gemini.key = "another key than ours"
        await buyer.ask("with the wrong key", providers=[keys.pubkey])
        await asyncio.gather(
            out.run("doctor", ["doctor", *files], env),
            out.run("ask", ["ask", "Who pays?", *relays, "--timeout", "2"], env),
        )

        # All is mistyped.
        broken = {
            "DVM_NSEC": keys.nsec()[:-3] + "qqq",
            "DVM_NWC_URI": uris["shop"].replace("relay=", "realy="),
            "GEMINI_API_KEY": API_KEY[:20] + " " + API_KEY[20:],
            "DVM_CUSTOMER_NWC": uris["customer"].replace("nostr+walletconnect", "nostr+wallet"),
        }
        known.add("the mistyped key", broken["DVM_NSEC"])
        known.add("the halved API key", API_KEY[20:])
        purse = broken.pop("DVM_CUSTOMER_NWC")
        mistyped = [
            out.run(command, [command, *files], env | {name: value})
            for name, value in broken.items()
            for command in ("run", "doctor", "announce")
        ]
        await asyncio.gather(
            *mistyped, out.run("ask", ["ask", "?", *relays, "--timeout", "2"], env | {"DVM_CUSTOMER_NWC": purse})
        )
        (tmp_path / "shop" / "leaky.toml").write_text(f'[wallet]\ntype = "nwc"\nurl = "{uris["shop"]}"\n')
        leaky = ["--config", str(tmp_path / "shop" / "leaky.toml")]
        assert await out.run("run", ["run", *leaky, *relays, *data], env) == 2
        (tmp_path / "shop" / "leaky.toml").unlink()

        out.texts["the log before its end"] = "\n".join(shop.lines)
        out.files(tmp_path / "shop" / "data")  # with its -wal, while it is open
        assert any(name.endswith("-wal") for name in out.texts)
        await shop.end()
        out.texts["the log"] = "\n".join(shop.lines)
        out.files(tmp_path / "shop", tmp_path / "customer")
        out.events(relay)

    preimages = [json.loads(line)[4] for line in (tmp_path / "wallet" / "paper.jsonl").read_text().splitlines()
                 if line.startswith('["invoice"')]  # fmt: skip
    assert len(preimages) >= 3
    for number, preimage in enumerate(preimages):
        known.add(f"preimage {number}", preimage)
    assert len(out.texts["events"]) > 5_000
    assert shop.log
    found = {where: names for where, text in out.texts.items() if (names := known.within(text))}
    assert found == {}
