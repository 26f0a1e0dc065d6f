"""Options that make a relay's patience short, so that tests need not wait."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dvm.nostr import Keys, PoolOptions, RelayOptions

QUICK = RelayOptions(min_backoff=0.01, max_backoff=0.05, retry_delay=0.02, connect_timeout=5.0, stable=0.5)
QUICK_POOL = PoolOptions(relay=QUICK, allow_private=True, query_grace=0.3, sweep_timeout=3.0)


@pytest.fixture
def keys() -> Keys:
    return Keys.generate()


@pytest.fixture
def quick() -> RelayOptions:
    return QUICK


@pytest.fixture
def quick_pool() -> PoolOptions:
    return replace(QUICK_POOL)
