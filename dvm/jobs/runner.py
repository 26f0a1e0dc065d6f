"""Running what is paid for: claim, run, post or void, a bounded number at once."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import replace

from dvm.jobs.admission import ErrorCode, RefusedError
from dvm.jobs.choosing import in_order
from dvm.jobs.endings import Endings
from dvm.jobs.files import Undeliverable
from dvm.jobs.inputs import MAY_PASS
from dvm.jobs.kinds import Ask
from dvm.jobs.kinds.declaration import WrongAnswer
from dvm.jobs.outbox import Outbox
from dvm.jobs.payments.promises import Promises
from dvm.jobs.run import Run, price_of, sane
from dvm.jobs.shop import Shop
from dvm.jobs.transitions import (
    Answered,
    Broke,
    Deleted,
    Deserted,
    Effect,
    Restarted,
    ShutDown,
    Step,
    Stopped,
    UsedUp,
    step,
)
from dvm.jobs.watching.trouble import ModelTrouble
from dvm.jobs.watching.wrong_answers import WrongAnswers
from dvm.ledger import ConflictError, Job, JobState, LedgerError
from dvm.ledger.base import HOLDING
from dvm.models import ModelError
from dvm.nip90 import AnswerTooLarge, InvalidRequest
from dvm.nostr.encryption import EncryptError

log = logging.getLogger(__name__)

MAX_PAUSE = 60.0  # seconds between two attempts, whatever the model asks for

# What customers read of a model's failure; the operator's log has the rest.
_SAID: dict[str, tuple[ErrorCode, str]] = {
    "blocked": ("blocked", "the model refused to answer this"),
    "bad_request": ("bad-request", "the model does not take this request"),
    "empty": ("no-answer", "the model gave no answer within the tokens that it was allowed"),
}
_WRONG: tuple[ErrorCode, str] = ("wrong-form", "the model's answer has another form than was asked for")
_UNAVAILABLE: tuple[ErrorCode, str] = ("unavailable", "the model could not be used")
_LOST: tuple[ErrorCode, str] = ("payment-lost", "the payment was withdrawn before the answer was there")


class Runner:
    """Runs jobs whose hold is open; every run ends in exactly one of posted, voided, or given back."""

    def __init__(self, shop: Shop, outbox: Outbox, endings: Endings, promises: Promises, wrong: WrongAnswers) -> None:
        self._shop = shop
        self._wrong = wrong
        self._outbox = outbox
        self._endings = endings
        self._promises = promises
        # So many jobs of each model are in hand, and what they bring in memory, also while they wait for its own place.
        # How many of all are asked of models at once is bounded by the router.
        self._lanes: dict[str, asyncio.Semaphore] = {}
        self._runs: dict[str, Run] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._deleted: set[str] = set()  # of those with a task, by their authors, while no model ran
        self._closing = False
        self._troubles = {
            name: ModelTrouble(
                log,
                name,
                "the model fails; jobs are tried again, and then given back",
                "the model cannot be used, so jobs are given back: see `dvm doctor`",
                "the model answers again",
            )
            for name in shop.models
        }
        shop.router.told = self._told

    def start(self, job_id: str) -> None:
        """Run a paid job as soon as there is a place."""
        if not self._closing and job_id not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._until_it_ends(job_id))
            self._tasks[job_id] = task
            task.add_done_callback(lambda _: self._ended(job_id))

    def _ended(self, job_id: str) -> None:
        self._tasks.pop(job_id, None)
        self._deleted.discard(job_id)

    async def cancel(self, job_id: str, author: str) -> None:
        """The author of a job deleted it: stop the model, or return the hold of one that has not begun."""
        if job_id not in self._runs:
            job = await self._shop.store.job(job_id)
            if job is None or job.customer != author or job.state not in HOLDING:
                return
            if Effect.VOID in step(job.state, Deleted()).effects:
                try:
                    # Not while it runs: it would go on, and tell its customer for nothing what it finds.
                    states = HOLDING - {JobState.RUNNING}
                    await self._endings.give_up(job, "cancelled", "", to=JobState.CANCELLED, states=states)
                except ConflictError:
                    log.debug("a job was claimed while it was cancelled", extra={"job": job_id})
                else:
                    return
            if job_id in self._tasks:  # it is being claimed, or given back, at this very moment
                self._deleted.add(job_id)
        run = self._runs.get(job_id)
        if run is not None and run.job.customer == author and Effect.STOP in step(JobState.RUNNING, Deleted()).effects:
            run.stop("cancelled")

    def desert(self, job_id: str) -> None:
        """The promise that pays for a job is lost: stop the model, if it runs."""
        if (run := self._runs.get(job_id)) is not None:
            run.stop("deserted")

    async def keep_leases(self) -> None:
        """Renew the lease of everything that runs (money.md, case 2); until cancelled."""
        seconds = self._shop.settings.lease_seconds
        while True:
            await asyncio.sleep(seconds / 3)
            if self._runs:
                try:
                    await self._shop.store.renew(list(self._runs), self._shop.now() + seconds)
                except LedgerError as error:
                    log.error("leases cannot be renewed", extra={"error": str(error)})

    async def reclaim(self) -> None:
        """Take up what lies there although nobody works on it, since the store failed for a while; until cancelled."""
        while True:
            await asyncio.sleep(self._shop.settings.lease_seconds)
            try:
                lying = await self._shop.store.jobs((JobState.PAID, JobState.RUNNING))
            except LedgerError as error:
                log.error("the jobs cannot be read", extra={"error": str(error)})
                continue
            now = self._shop.now()
            for job in lying:
                if job.id not in self._tasks and (job.lease_until or 0) <= now:
                    try:
                        with suppress(ConflictError):
                            await self.resume(job)
                    except Exception:
                        log.exception("a job cannot be taken up", extra={"job": job.id})

    async def resume(self, job: Job) -> None:
        """Go on with a job that the rows show as paid or running, and on which nobody works."""
        following = step(job.state, Restarted(attempts_left=job.attempts < self._shop.settings.attempts))
        if Effect.VOID in following.effects:
            await self._endings.give_up(job, "interrupted", "the work was interrupted too often")
        if Effect.RELEASE in following.effects:
            await self._shop.store.release(job.id, attempted=True)
        if Effect.RUN in following.effects:
            self.start(job.id)

    async def close(self) -> None:
        """Let what runs finish, `shutdown_seconds` at most; give the rest back for the next start."""
        self._closing = True
        for job_id, task in list(self._tasks.items()):
            if job_id not in self._runs:  # waits for a place: it is paid for, and stays so in the rows
                task.cancel()
        if self._tasks:
            for run in self._runs.values():
                if not run.by:  # so does this one
                    run.stop("shutdown")
            await asyncio.wait(self._tasks.values(), timeout=self._shop.settings.shutdown_seconds)
        for run in list(self._runs.values()):
            run.stop("shutdown")
        if self._tasks:
            _, left = await asyncio.wait(self._tasks.values(), timeout=self._shop.settings.publish_seconds)
            if left:  # a model that does not let itself be stopped
                log.error("some jobs cannot be stopped; the next start goes on with them", extra={"jobs": len(left)})

    async def _until_it_ends(self, job_id: str) -> None:
        try:
            pause: float | None = 0.0
            while pause is not None and not self._closing:
                await asyncio.sleep(pause)
                async with await self._lane(job_id):
                    pause = await self._attempt(job_id)
        except ConflictError as error:
            log.info("a job has moved on", extra={"job": job_id, "error": str(error)})
        except LedgerError as error:  # the rows are as they were: `reclaim` goes on from there
            log.error("a job could not be stored; it is tried again", extra={"job": job_id, "error": str(error)})
        except Exception:
            log.exception("a job met an unexpected error; it is tried again", extra={"job": job_id})

    async def _lane(self, job_id: str) -> AbstractAsyncContextManager[None]:
        """Where a job waits for its turn: with those whose price is of the same model."""
        limit = self._shop.settings.concurrency
        if not limit:
            return nullcontext()
        model = ""
        if len(self._shop.models) > 1 and (job := await self._shop.store.job(job_id)) is not None:
            model = job.model or ""
        return self._lanes.setdefault(model, asyncio.Semaphore(limit))

    async def _attempt(self, job_id: str) -> float | None:
        """One attempt. The seconds to wait before the next; None when there is none."""
        shop = self._shop
        now = shop.now()
        job = await shop.store.claim(job_id, now + shop.settings.lease_seconds, now)
        if job_id in self._deleted:
            await self._endings.give_up(job, "cancelled", "", to=JobState.CANCELLED)
            return None
        try:
            run = await self._run_of(job)
            if job_id in self._deleted:  # while it was gathered: no model is asked
                await self._endings.give_up(job, "cancelled", "", to=JobState.CANCELLED)
                return None
        except InvalidRequest as error:
            return await self._not_gathered(job, error)
        except RefusedError as error:
            await self._endings.give_up(job, error.refusal.code, error.refusal.text)
            return None
        run.task = asyncio.current_task()
        self._runs[job_id] = run
        # An answer that is there at once needs no word that it is on its way.
        timer = asyncio.get_running_loop().call_later(shop.settings.processing_seconds, self._say_processing, run)
        try:
            return await self._run(run)
        except Exception:  # an operator's own kind has a mistake, say, or the store fails: it was used all the same
            await self._endings.lost(run)
            raise
        finally:
            timer.cancel()
            del self._runs[job_id]

    async def _run(self, run: Run) -> float | None:
        settings = self._shop.settings
        failure: ModelError | None = None
        try:
            await run.stream(settings.job_seconds or None, settings.partial_seconds, self._say_partial)
        except ModelError as error:
            if error.usage is not None and sane(error.usage):
                run.usage = error.usage
            failure = error
        except TimeoutError:
            failure = ModelError("stalled", f"no answer within {settings.job_seconds:g} s")
            self._shop.router.failed(run.by, failure)
        except asyncio.CancelledError:
            if not run.stopping:
                raise
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
            await self._stopped(run)
            return None
        run.error = run.error or failure
        run.task = None  # from here on the rows are written, and nobody stops that any more
        if failure is not None:
            return await self._broken(run, failure)
        if run.fruitless:
            return await self._broken(run, ModelError("empty", "finished without a word"), False)
        try:
            if run.makes == "text":
                run.check()
            else:
                run.become(await self._shop.files.deliver(run, self._shop.services[run.job.kind].kind))
            await (self._deliver(run) if run.text else self._used_up(run))
        except WrongAnswer as error:
            log.info("the answer has another form than was asked for", extra={"job": run.job.id, "error": str(error)})
            self._wrong.add(run.request)
            await self._void(run, step(JobState.RUNNING, Broke(again=False)), *_WRONG)
        except (EncryptError, AnswerTooLarge, Undeliverable) as error:
            log.warning("an answer cannot be sent", extra={"job": run.job.id, "error": str(error)})
            self._wrong.add(run.request)
            await self._void(run, step(JobState.RUNNING, Broke(again=False)), "undeliverable", str(error))
        return None

    # How a run ends

    async def _deliver(self, run: Run) -> None:
        stamp = run.stamped(self._shop.now())
        result = run.answers.result(run.text, stamp, msat=run.job.quote_msat or None)
        following = step(JobState.RUNNING, Answered(promised=run.promised))
        if Effect.FINISH in following.effects:
            await self._endings.finish(run, result, run.finish or "stop")
        else:
            await self._endings.bill(run, following.state, result, "result", run.finish or "stop")

    async def _used_up(self, run: Run) -> None:
        """All tokens that the customer allowed went into thoughts. They are billed: who sets a limit that
        no answer fits into would otherwise let the provider think for nothing, again and again."""
        following = step(JobState.RUNNING, UsedUp(promised=run.promised))
        if Effect.VOID in following.effects:  # what was promised goes back
            self._wrong.add(run.request)
            await self._void(run, following, *_SAID["empty"])
            return
        said = run.answers.error(*_SAID["empty"], run.stamped(self._shop.now()))
        await self._endings.bill(run, following.state, said, "error", "length")

    async def _stopped(self, run: Run) -> None:
        """The customer cancelled, the promise of payment was lost, or we shut down."""
        if run.stopping == "shutdown":
            if Effect.RELEASE in step(JobState.RUNNING, ShutDown()).effects:
                await self._shop.store.release(run.job.id, attempted=False, stamp=run.stamp)
                await self._endings.lost(run)
            return
        if run.stopping == "deserted":
            await self._void(run, step(JobState.RUNNING, Deserted()), *_LOST)
            return
        following = step(JobState.RUNNING, Stopped(promised=run.promised, begun=run.begun))
        if Effect.VOID in following.effects:
            await self._void(run, following, "cancelled", "")
            return
        said = run.answers.error("cancelled", "", run.stamped(self._shop.now()))
        await self._endings.bill(run, following.state, said, "error", "cancelled")

    async def _broken(self, run: Run, error: ModelError, may_pass: bool = True) -> float | None:
        job, settings = run.job, self._shop.settings
        again = may_pass and error.passing and job.attempts < settings.attempts
        following = step(JobState.RUNNING, Broke(again=again))
        model = run.by or job.model
        said = {"job": job.id, "model": model, "attempt": job.attempts, "again": again, "error": str(error)}
        log.info("the model failed", extra=said)
        if Effect.RELEASE in following.effects:
            await self._endings.lost(run)
            # Last: until the row says that it waits again, a deletion is told to this run.
            await self._shop.store.release(job.id, attempted=True, stamp=run.stamp)
            if run.stopping == "cancelled":  # meanwhile
                released = replace(job, stamp=run.stamp)
                await self._endings.give_up(released, "cancelled", "", to=step(JobState.PAID, Deleted()).state)
                return None
            pause = error.retry_after or settings.retry_seconds * 2 ** (job.attempts - 1)
            return min(pause, MAX_PAUSE)
        if error.code == "empty" or (error.code == "blocked" and run.usage is not None):  # it was read, and worked on
            self._wrong.add(run.request)
        await self._void(run, following, *_SAID.get(error.code, _UNAVAILABLE))
        return None

    async def _not_gathered(self, job: Job, error: InvalidRequest) -> float | None:
        """What it names elsewhere has changed, say, or is not to be had at the moment: that may pass."""
        settings = self._shop.settings
        again = error.code in MAY_PASS and job.attempts < settings.attempts
        following = step(JobState.RUNNING, Broke(again=again))
        said = {"job": job.id, "attempt": job.attempts, "again": again, "error": str(error)}
        log.warning("what a paid job names cannot be had", extra=said)
        if Effect.RELEASE in following.effects:
            await self._shop.store.release(job.id, attempted=True, stamp=job.stamp)
            pause = 0.0 if job.id in self._deleted else settings.retry_seconds * 2 ** (job.attempts - 1)
            return min(pause, MAX_PAUSE)
        await self._endings.give_up(job, error.code, error.text, to=following.state)
        return None

    async def _void(self, run: Run, following: Step, code: ErrorCode, text: str) -> None:
        await self._endings.give_up(run.job, code, text, to=following.state, run=run)

    # Pieces

    def _told(self, name: str, error: ModelError | None) -> None:
        if error is None:
            self._troubles[name].fine()
        else:
            self._troubles[name].failing(error)

    async def _run_of(self, job: Job) -> Run:
        shop = self._shop
        request = shop.request_of(job)
        self._wrong.check(request)
        service = shop.services.get(job.kind)
        quoted = job.model or (service.models[0] if service else "")
        if service is None or quoted not in service.models:
            said = {"job": job.id, "kind": job.kind, "model": quoted}
            log.error("a paid job is given back: dvm.toml does not sell its kind by its model any more", extra=said)
            raise RefusedError(*_UNAVAILABLE)
        gathered = await shop.inputs.gather(request, service.kind)
        ask = service.read(request, gathered, quoted)
        # The one whose price was quoted goes first, and the price stays whoever answers (money.md, rule 10).
        names = in_order(shop.router, service, request, ask, quoted)
        promised = self._promises.pays(job.id)

        def asks(name: str) -> Ask:  # the system instruction may be another
            return ask if name == quoted else service.read(request, gathered, name)

        answers = shop.answers(request)
        return Run(job, request, shop.router, names, asks, price_of(job), answers, job.stamp, promised=promised)

    def _say_processing(self, run: Run) -> None:
        if run.task is not None:
            with suppress(EncryptError):
                event = run.answers.processing("", run.stamped(self._shop.now()))
                self._outbox.send_unstored(event, run.request.relays)

    def _say_partial(self, run: Run) -> None:
        if run.promised or run.whole:  # who has read the answer could cancel, and have the money back
            return
        left = max(run.job.quote_msat - run.cost(), 0)
        used = run.used()
        tokens = max(run.job.max_output - used.output - used.thoughts, 0)
        remaining = ["remaining", str(left), str(tokens)]
        try:
            event = run.answers.partial(run.text, run.stamped(self._shop.now()), [remaining])
        except (AnswerTooLarge, EncryptError):  # the result will tell
            return
        self._outbox.send_unstored(event, run.request.relays)
