"""Every verb through the harness: in memory, in chunks, on workers, after xarray's own steps, after one another."""

from __future__ import annotations

import pytest
from harness import check_chain, checks_of, public_verbs
from verbs import CHAINS, VERBS

CASES = {f"{verb.name}-{name}": (verb, check) for verb in VERBS for name, check in checks_of(verb).items()}  # fmt: skip


@pytest.fixture(scope="module")
def workers(client):
    with client() as made:
        yield made


@pytest.mark.parametrize("case", CASES)
def test_verb(case, request):
    verb, check = CASES[case]
    if case.endswith("-workers"):
        check(verb, request.getfixturevalue("workers"))
    else:
        check(verb)


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain[0])
def test_verbs_after_one_another(chain):
    _, make, dims, verbs = chain
    check_chain(make, dims, verbs)


def test_every_verb_is_in_the_table():
    """A new verb comes with a row."""
    names = [verb.name for verb in VERBS]
    assert len(set(names)) == len(names)
    assert public_verbs() == set(names)
