"""Deletions (NIP-09) of jobs that nobody has paid for yet: only the author of a job cancels it."""

from __future__ import annotations

import logging

from dvm.jobs.admission import first_refusal
from dvm.jobs.outbox import Outbox
from dvm.jobs.quotes import OpenQuotes
from dvm.jobs.shop import Shop, publication
from dvm.jobs.transitions import Deleted, Effect, step
from dvm.ledger import ConflictError, Job, JobState, Publication
from dvm.nip90 import InvalidRequest, next_second, parse_deletion
from dvm.nostr.encryption import EncryptError
from dvm.nostr.event import Event

log = logging.getLogger(__name__)

MAX_DELETIONS = 20  # of one kind 5 event


class Unpaid:
    """Ends received and quoted jobs whose authors delete them, and remembers deletions that come first."""

    def __init__(self, shop: Shop, outbox: Outbox, quotes: OpenQuotes) -> None:
        self._shop, self._outbox, self._quotes = shop, outbox, quotes

    async def delete(self, event: Event) -> None:
        """A verified kind 5. Never raises for what a customer wrote."""
        shop = self._shop
        admitted: bool | None = None
        for job_id in parse_deletion(event)[:MAX_DELETIONS]:
            job = await shop.store.job(job_id)
            if job is None:
                # Once an event: whatever it names takes no more places of others than one request does.
                if admitted is None:
                    admitted = first_refusal(shop.policies, event, self._quotes) is None
                if admitted:
                    await shop.store.cancel_before(job_id, event.pubkey, shop.now())
                    job = await shop.store.job(job_id)  # it may have come at this very moment
            while job is not None and job.customer == event.pubkey and not await self._cancel(job):
                job = await shop.store.job(job_id)

    async def _cancel(self, job: Job) -> bool:
        """False: it was quoted or paid at this very moment, and has to be looked at again."""
        following = step(job.state, Deleted())
        if Effect.CLOSE not in following.effects:
            return True
        stamp = next_second(self._shop.now(), job.stamp)
        said = self._said(job, stamp)
        try:
            await self._shop.store.close_unpaid(
                job.id,
                to=following.state,
                reason="cancelled",
                publications=said,
                at=self._shop.now(),
                stamp=stamp,
                states=(job.state,),
            )
        except ConflictError:
            return False
        self._outbox.send(said)
        if job.state is JobState.QUOTED:
            self._quotes.deleted(job.customer, job.expires_at or 0)
        log.info("cancelled before it was paid", extra={"job": job.id})
        return True

    def _said(self, job: Job, stamp: int) -> tuple[Publication, ...]:
        """Nothing to whom no answer can be encrypted, or whose request cannot be read."""
        try:
            request = self._shop.request_of(job)
            error = self._shop.answers(request).error("cancelled", "", stamp)
        except (InvalidRequest, EncryptError):
            return ()
        return (publication(error, "error", request.relays),)
