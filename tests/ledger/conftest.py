from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dvm.ledger import SqliteStore
from tests.ledger.books import check_books, database


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """A store in a directory of its own, whose books must balance when the test ends."""
    store = await SqliteStore.open(tmp_path)
    yield store
    await store.close()
    check_books(database(tmp_path))
