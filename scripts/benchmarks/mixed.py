"""Jobs of all six kinds, as a shop meets them: what one costs by its class, and in the mix of them all.

Clear and encrypted in both schemes, with texts, events, pages and earlier results as inputs, paid from a balance and
by invoice; answered by the echo model and, where files are made or an SDK is what is asked about, by its real client.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import count as count_up
from statistics import median
from typing import Any, Literal

import orjson

from dvm.nip90 import Input, request_draft
from dvm.nostr import Keys
from dvm.nostr.encryption import Scheme
from dvm.nostr.event import Event
from scripts.benchmarks import world
from scripts.benchmarks.client import Customer, Times, Unsigned
from scripts.benchmarks.crypto import Needs, needs_of, time_needs
from scripts.benchmarks.history import write_balances
from scripts.benchmarks.machine import cpu_seconds
from scripts.benchmarks.measures import BALANCE_MSAT, Bench, complaints, customers
from scripts.benchmarks.processes import ECHO, PER_REQUEST, RATES, Broken, Stage, neighbours, shop

KINDS = (5000, 5001, 5002, 5050, 5100, 5250)
SOURCES = 50  # events, and earlier results of each scheme, that inputs name
_TEXT = "Once upon a time there was a miller who had three sons, his mill, a donkey and a cat. " * 4
_NUMBERS = count_up()

Source = Literal["text", "event", "url", "job"]


@dataclass(frozen=True, slots=True)
class Class:
    """Jobs that are alike. `share`: of a hundred jobs of the mix. `sdk`: a real client asks a server on loopback."""

    name: str
    kind: int
    share: int
    source: Source = "text"
    scheme: Scheme | None = None
    invoice: bool = False
    model: str = "echo"

    @property
    def sdk(self) -> bool:
        return self.model != "echo"

    def jobs(self, most: int) -> int:
        """How many in a round. Fewer of what is slow, and of what asks the relay: LocalRelay takes 1,200 queries a
        minute from one connection."""
        return max(1, most // 4) if self.sdk or self.source == "event" else most


CLASSES = (
    Class("text generation", 5050, 12),
    Class("text generation, NIP-44", 5050, 12, scheme="nip44"),
    Class("text generation, NIP-04", 5050, 6, scheme="nip04"),
    Class("text generation, by invoice", 5050, 14, invoice=True),
    Class("text generation, NIP-44, by invoice", 5050, 8, scheme="nip44", invoice=True),
    Class("summary of an event", 5001, 10, source="event"),
    Class("extraction from a page", 5000, 8, source="url"),
    Class("translation of an earlier result", 5002, 10, source="job"),
    Class("summary of an earlier result, NIP-44", 5001, 6, source="job", scheme="nip44"),
    Class("text generation, a conversation goes on", 5050, 4, source="job"),
    Class("text generation by Gemini's SDK", 5050, 3, model="gemini"),
    Class("text generation at an OpenAI endpoint", 5050, 3, model="openai"),
    Class("image by Gemini's SDK, uploaded", 5100, 2, model="image"),
    Class("speech by Gemini's SDK, uploaded", 5250, 2, model="speech"),
)
MIXES: dict[str, Callable[[Class], bool]] = {
    "the mix, the echo model's alone": lambda each: not each.sdk,
    "the mix of all": lambda each: True,
}


class Desk:
    """What jobs are asked with: customers with a balance and without, and things that inputs can name."""

    def __init__(self, stage: Stage, pages: str, funded: list[Keys], unfunded: list[Keys], seed: int) -> None:
        self.stage = stage
        self.by_pubkey = {keys.pubkey: keys for keys in (*funded, *unfunded)}
        self.events: list[Event] = []
        self._pages = pages
        self._funded, self._unfunded = funded, unfunded
        self._results: dict[Scheme | None, list[tuple[str, Keys]]] = {None: [], "nip44": []}
        self._chance = random.Random(seed)

    async def furnish(self, customer: Customer) -> None:
        """Publish the events, and have the earlier jobs done."""
        for number in range(SOURCES):
            event = Keys.generate().sign(1, [], f"{number}. {_TEXT}", 1_700_000_000 + number)
            self.events.append(event)
            await customer.publish(event)
        for scheme, found in self._results.items():
            first = Class("", 5050, 0, scheme=scheme)
            for times in await customer.ask_all([self.request(first) for _ in range(SOURCES)], 16):
                found.append((times.request.id, self.by_pubkey[times.request.pubkey]))
            if not found:
                raise Broken("no job was done that others could name")

    def request(self, each: Class) -> Unsigned:
        """A job of that class, different from every other."""
        number = next(_NUMBERS)
        keys = (self._unfunded if each.invoice else self._funded)[number % SOURCES]
        inputs: list[Input | str] = []
        match each.source:
            case "text":
                inputs.append(f"{number}. {_TEXT}")
            case "event":
                inputs.append(Input(self._chance.choice(self.events).id, "event"))
            case "url":
                inputs.append(Input(self._pages + world.page(number), "url"))
            case "job":
                job, keys = self._chance.choice(self._results[each.scheme])  # none of them is read for anybody else
                inputs.append(Input(job, "job"))
                if each.kind == 5050:  # it goes on with what was said then
                    inputs.append(f"{number}. {_TEXT}")
        params = [["model", each.model], *([["language", "es"]] if each.kind == 5002 else [])]
        # A chained one could else be the same event as an earlier one of this second.
        params.append(["number", str(number)])
        providers = [self.stage.pubkey]
        draft = request_draft(each.kind, inputs, params=params, providers=providers, keys=keys, scheme=each.scheme)
        return Unsigned(draft, keys)

    def mix(self, wanted: Callable[[Class], bool], number: int) -> list[Unsigned]:
        """So many jobs, each class with its share, in whatever order."""
        classes = [each for each in CLASSES if wanted(each)]
        all_of_them = sum(each.share for each in classes)
        counts = {each.name: max(1, round(number * each.share / all_of_them)) for each in classes}
        requests = [self.request(each) for each in classes for _ in range(counts[each.name])]
        self._chance.shuffle(requests)
        return requests

    def needs(self, each: Class, done: Times) -> Needs:
        named = {tag[1] for tag in done.request.tags if tag[0] == "i"}
        return needs_of(
            done.request,
            list(done.heard.values()),
            self.by_pubkey[done.request.pubkey],
            self.stage.pubkey,
            looked_up=[event for event in self.events if event.id in named],
            file={"image": bytes(world.IMAGE_BYTES), "speech": bytes(world.SPEECH_BYTES)}.get(each.model),
        )


async def compare(bench: Bench) -> dict[str, Any]:
    """Processor time of a job of each class and of each mix, and that as a multiple of its cryptography's; all classes
    in turn, again and again, each round with a floor of its own."""
    sizes, directory = bench.sizes, bench.place("mixed")
    funded, unfunded = customers(), customers()
    await write_balances(directory / "data", [keys.pubkey for keys in funded], BALANCE_MSAT)
    with neighbours(directory, bench.cores) as around:
        told = orjson.loads(await around.said('"blossom"'))
        env = {"GEMINI_API_KEY": told["gemini_key"]}
        async with (
            shop(directory, PER_REQUEST, bench.cores, sold=_sold(told), env=env) as stage,
            Customer(stage.url, stage.till, [*funded, *unfunded], kinds=KINDS) as customer,
        ):
            desk = Desk(stage, told["pages"], funded, unfunded, sizes.seed)
            bench.say("mixed jobs: warming up")
            await desk.furnish(customer)
            needs = {each.name: await _first(desk, customer, each) for each in CLASSES}
            rounds: dict[str, list[dict[str, float]]] = {}
            for number in range(sizes.rounds):
                bench.say(f"mixed jobs: round {number + 1} of {sizes.rounds}")
                for each in CLASSES:
                    requests = [desk.request(each) for _ in range(each.jobs(sizes.mixed_jobs))]
                    found = await _round(bench, stage, customer, requests, {each.name: needs[each.name]})
                    rounds.setdefault(each.name, []).append(found)
                for name, wanted in MIXES.items():
                    members = [each for each in CLASSES if wanted(each)]
                    requests = desk.mix(wanted, sizes.mixed_jobs * 3)
                    found = await _round(
                        bench, stage, customer, requests, {one.name: needs[one.name] for one in members}
                    )
                    rounds.setdefault(name, []).append(found)
            return {
                "classes": [_summary(name, each, needs.get(name)) for name, each in rounds.items()],
                "lost": asdict(customer.lost),
                "log": complaints(stage),
            }


async def _first(desk: Desk, customer: Customer, each: Class) -> Needs:
    """What a job of that class needs, by one that was done; its client is loaded by then."""
    done = await customer.ask(desk.request(each))
    if done is None:
        raise Broken(f"a first job had no end: {each.name}")
    return desk.needs(each, done)


async def _round(
    bench: Bench, stage: Stage, customer: Customer, requests: Sequence[Unsigned], needs: dict[str, Needs]
) -> dict[str, float]:
    await stage.daemon.at_rest()
    before = _floor(bench, needs)
    used = cpu_seconds(stage.daemon.pid)
    done = await customer.ask_all(requests, bench.sizes.outstanding)
    if not done:
        raise Broken("not one job of a round was answered")
    await stage.daemon.at_rest()
    spent = (cpu_seconds(stage.daemon.pid) - used) / len(done)
    floor = (before + _floor(bench, needs)) / 2
    answers = sum(len(times.heard) for times in done) / len(done)
    return {
        "jobs": len(done),
        "daemon_us": spent * 1e6,
        "floor_us": floor * 1e6,
        "multiple": spent / floor,
        "answers": answers,
    }


def _floor(bench: Bench, needs: dict[str, Needs]) -> float:
    """Of one job, on average: the classes count by their shares."""
    shares = {each.name: each.share for each in CLASSES if each.name in needs}
    timed = sum(time_needs(needs[name], bench.cores) * share for name, share in shares.items())
    return timed / sum(shares.values())


def _summary(name: str, rounds: list[dict[str, float]], needs: Needs | None) -> dict[str, Any]:
    middle = {key: median(each[key] for each in rounds) for key in rounds[0]}
    multiples = [each["multiple"] for each in rounds]
    return {
        "name": name,
        **middle,
        "multiple_least": min(multiples),
        "multiple_most": max(multiples),
        "operations": needs.counts() if needs else None,
        "rounds": rounds,
    }


def _sold(told: dict[str, str]) -> str:
    """The models and the services of dvm.toml, and where files go."""
    gemini = f'provider = "gemini"\nbase_url = "{told["gemini"]}"\n{RATES}max_output_tokens = 2048\n'
    models = [
        ECHO,
        *(
            f'[models.{name}]\nmodel = "{model}"\n{gemini}'
            for name, model in (("gemini", world.TEXT), ("image", world.IMAGE), ("speech", world.SPEECH))
        ),
        f'[models.openai]\nprovider = "openai"\nmodel = "chat"\nbase_url = "{told["openai"]}"\n{RATES}',
    ]
    offered = {5050: ["echo", "gemini", "openai"], 5100: ["image"], 5250: ["speech"]}
    services = [
        f"[[service]]\nkind = {kind}\nmodels = {offered.get(kind, ['echo'])}\nprice = {PER_REQUEST}\n" for kind in KINDS
    ]
    return "".join([*models, *services, f'[files]\nservers = ["{told["blossom"]}"]\n'])
