"""Random combinations of features, interrupted anywhere: resumed runs are bit-identical to uninterrupted ones.

These tests use a few dozen seeds. For thousands, run ``python tests/support/combinations.py --seeds 0:3000``.
"""

import json

import pytest
from combinations import CHANGES, FEATURES, check, draw, smallest

SEEDS = range(24)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_combination_ends_as_if_it_had_not_been_cut(seed: int) -> None:
    verdict = check(draw(seed))
    if verdict.failed:
        least = json.dumps(smallest(draw(seed), verdict.kind))
        lines = "\n".join(verdict.lines[:20])
        pytest.fail(f"the smallest that fails so: python tests/support/combinations.py --run '{least}'\n{lines}")


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_on_resume_does_what_the_docs_say(change: str) -> None:
    verdict = check({"change": change, "cuts": [["stop", 6, "last"]]})
    assert verdict.kind == "same", verdict.lines


def test_the_seeds_draw_every_choice() -> None:
    drawn = [draw(seed) for seed in range(2000)]
    for name, options in FEATURES.items():
        assert {c.get(name, options[0]) for c in drawn} == set(options), name
    assert {c.get("change") for c in drawn} == {None, *CHANGES}
    assert {how for c in drawn for how, _, _ in c["cuts"]} == {
        "stop",
        "kill",
        "error",
        "again",
        "SIGTERM",
        "SIGINT",
        "SIGUSR1",
    }
