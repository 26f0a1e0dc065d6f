"""What works, what does not, what to do: everything that the daemon will need, tried out beforehand.

Safe beside a running daemon: nothing that it holds is opened, nothing is paid, and what is published is
ephemeral or deleted again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

from dvm.admitting import Lists
from dvm.building import build_models, build_zaps, offered, unable
from dvm.config import Config, Relays, load_config, load_relays, warnings
from dvm.datadir import DataDir
from dvm.doctor import address, files, here, models, relays, wallet
from dvm.doctor.announced import Announced
from dvm.doctor.clock import clock
from dvm.doctor.findings import Check, Finding, State, run
from dvm.nostr.addresses import AddressRefused, check_relay_url
from dvm.nostr.keys import Keys
from dvm.problems import ConfigError, redact
from dvm.secrets import Secrets, load_secrets

__all__ = ["Finding", "Report", "State", "examine"]

MEND = "Correct it; docs/configuration.md describes every key."
SET = "Set the variable, or put the secret into the file: docs/configuration.md, Secrets."


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, and the exit code: 2 where the configuration is wrong, 1 where anything else failed."""

    findings: tuple[Finding, ...]
    exit_code: int


async def examine(config: Path, relay_file: Path, data: Path, environ: Mapping[str, str]) -> Report:
    """Try everything, whatever fails. What needs a file that is wrong is left out. Raises nothing."""
    loaded = _load(config, relay_file, environ)
    findings = list(loaded.findings)
    place = DataDir(data)
    running = place.running()
    keys = loaded.secrets.keys if loaded.secrets else Keys.generate()
    told: list[relays.Told] = []
    checks: list[Check] = []
    uses = loaded.relays.relay if loaded.relays else ()
    for use in uses:
        checks.append(Check("relay", use.url, partial(relays.connection, use, keys)))
        checks.append(Check("relay limits", use.url, partial(relays.information, use, told)))
    if loaded.config and loaded.secrets:
        settings, secrets = loaded.config, loaded.secrets
        checks.append(
            Check("wallet", settings.wallet.type, partial(wallet.wallet, settings, secrets, data, daemon=running))
        )
        if settings.gateway and not running:
            listen = settings.gateway.listen
            checks.append(Check("gateway", listen, partial(address.listening, listen)))
        if (zaps := build_zaps(settings)) is not None:
            private = settings.limits.allow_private_addresses
            served = partial(address.served, zaps, keys.pubkey, daemon=running, allow_private=private)
            checks.append(Check("lightning address", zaps.lud16, served))
        for name, used in build_models(settings, secrets).items():
            checks.append(Check("model", name, partial(models.model, name, settings.models[name], used)))
        checks += [
            Check("files", where, partial(files.server, where, settings, keys)) for where in settings.files.servers
        ]
        if loaded.relays:
            announced = Announced(settings, loaded.relays, keys, daemon=running)
            checks.append(Check("announcement", "", announced.check))
    checks.append(Check("database", str(data), partial(here.database, data)))
    found = await run(checks)
    findings += found
    if uses:
        findings.append(clock(told))
    findings += here.directory(place)
    findings.append(here.daemon(place, running=running))
    spoken = _Discreet(loaded.secrets)
    code = 2 if loaded.wrong else 1 if any(finding.state == "failed" for finding in findings) else 0
    return Report(tuple(spoken.clean(finding) for finding in findings), code)


@dataclass(slots=True)
class _Loaded:
    findings: list[Finding]
    config: Config | None = None
    relays: Relays | None = None
    secrets: Secrets | None = None
    wrong: bool = False

    def problem(self, name: str, subject: str, error: ConfigError, advice: str) -> None:
        self.wrong = True
        seen = (problem.removeprefix(f"{subject}: ") for problem in error.problems)  # the finding names the file itself
        self.findings += [Finding(name, subject, "failed", text, advice) for text in seen]

    def warn(self, name: str, subject: str, text: str) -> None:
        advice = "Change it, unless it is what you mean."
        self.findings.append(Finding(name, subject, "warning", text, advice))


def _load(config: Path, relay_file: Path, environ: Mapping[str, str]) -> _Loaded:
    """The two files and the secrets; what is wrong with one does not keep the other from being read."""
    loaded = _Loaded([])
    try:
        loaded.config = load_config(config, offered())
    except ConfigError as error:
        loaded.problem("configuration", str(config), error, MEND)
    try:
        loaded.relays = load_relays(relay_file)
        _check_addresses(relay_file, loaded.relays)
    except ConfigError as error:
        loaded.relays = None
        loaded.problem("configuration", str(relay_file), error, MEND)
    if loaded.config is None:
        return loaded
    usable = True
    try:
        Lists(loaded.config)
    except ConfigError as error:
        usable = False
        loaded.problem("configuration", str(config), error, MEND)
    found = [*warnings(loaded.config), *unable(loaded.config)]
    for text in found:
        loaded.warn("configuration", str(config), text)
    if usable and not found:
        loaded.findings.append(Finding("configuration", str(config), "ok", "it can be used"))
    try:
        secrets = load_secrets(loaded.config, environ, file=str(config))
        for used in build_models(loaded.config, secrets).values():
            del used  # built for what it says of its settings; nothing is started
    except ConfigError as error:
        loaded.problem("secrets", str(config), error, SET)
        return loaded
    loaded.secrets = secrets
    for text in secrets.warnings:
        loaded.warn("secrets", str(config), text)
    if not secrets.warnings:
        loaded.findings.append(Finding("secrets", str(config), "ok", f"all are there; the key is {secrets.keys.npub}"))
    return loaded


def _check_addresses(relay_file: Path, found: Relays) -> None:
    """Raises ConfigError where an address passes for a URL, and is none that can be connected to."""
    problems = []
    for relay in found.relay:
        try:
            check_relay_url(relay.url)
        except AddressRefused as error:
            problems.append(f"{relay_file}: {relay.url}: {error}")
    if problems:
        raise ConfigError(problems)


class _Discreet:
    """Takes secrets out of what is shown, wherever a library or a stranger's answer may have repeated them."""

    def __init__(self, secrets: Secrets | None) -> None:
        strings = secrets.strings() if secrets else []
        spellings = {spelling for text in strings for spelling in (text, quote(text, safe=""))}
        self._strings = sorted(spellings, key=len, reverse=True)

    def clean(self, finding: Finding) -> Finding:
        return Finding(
            finding.name,
            "".join(self._text(finding.subject)),
            finding.state,
            "".join(self._text(finding.seen)),
            "".join(self._text(finding.advice)),
        )

    def _text(self, text: str) -> Iterator[str]:
        for secret in self._strings:
            text = text.replace(secret, "[secret]")
        # Strangers' words reach a terminal: no control character may act there.
        yield from (c if c.isprintable() else " " for c in redact(text))
