"""`dvm doctor --json`, run beside a test's own loop, and its findings by name."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from tests.commands.running import Ran, Runner


@dataclass(frozen=True)
class Examined:
    ran: Ran

    @property
    def code(self) -> int:
        return self.ran.code

    @property
    def failed(self) -> list[str]:
        """The names of the checks that failed, in order."""
        return [check["name"] for check in self.ran.json["checks"] if check["state"] == "failed"]

    def all(self, name: str, subject: str = "") -> list[dict[str, Any]]:
        """The findings of that name, about that subject."""
        return [c for c in self.ran.json["checks"] if c["name"] == name and subject in c["subject"]]

    def one(self, name: str, subject: str = "") -> dict[str, Any]:
        """The one finding of that name."""
        found = self.all(name, subject)
        assert len(found) == 1, self.ran.out
        assert (found[0]["state"] == "ok") == (not found[0]["advice"]), "advice for each trouble, and none without"
        return found[0]


async def doctor(dvm: Runner, *options: object) -> Examined:
    return Examined(await asyncio.to_thread(dvm, "doctor", "--json", *options))
