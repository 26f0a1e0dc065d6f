"""Keys and passwords: from environment variables, or from files that the configuration names.

They live in one object that never shows them, and `Secrets.strings()` tells the log what to black out.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from urllib.parse import parse_qs, urlsplit

import pynostr.key

from dvm.config import Config, ModelConfig
from dvm.nostr.keys import InvalidKey, Keys
from dvm.problems import ConfigError, Loc, line

NSEC = "DVM_NSEC"
# Which environment variable holds the secret of each type of wallet.
WALLET_SECRETS: Mapping[str, str] = MappingProxyType(
    {
        "nwc": "DVM_NWC_URI",
        "lnd": "DVM_LND_MACAROON",
        "cln": "DVM_CLN_RUNE",
        "lnbits": "DVM_LNBITS_KEY",
        "phoenixd": "DVM_PHOENIXD_PASSWORD",
    }
)
# Which environment variable holds each provider's API key, unless `api_key_env` names another.
API_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "gemini": "GEMINI_API_KEY",
        "google-generativeai": "GEMINI_API_KEY",
        "openai": "OPENAI_API_KEY",
    }
)
# A macaroon is a few hundred bytes; a larger file is not a secret but a mistake.
MAX_SECRET_BYTES = 16_384
_MACAROON = b"\x02"  # the version that a binary macaroon begins with; no text does
# Shorter strings would black out ordinary words of the log.
_LEAST_TO_HIDE = 8


@dataclass(frozen=True)
class Secrets:
    """What the daemon may use and never say. `api_keys` goes by the model's name in dvm.toml."""

    keys: Keys
    wallet: str | None = field(repr=False)
    api_keys: Mapping[str, str] = field(repr=False)
    warnings: tuple[str, ...] = ()

    def strings(self) -> list[str]:
        """Every form in which one of the secrets could turn up in a text."""
        nsec = self.keys.nsec()
        found = {nsec, str(pynostr.key.PrivateKey.from_nsec(nsec).hex()), *self.api_keys.values()}
        if self.wallet is not None:
            found.add(self.wallet)
            found.update(_query_secrets(self.wallet))
        return sorted(text for text in found if len(text) >= _LEAST_TO_HIDE)


def load_secrets(config: Config, environ: Mapping[str, str], *, file: str = "dvm.toml") -> Secrets:
    """The secrets that this configuration needs. An environment variable goes before a file.

    Raises ConfigError with all that is missing or malformed, and what to set; `file` is named in it.
    """
    search = _Search(environ, file)
    keys = _find_keys(search, config)

    wallet = None
    if (variable := WALLET_SECRETS.get(config.wallet.type)) is not None:
        needed = f"no access to the {config.wallet.type} wallet"
        found = search.find(variable, config.wallet.secret_file, ("wallet", "secret_file"), needed)
        if found is not None and config.wallet.type == "nwc" and not _is_nwc_uri(found.secret):
            expected = "nostr+walletconnect://…?relay=…&secret=…"
            search.problems.append(f"{found.origin}: not a wallet connection: {expected} expected")
        wallet = found.secret if found is not None else None

    api_keys = {}
    used = {name for service in config.service for name in service.models}
    for name, model in config.models.items():
        if name not in used or (default := API_KEYS.get(model.provider)) is None:
            continue
        source = model.api_key_env or default
        environment = {} if model.api_key_file else environ  # named for this one model, the file is meant
        missing = f"no API key for {model.provider}" if _needs_key(model) else None
        found = search.find(source, model.api_key_file, ("models", name, "api_key_file"), missing, environment)
        if found is not None:
            api_keys[name] = found.secret

    if search.problems or keys is None:
        raise ConfigError(search.problems)
    return Secrets(keys, wallet, MappingProxyType(api_keys), tuple(search.warnings))


def load_keys(config: Config, environ: Mapping[str, str], *, file: str = "dvm.toml") -> Keys:
    """The service's key alone, for what needs neither wallet nor models. Raises ConfigError."""
    search = _Search(environ, file)
    keys = _find_keys(search, config)
    if keys is None:
        raise ConfigError(search.problems)
    return keys


def _find_keys(search: _Search, config: Config) -> Keys | None:
    nsec_file = config.identity.nsec_file
    found = search.find(NSEC, nsec_file, ("identity", "nsec_file"), "the service has no key yet")
    if found is None:
        return None
    try:
        return Keys.parse(found.secret)
    except InvalidKey as error:
        search.problems.append(f"{found.origin}: {error}")
        return None


@dataclass(frozen=True, slots=True)
class _Found:
    secret: str = field(repr=False)
    origin: str


class _Search:
    """Looks for one secret after another and collects what is wrong, so that all of it is told at once."""

    def __init__(self, environ: Mapping[str, str], file: str) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self._environ = environ
        self._file = file

    def find(
        self,
        variable: str,
        path: Path | None,
        loc: Loc,
        needed: str | None,
        environ: Mapping[str, str] | None = None,
    ) -> _Found | None:
        """From the variable, else from the file; that it is missing is a problem only if `needed` says why."""
        environ = self._environ if environ is None else environ
        origin = variable if is_set(environ, variable) else line(self._file, loc, "").rstrip(": ")
        try:
            secret = from_environment(environ, variable)
            if secret is None and path is not None:
                secret = from_file(path)
                if _readable_by_others(path):
                    self.warnings.append(f"{origin}: others can read this file: chmod 600")
        except ValueError as error:
            self.problems.append(f"{origin}: {error}{_remedy(variable, path, environ)}")
            return None
        if secret is not None:
            return _Found(secret, origin)
        if needed is not None:
            self.problems.append(f"{origin}: {needed}: set {variable} in the environment, or name a file here")
        return None


def from_environment(environ: Mapping[str, str], variable: str) -> str | None:
    """The secret in a variable, None if it is unset or empty. Raises ValueError, which does not repeat it."""
    if not is_set(environ, variable):
        return None
    secret = environ[variable].strip()
    if not secret.isprintable() or " " in secret:
        raise ValueError("has a space or a line break within the secret")
    return secret


def is_set(environ: Mapping[str, str], variable: str) -> bool:
    """Whether the variable has anything in it; an empty one counts as unset."""
    return bool(environ.get(variable, "").strip())


def from_file(path: Path) -> str:
    """The secret in a file, in hex if it is one of lnd's macaroons, which are binary.

    Raises ValueError, which repeats neither the secret nor the path.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("is not a file")
        with path.open("rb") as file:
            raw = file.read(MAX_SECRET_BYTES + 1)
    except FileNotFoundError:
        raise ValueError("there is no such file") from None
    except PermissionError:
        raise ValueError("the file may not be read by this user") from None
    except OSError as error:
        raise ValueError(f"the file cannot be read: {error.strerror}") from None
    if len(raw) > MAX_SECRET_BYTES:
        raise ValueError(f"the file is larger than {MAX_SECRET_BYTES} bytes: not a secret")
    if raw[:1] == _MACAROON:
        return raw.hex()
    try:
        secret = raw.decode().strip()
    except UnicodeDecodeError:
        raise ValueError("the file is not text") from None
    if not secret:
        raise ValueError("the file is empty")
    if not secret.isprintable() or " " in secret:
        raise ValueError("the file must hold the secret and nothing else")
    return secret


def _remedy(variable: str, path: Path | None, environ: Mapping[str, str]) -> str:
    """What to do about a key file that is not there: the first thing that a new operator meets."""
    if variable != NSEC or is_set(environ, NSEC) or path is None or path.exists():
        return ""
    return f"; `dvm init` makes a key and its file, or set {NSEC}"


def _needs_key(model: ModelConfig) -> bool:
    # A server of one's own that speaks OpenAI's protocol often has no key at all.
    return model.provider != "openai" or model.base_url is None


def _readable_by_others(path: Path) -> bool:
    return os.name == "posix" and bool(path.stat().st_mode & 0o077)


def _is_nwc_uri(text: str) -> bool:
    # Only the shape, so that a mix-up of variables shows here; the wallet parses it in earnest.
    return text.startswith(("nostr+walletconnect:", "nostrwalletconnect:")) and "secret=" in text


def _query_secrets(uri: str) -> list[str]:
    try:
        return parse_qs(urlsplit(uri).query).get("secret", [])
    except ValueError:
        return []
