"""From a request on a relay to a quote, a hold, or a refusal."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable

from dvm.jobs.admission import Refusal, RefusedError, first_refusal
from dvm.jobs.choosing import choices, in_order
from dvm.jobs.kinds import Ask, Service
from dvm.jobs.outbox import Outbox
from dvm.jobs.payments.invoicing import Invoicing
from dvm.jobs.payments.settlements import Settlements
from dvm.jobs.quotes import OpenQuotes
from dvm.jobs.shop import Shop, publication
from dvm.jobs.transitions import AskedAgain, Covered, Effect, Priced, Refused, step
from dvm.jobs.watching.clockwatch import ClockWatch
from dvm.jobs.watching.trouble import ModelTrouble
from dvm.jobs.watching.wrong_answers import WrongAnswers
from dvm.ledger import ConflictError, Job, JobState, LedgerError, Publication, Terms
from dvm.models import ModelError, estimate_tokens
from dvm.nip90 import (
    InvalidRequest,
    JobRequest,
    is_for,
    named,
    next_second,
    untimely,
)
from dvm.nostr.encryption import EncryptError
from dvm.nostr.event import Event
from dvm.pricing import Quote, TooDear, price_to_json, quote
from dvm.pricing.prices import MSAT

log = logging.getLogger(__name__)

LEAST_OUTPUT = 64  # tokens: an answer that a bid cuts shorter than this is no use to anyone
REPEAT_SECONDS = 60  # between two repetitions of one job's answers
# After a start the relays send what they have stored; a request that we have answered is then no new wish.
ECHO_SECONDS = 30
_REST = "what is not used stays on your balance"
_UNFORESEEN = Refusal("unavailable", "this provider has met an error of its own, and cannot take the job")


class _NotByThis(RefusedError):
    """This model does not take it; another may."""


class Intake:
    """Takes requests in; `run` is called with the id of a job whose hold is open."""

    def __init__(
        self,
        shop: Shop,
        outbox: Outbox,
        settlements: Settlements,
        quotes: OpenQuotes,
        run: Callable[[str], None],
        wrong: WrongAnswers,
    ) -> None:
        self._shop = shop
        self._wrong = wrong
        self._outbox = outbox
        self._settlements = settlements
        self._quotes = quotes
        self._run = run
        self._refusals: Counter[str] = Counter()
        self._refusals_since = 0
        self._started = shop.now()
        self._repeated: dict[str, int] = {}
        self._unfinished: set[str] = set()  # received, and then the store failed
        self._invoicing = Invoicing(shop)
        self._clock = ClockWatch(shop.now)
        self._counting = {
            name: ModelTrouble(
                log,
                name,
                "counting failed; an upper bound is quoted",
                "the model cannot be used, so jobs are refused: see `dvm doctor`",
                "the model counts again",
            )
            for name in shop.models
        }

    # What comes in

    async def request(self, event: Event, relay: str) -> None:
        """A verified job request. Never raises for what a customer wrote."""
        shop = self._shop
        settings = shop.settings
        if not is_for(event, shop.keys.pubkey):
            return
        if why := untimely(event, shop.now(), max_age=settings.max_age, max_ahead=settings.max_ahead):
            if why != "expired":
                self._clock.untimely(event.pubkey, event.created_at)
            return
        self._clock.timely()
        # What the last run has taken is sent again after a start: that is no new job, and takes no place of one.
        if event.created_at <= self._started and await shop.store.job(event.id) is not None:
            await self._known(event)
            return
        refusal = first_refusal(shop.policies, event, self._quotes)
        # The balance is asked for only where it can overrule: a flood of strangers must not cost a query each.
        if refusal and not (refusal.prepaid and (await shop.store.balance(event.pubkey)).available):
            self._say_no(event, refusal, relay)
            return
        # Counted from here on: of a thousand requests at once, not each is the customer's first.
        self._quotes.opened(event.pubkey)
        quoted = False
        try:
            opened = await shop.store.open_job(
                Job(event.id, event.pubkey, event.kind, JobState.RECEIVED, event.to_json(), shop.now(), 0)
            )
            if opened.known is None:
                quoted = await self._prepare(event, relay, opened.available, refusal)
            else:
                await self._known(event)
        finally:
            if not quoted:
                self._quotes.closed(event.pubkey)

    async def prepare(self, event: Event, relay: str, available: int) -> None:
        """Price a received job and ask for its money, take it from the balance, or refuse."""
        self._quotes.opened(event.pubkey)
        quoted = False
        try:
            quoted = await self._prepare(event, relay, available)
        finally:
            if not quoted:
                self._quotes.closed(event.pubkey)

    async def resume(self, job: Job) -> None:
        """Go on with a job that was received, and no more."""
        balance = await self._shop.store.balance(job.customer)
        await self.prepare(Event.from_json(job.request), "", balance.available)

    async def reclaim(self) -> None:
        """Go on with what the store would not take for a while; until cancelled."""
        while True:
            await asyncio.sleep(self._shop.settings.lease_seconds)
            for job_id in list(self._unfinished):
                try:
                    job = await self._shop.store.job(job_id)
                    self._unfinished.discard(job_id)
                    if job is not None and job.state is JobState.RECEIVED:
                        await self.resume(job)
                except LedgerError as error:
                    self._unfinished.add(job_id)
                    log.error("a job cannot be taken up", extra={"job": job_id, "error": str(error)})

    def close(self) -> None:
        """Wait for no invoice any more: those jobs are unpaid, and stay as received for the next start."""
        self._invoicing.close()

    async def _prepare(self, event: Event, relay: str, available: int, no_quote: Refusal | None = None) -> bool:
        """Whether the job is now quoted. `no_quote`: why it may only be paid out of the balance."""
        request: JobRequest | None = None
        try:
            request = self._shop.read(event)
            self._wrong.check(request)
            service, terms = await self._terms(request)
            if terms.msat > available and _may_wait(request):  # what it waited for may have left change
                available = (await self._shop.store.balance(request.customer)).available
            if terms.msat <= available and await self._shop.store.hold(event.id, terms, self._shop.now()):
                if Effect.RUN in step(JobState.RECEIVED, Covered()).effects:
                    self._run(event.id)
                return False
            if no_quote is not None:
                raise RefusedError(no_quote.code, no_quote.text)
            await self._quote(request, service, terms, relay)
        except (InvalidRequest, RefusedError) as error:
            refusal = error.refusal if isinstance(error, RefusedError) else Refusal(error.code, error.text)
            await self._refuse(event, request, refusal, relay)
        except ConflictError:  # deleted meanwhile
            log.info("a job was cancelled while it was priced", extra={"job": event.id})
        except LedgerError as error:
            log.error("a job could not be stored; it is tried again", extra={"job": event.id, "error": str(error)})
            self._unfinished.add(event.id)
        except Exception:  # an operator's own kind has a mistake, say: its customer is not left without a word
            log.exception("a job met an unexpected error and is refused", extra={"job": event.id})
            await self._refuse(event, request, _UNFORESEEN, relay)
        else:
            return True
        return False

    async def _known(self, event: Event) -> None:
        if self._shop.now() - self._started > ECHO_SECONDS:
            await self.repeat(event.id)

    async def repeat(self, job_id: str) -> None:
        """A request was published once more: so are the stored answers, as they are, once a minute at most."""
        now = self._shop.now()
        if now < self._repeated.get(job_id, 0):
            return
        job = await self._shop.store.job(job_id)
        if job is None or Effect.REPEAT not in step(job.state, AskedAgain()).effects:
            return
        self._repeated = {key: until for key, until in self._repeated.items() if until > now}
        self._repeated[job_id] = now + REPEAT_SECONDS
        answers = await self._shop.store.answers(job_id)
        quoted = job.state is JobState.QUOTED  # its quote counts; later it would only confuse
        self._outbox.repeat([each for each in answers if quoted or each.role != "quote"])
        log.info("asked again: the stored answers are published again", extra={"job": job_id})

    # Terms

    async def _terms(self, request: JobRequest) -> tuple[Service, Terms]:
        service = self._shop.services.get(request.kind)
        if service is None:  # the operator has changed what is sold since it came
            raise RefusedError("unavailable", f"jobs of kind {request.kind} are not taken any more")
        router = self._shop.router
        async with self._shop.inputs.gathering(request, service.kind) as gathered:
            chosen = choices(service, request.param("model"))[0]
            ask = service.read(request, gathered, chosen)
            names = in_order(router, service, request, ask)
            if not router.usable(names[0]):
                raise RefusedError("unavailable", "the model cannot be used at the moment")
            refusals: list[RefusedError] = []
            for name in names:
                try:
                    mine = ask if name == chosen else service.read(request, gathered, name)
                    terms = await self._terms_of(service, name, request, mine)
                except _NotByThis as error:
                    refusals.append(error)
                else:
                    return service, terms
            raise refusals[0]

    async def _terms_of(self, service: Service, name: str, request: JobRequest, ask: Ask) -> Terms:
        """The terms of that model. Raises _NotByThis where those of another may do."""
        tokens = await self._count(name, ask)
        if (limit := self._shop.settings.prompt_tokens) and tokens > limit:
            raise RefusedError("prompt-too-long", f"{tokens} tokens, of at most {limit}")
        if not self._shop.router.fits(name, tokens):
            raise _NotByThis("prompt-too-long", f"{tokens} tokens, for which {name} has no room")
        priced = self._price(service, name, tokens, self._shop.router.most_output(name, ask.max_tokens), request)
        price = json.dumps(price_to_json(priced.price))
        return Terms(name, price, tokens, priced.max_output_tokens, priced.msat)

    async def _count(self, name: str, ask: Ask) -> int:
        model = self._shop.models[name]
        bound = estimate_tokens(ask.prompt)
        # Ten times the limit cannot come below it by exact counting: spare the model the upload.
        if (limit := self._shop.settings.prompt_tokens) and bound > 10 * limit:
            raise RefusedError("prompt-too-long", f"more than {limit} tokens")
        try:
            tokens = await model.count_tokens(ask.prompt)
        except ModelError as error:
            self._counting[name].failing(error)
            if error.passing:
                return bound
            log.info("the model does not count a prompt", extra={"model": name, "error": str(error)})
            if error.code == "bad_request":
                raise _NotByThis("bad-request", "the model does not take this request") from error
            raise _NotByThis("unavailable", "the model cannot be used at the moment") from error
        self._counting[name].fine()
        return tokens

    def _price(self, service: Service, model: str, tokens: int, most: int, request: JobRequest) -> Quote:
        try:
            least = service.kind.least_output or LEAST_OUTPUT
            return quote(service.prices[model], tokens, most, bid=request.bid, least_output=least)
        except TooDear as error:
            raise RefusedError("bid-too-low", f"this costs at least {error.msat // MSAT} sats") from error

    # Answers

    async def _quote(self, request: JobRequest, service: Service, terms: Terms, relay: str) -> None:
        shop = self._shop
        zaps = shop.zaps.quote if shop.zaps else "invoice"
        payment = None if zaps == "zap" else await self._invoicing.invoice(request, terms.msat)
        stamp = next_second(shop.now(), None)
        sats = terms.msat // MSAT
        what = f"{service.name or service.kind.name} by {terms.model}"
        rest = "you are charged once the answer is there" if payment and payment.hold else _REST
        event = shop.answers(request, relay).payment_required(
            terms.msat,
            payment.bolt11 if payment else None,
            f"{what}: at most {sats} sats, {rest}",
            stamp,
            zap=None if zaps == "invoice" else relay,
        )
        said = publication(event, "quote", request.relays)
        following = step(JobState.RECEIVED, Priced())
        # Watched for before anyone can know the invoice, so that no payment is ever unexpected.
        if payment is not None:
            self._settlements.expect(payment, request)
        await shop.store.quote(request.id, terms, payment, said, stamp, shop.now() + shop.settings.quote_seconds)
        if Effect.QUOTE in following.effects:
            self._outbox.send((said,))

    async def _refuse(self, event: Event, request: JobRequest | None, refusal: Refusal, relay: str) -> None:
        """End a received job; its author hears why if the job names us."""
        shop = self._shop
        following = step(JobState.RECEIVED, Refused())
        stamp = next_second(shop.now(), None)
        said: tuple[Publication, ...] = ()
        if named(event, shop.keys.pubkey):
            try:
                error = shop.answers(request or event, relay).error(refusal.code, refusal.text, stamp)
                said = (publication(error, "error", request.relays if request else ()),)
            except EncryptError:  # nothing leaves in clear instead
                log.warning("a refusal cannot be encrypted and is not sent", extra={"job": event.id})
        try:
            await shop.store.close_unpaid(
                event.id, to=following.state, reason=refusal.code, publications=said, at=shop.now(), stamp=stamp
            )
        except ConflictError:
            return
        log.info("refused", extra={"job": event.id, "code": refusal.code, "text": refusal.text})
        self._outbox.send(said)

    def _say_no(self, event: Event, refusal: Refusal, relay: str) -> None:
        """A refusal that time will lift: nothing is stored, and the answers are bounded as well, so that a
        flood of requests makes no flood of events."""
        now = self._shop.now()
        if now - self._refusals_since >= 60:
            self._refusals_since = now
            self._refusals.clear()
        self._refusals[event.pubkey] += 1
        if self._refusals[event.pubkey] > self._shop.settings.refusals_per_minute:
            return
        log.info("refused for now", extra={"job": event.id, "code": refusal.code})
        if not named(event, self._shop.keys.pubkey):
            return
        try:
            error = self._shop.answers(event, relay).error(refusal.code, refusal.text, now)
        except EncryptError:
            return
        self._outbox.send_unstored(error)


def _may_wait(request: JobRequest) -> bool:
    """Whether it names a job that it may have waited for."""
    return request.param("session") is not None or any(each.type == "job" for each in request.inputs)
