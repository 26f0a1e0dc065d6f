"""What the declarations say of their params is what is announced (nip90Params), for all kinds in one list."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dvm.announcing import announcement_of
from dvm.config import Identity
from dvm.jobs import KINDS, Service
from dvm.nip90 import Announcement, announcement_draft, parse_announcement
from dvm.nostr import Keys
from dvm.pricing import FREE


def read_back(*kinds: int, **models: tuple[str, ...]) -> Announcement:
    """The announcement of a shop that sells them, as a client reads it."""
    sold = {kind: Service(KINDS[kind], ("m",), {"m": FREE}) for kind in kinds}
    said = announcement_of(Identity(name="Shop"), sold)
    return parse_announcement(announcement_draft(said).sign(Keys.generate(), 1))


def test_what_every_kind_requires_is_announced_as_required() -> None:
    assert read_back(5002).params["language"].required
    assert not read_back(5002).params["model"].required


def test_what_one_of_several_kinds_requires_is_said_and_not_asked_of_the_others() -> None:
    language = read_back(5001, 5002).params["language"]
    assert not language.required
    assert "BCP 47" in language.description
    assert language.description.endswith("(required for kind 5002)")


def test_values_are_those_of_the_declaration() -> None:
    params = read_back(5000, 5050).params
    assert params["alignment"].values == ("raw", "segment", "word")
    assert params["model"].values == ("m",)
    assert params["max_tokens"].values == ()
    assert set(params) == {*KINDS[5000].params, *KINDS[5050].params}


def test_what_can_be_continued_says_so() -> None:
    assert "session" in read_back(5050).params
    assert "session" not in read_back(5000, 5001, 5002).params
    own = replace(KINDS[5001], converses=True)
    assert own.param("session").description == KINDS[5050].param("session").description
    with pytest.raises(ValueError, match="answers with text"):
        replace(KINDS[5100], converses=True)
