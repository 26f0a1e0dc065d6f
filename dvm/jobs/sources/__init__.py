"""Where inputs come from that do not stand in the request: addresses, events, and the results of other jobs."""

from dvm.jobs.sources.chain import Chain
from dvm.jobs.sources.events import Events
from dvm.jobs.sources.urls import Urls

__all__ = ["Chain", "Events", "Urls"]
