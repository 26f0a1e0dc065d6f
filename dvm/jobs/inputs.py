"""The inputs of a job, as the model gets them: what stands in the request, and what it names elsewhere."""

from __future__ import annotations

from dvm.jobs.kinds import Gathered, Kind, Part
from dvm.nip90 import JobRequest


class Inputs:
    """Finds what a request names. Nothing of it is trusted, and nothing is kept."""

    async def gather(self, request: JobRequest, kind: Kind) -> Gathered:
        """All inputs, in the order of the request. Raises InvalidRequest."""
        kind.check(request)
        return Gathered(
            tuple(
                Part(each.data, each.type, each.marker)
                for each in request.inputs
                if each.type == "text" and each.data.strip()
            )
        )
