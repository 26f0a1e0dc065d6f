"""Where inputs come from that do not stand in the request: addresses, events, the results of other jobs, and what was
said before in the conversation that it continues."""

from dvm.jobs.sources.chain import Chain
from dvm.jobs.sources.conversation import Conversations
from dvm.jobs.sources.events import Events
from dvm.jobs.sources.urls import Urls

__all__ = ["Chain", "Conversations", "Events", "Urls"]
