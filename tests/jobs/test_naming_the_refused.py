"""Of a job that was refused only the id is kept: whoever names it is answered all the same."""

from __future__ import annotations

import time

from dvm.ledger import JobState
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys
from tests.jobs.test_chaining import BELOW, after, answering, told
from tests.standins.customer import Customer
from tests.standins.workshop import Workshop


async def refused(shop: Workshop, buyer: Customer, *others: str) -> Event:
    """A job that was offered to us, and to other providers."""
    tags = [["i", "x", "text"], ["bid", "1"], *(["p", each] for each in (shop.keys.pubkey, *others))]
    job = buyer.keys.sign(5050, tags, "", int(time.time()))
    await buyer.send(job)
    assert (await buyer.feedback(job.id, "error")).text.startswith("bid-too-low: ")
    return job


async def test_whoever_names_it_hears_that_it_has_no_result(shop: Workshop, buyer: Customer) -> None:
    job = await buyer.send(after(buyer.keys, (await refused(shop, buyer)).id, shop))
    assert (await buyer.feedback(job, "error")).text.startswith("input-failed: ")
    assert await shop.state(job) is JobState.REJECTED


async def test_another_may_have_taken_it_whose_result_is_worked_on(shop: Workshop, buyer: Customer) -> None:
    other = Keys.generate()
    prior = await refused(shop, buyer, other.pubkey)
    await buyer.send(answering(other, prior, "elsewhere"))
    job = await buyer.send(after(buyer.keys, prior.id, shop))
    await shop.pay(buyer, job)
    await buyer.result(job)
    assert told(shop) == [("elsewhere", BELOW)]
