"""How a job ends: what is billed or given back, and what its customer is told, in one transaction."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict

from dvm.jobs.admission import ErrorCode
from dvm.jobs.outbox import Outbox
from dvm.jobs.run import Run, metered, price_of, prices_of
from dvm.jobs.shop import Shop, publication
from dvm.jobs.watching.spending import Spending
from dvm.ledger import Finished, Job, JobState, LedgerError, Link, Metered, Publication, ReceiptMaker
from dvm.ledger.base import HOLDING
from dvm.models import Usage
from dvm.nip90 import Answers, Finish, InvalidRequest, JobRequest, Work, input_sha256, make_receipt, next_second
from dvm.nip90 import text_sha256 as sha256_of
from dvm.nostr.encryption import EncryptError
from dvm.nostr.event import Event
from dvm.pricing import Price

log = logging.getLogger(__name__)


class Endings:
    """Every way in which a job that was paid for ends. `ended` is called with the id of each whose end may stand
    against a promise: it is given up, or its answer is ready."""

    def __init__(self, shop: Shop, outbox: Outbox, spending: Spending) -> None:
        self._shop = shop
        self._outbox = outbox
        self._spending = spending
        self.ended: Callable[[str], None] = lambda _job: None

    async def bill(self, run: Run, to: JobState, event: Event, role: str, finish: Finish) -> None:
        """running → delivered, failed or cancelled: bill what was used, return the rest, publish `event`."""
        shop, job = self._shop, run.job
        answer = publication(event, role, run.request.relays)
        made: list[Publication] = []
        used = run.used()
        result = event.id if role == "result" else None
        work = _work(job, run.request, run.price, finish, used, run.answered(), result, run.text)
        row = metered(job, used, finish, run.by)
        posting = await shop.store.post(
            job.id,
            to=to,
            cost=run.cost(),
            used=row,
            publications=(answer,),
            receipt=self._receipt_maker(run.answers, run.request.relays, work, run.stamped(shop.now()), made),
            at=shop.now(),
            stamp=run.stamp,
            reason=None if result else finish,
        )
        self._spending.add(row, posting.cost)
        self._outbox.send((answer, *made[-1:]))
        _tell(to, job, used.total, posting.cost, row)
        await self._unbilled(job, run.lost)

    async def finish(self, run: Run, event: Event, finish: Finish) -> None:
        """running → settling: keep the answer, unseen, until the money that was promised for it is ours."""
        used = run.used()
        work = _work(run.job, run.request, run.price, finish, used, run.answered(), event.id, run.text)
        answer = publication(event, "result", run.request.relays)
        finished = Finished(answer, run.cost(), metered(run.job, used, finish, run.by), _work_to_json(work))
        await self._shop.store.finish(run.job.id, finished, run.stamp)
        self.ended(run.job.id)
        await self._unbilled(run.job, run.lost)

    async def settle(self, job: Job, finished: Finished, msat: int) -> None:
        """settling → delivered: the wallet confirms `msat`. Raises ConflictError if it was done before."""
        shop = self._shop
        request = self._request(job)
        answers = shop.answers(request or Event.from_json(job.request))
        relays = finished.answer.relays
        stamp = next_second(shop.now(), job.stamp)
        made: list[Publication] = []
        maker = self._receipt_maker(answers, relays, _work_from_json(finished.work), stamp, made)
        posting = await shop.store.settle(job.id, msat, maker, shop.now())
        used = finished.used
        self._spending.add(used, posting.cost)
        self._outbox.send((finished.answer, *made[-1:]))
        tokens = used.input + used.cached + used.output + used.thoughts
        _tell(JobState.DELIVERED, job, tokens, posting.cost, used)

    async def give_up(
        self,
        job: Job,
        code: ErrorCode,
        text: str,
        *,
        to: JobState = JobState.FAILED,
        states: Collection[JobState] = HOLDING,
        run: Run | None = None,
    ) -> None:
        """Return all that stands behind a job, and say why. `run` is what its model has done for nothing. Raises
        ConflictError if it is in none of these states any more."""
        shop = self._shop
        request = run.request if run else self._request(job)
        said: Sequence[Publication] = ()
        stamp = next_second(shop.now(), run.stamp if run else job.stamp)
        answers = run.answers if run else shop.answers(request or Event.from_json(job.request))
        relays = request.relays if request else ()
        try:
            said = (publication(answers.error(code, text, stamp), "error", relays),)
        except EncryptError:  # nothing leaves in clear instead
            log.warning("an error cannot be encrypted and is not sent", extra={"job": job.id})
        finish: Finish = "cancelled" if to is JobState.CANCELLED else "error"
        usage = run.usage if run else None
        # Without the request the receipt tells of the payment alone.
        work = None
        if request is not None:
            work = _work(job, request, run.price if run else price_of(job), finish, usage)
        row = metered(job, usage, finish, run.by) if run and usage else None
        made: list[Publication] = []
        await shop.store.void(
            job.id,
            to=to,
            reason=code,
            used=row,
            publications=said,
            receipt=self._receipt_maker(answers, relays, work, stamp + 1, made),
            at=shop.now(),
            stamp=stamp + 1,
            states=states,
        )
        if row is not None:
            self._spending.add(row, 0)
        self._outbox.send((*said, *made[-1:]))
        log.info(to.value, extra={"job": job.id, "code": code, "msat": 0})
        self.ended(job.id)
        if run is not None:
            await (self._unbilled(job, run.lost) if row else self.lost(run))

    async def lost(self, run: Run) -> None:
        """An attempt is over, and what it used is nobody's but the operator's: its job is tried again, say."""
        spent = run.spent()
        await self._unbilled(run.job, [*run.lost, spent] if spent else run.lost)

    async def _unbilled(self, job: Job, used: Sequence[Metered]) -> None:
        for each in used:
            self._spending.add(each, 0)
        if used:
            try:
                await self._shop.store.unbilled(job.id, used, self._shop.now())
            except LedgerError as error:  # no money of a customer's, and no reason to stop the job
                log.error("what was used for nothing cannot be stored", extra={"job": job.id, "error": str(error)})

    def _request(self, job: Job) -> JobRequest | None:
        try:
            return self._shop.request_of(job)
        except InvalidRequest as error:  # encrypted to a key that we had, or read by an older version
            log.warning("a job cannot be read any more", extra={"job": job.id, "error": str(error)})
            return None

    def _receipt_maker(
        self, answers: Answers, relays: tuple[str, ...], work: Work | None, stamp: int, made: list[Publication]
    ) -> ReceiptMaker:
        shop = self._shop

        def make(link: Link) -> Publication:
            event = make_receipt(
                shop.keys, answers.customer, link, stamp, work=work, d=shop.announcement, scheme=answers.scheme
            )
            made.append(publication(event, "receipt", relays))
            return made[-1]

        return make


def _work(
    job: Job,
    request: JobRequest,
    price: Price,
    finish: Finish,
    usage: Usage | None,
    version: str = "",
    result: str | None = None,
    text: str = "",
) -> Work:
    return Work(
        job=job.id,
        kind=job.kind,
        model=job.model or "",
        version=version,
        input_sha256=input_sha256(request),
        finish=finish,
        result=result,
        output_sha256=sha256_of(text) if result else None,
        usage=usage,
        prices=prices_of(price),
    )


def _work_to_json(work: Work) -> str:
    return json.dumps(asdict(work), default=sorted)  # of all its values JSON lacks sets only


def _work_from_json(text: str) -> Work:
    fields = json.loads(text)
    if (usage := fields["usage"]) is not None:
        fields["usage"] = Usage(**{**usage, "estimated": frozenset(usage["estimated"])})
    return Work(**fields)


def _tell(to: JobState, job: Job, tokens: int, msat: int, used: Metered) -> None:
    said = {"job": job.id, "model": used.model, "tokens": tokens, "msat": msat, "finish": used.finish}
    log.info(to.value, extra=said)
