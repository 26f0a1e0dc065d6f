"""Who is taken on, from `[admission]` and `[limits]` to the policies that decide it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path

from dvm.config import Config
from dvm.jobs.admission import Policy, denied, standard_policies, strangers
from dvm.jobs.trust import WebOfTrust
from dvm.nostr.keys import InvalidKey, parse_pubkey
from dvm.nostr.pool import RelayPool
from dvm.problems import ConfigError

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0  # between two looks whether a key file has changed
MAX_PROBLEMS = 10  # lines of a key file that are told, of those that are wrong

_Seen = tuple[int, int, int, int]


class KeyList:
    """The keys of a list in `dvm.toml` and of the file beside it, which is read again when it has changed.

    A file that cannot be used leaves the keys as they were: whom an operator has denied does not come back, and no
    customer is turned away, because of a line that was mistyped. Raises ConfigError if it cannot be used at first.
    """

    def __init__(self, name: str, inline: Iterable[str], file: Path | None) -> None:
        self.name, self.file = name, file
        self._inline = frozenset(map(parse_pubkey, inline))
        # Before the file is read: a change in between is found by the next look.
        self._seen = None if file is None else _seen(file)
        self._in_file = _in_file(file) if file is not None else frozenset[str]()

    def __bool__(self) -> bool:
        """Whether there is such a list. A file without a key is a list of nobody, not no list."""
        return bool(self._inline) or self.file is not None

    def __contains__(self, pubkey: object) -> bool:
        return pubkey in self._inline or pubkey in self._in_file

    async def look(self) -> None:
        """Read the file again, if it has changed since it was last read."""
        if self.file is None:
            return
        seen = await asyncio.to_thread(_seen, self.file)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._in_file = await asyncio.to_thread(_in_file, self.file)
        except ConfigError as error:
            log.error(
                "a list of keys has changed and cannot be used, so the former one stays: correct the file",
                extra={"key": self.name, "problems": error.problems, "keys": len(self._in_file)},
            )
            return
        log.info("a list of keys was read again", extra={"key": self.name, "keys": len(self._in_file)})


class Lists:
    """`[admission]`'s two lists. Raises ConfigError for what the files hold, of both in one go."""

    def __init__(self, config: Config) -> None:
        admission = config.admission
        problems: list[str] = []
        made: list[KeyList] = []
        for name, inline, file in (
            ("admission.allow_file", admission.allow, admission.allow_file),
            ("admission.deny_file", admission.deny, admission.deny_file),
        ):
            try:
                made.append(KeyList(name, inline, file))
            except ConfigError as error:
                problems += [f"{name}: {problem}" for problem in error.problems]
        if problems:
            raise ConfigError(problems)
        self.allow, self.deny = made

    async def watch(self) -> None:
        """Keep both as their files are, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for each in (self.allow, self.deny):
                await each.look()


def build_trust(config: Config, pool: RelayPool) -> WebOfTrust | None:
    """The web of trust, not yet loaded; None if none is wanted."""
    admission = config.admission
    if admission.follows_of is None:
        return None
    return WebOfTrust(pool, parse_pubkey(admission.follows_of), admission.follows_depth)


def build_policies(config: Config, lists: Lists, trust: WebOfTrust | None) -> list[Policy]:
    """The policies, in the order in which they are asked."""
    admission, limits = config.admission, config.limits
    policies: list[Policy] = []
    if lists.deny:
        policies.append(denied(lists.deny))
    if lists.allow or admission.pow_bits or trust is not None:
        policies.append(strangers(lists.allow, pow_bits=admission.pow_bits, trust=trust))
    return policies + standard_policies(
        per_minute=limits.jobs_per_minute,
        quotes=limits.open_quotes,
        quotes_total=limits.open_quotes_total,
        per_minute_total=limits.jobs_per_minute_total,
    )


def _seen(file: Path) -> _Seen | None:
    """What is another after every change, however the file was changed: in place, or by another of its name. None:
    it cannot be looked at."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev


def _in_file(file: Path) -> frozenset[str]:
    """The keys in hex. Raises ConfigError."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError([f"{file}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{file}: is no text (UTF-8)"]) from None
    keys, wrong = set[str](), list[int]()
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            # Nothing but an npub: 64 hex digits might as well be a secret key that somebody has mixed up.
            if not text.startswith("npub1"):
                raise InvalidKey
            keys.add(parse_pubkey(text))
        except InvalidKey:
            wrong.append(number)
    if wrong:
        problems = [f"{file}: line {number}: must be a public key: npub1…" for number in wrong[:MAX_PROBLEMS]]
        if more := wrong[MAX_PROBLEMS:]:
            problems.append(f"{file}: and {len(more)} more lines like that")
        raise ConfigError(problems)
    return frozenset(keys)
