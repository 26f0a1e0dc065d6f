"""A kind 5050 echo job on ezdvm, free, as its readme sets one up: `python echo_ezdvm.py RELAY`."""

from __future__ import annotations

import sys
from typing import Any

from ezdvm import EZDVM


class Echo(EZDVM):
    """Answers with its input."""

    def __init__(self) -> None:
        super().__init__(kinds=[5050], ephemeral=True)

    async def do_work(self, event: Any) -> str:
        tags = [tag.as_vec() for tag in event.tags().to_vec()]
        return str(next(tag[1] for tag in tags if tag[0] == "i"))


def main(relay: str) -> None:
    dvm = Echo()
    dvm.add_relay(relay)
    dvm.start()


main(sys.argv[1])
