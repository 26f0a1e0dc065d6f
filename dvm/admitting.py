"""Who is taken on, from `[admission]` and `[limits]` to the policies that decide it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dvm.config import Config
from dvm.jobs.admission import Policy, denied, standard_policies, strangers
from dvm.jobs.trust import WebOfTrust
from dvm.nostr.keys import InvalidKey, parse_pubkey
from dvm.nostr.pool import RelayPool
from dvm.problems import ConfigError


def build_trust(config: Config, pool: RelayPool) -> WebOfTrust | None:
    """The web of trust, not yet loaded; None if none is wanted."""
    admission = config.admission
    if admission.follows_of is None:
        return None
    return WebOfTrust(pool, parse_pubkey(admission.follows_of), admission.follows_depth)


def build_policies(config: Config, trust: WebOfTrust | None) -> list[Policy]:
    """The policies, in the order in which they are asked. Raises ConfigError for what the key files hold."""
    admission, limits = config.admission, config.limits
    policies: list[Policy] = []
    if deny := _keys(admission.deny, admission.deny_file):
        policies.append(denied(deny))
    allow = _keys(admission.allow, admission.allow_file)
    # An allow_file without a key is a list of nobody, not no list.
    if allow or admission.allow_file or admission.pow_bits or trust is not None:
        policies.append(strangers(allow, pow_bits=admission.pow_bits, trust=trust))
    return policies + standard_policies(
        per_minute=limits.jobs_per_minute,
        quotes=limits.open_quotes,
        quotes_total=limits.open_quotes_total,
        per_minute_total=limits.jobs_per_minute_total,
    )


def _keys(inline: Iterable[str], file: Path | None) -> frozenset[str]:
    """The public keys in hex."""
    return frozenset(map(parse_pubkey, inline)).union(_in_file(file) if file else ())


def _in_file(file: Path) -> set[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError([f"{file}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{file}: is no text (UTF-8)"]) from None
    keys, problems = set[str](), list[str]()
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
            problems.append(f"{file}: line {number}: must be a public key: npub1…")
    if problems:
        raise ConfigError(problems)
    return keys
