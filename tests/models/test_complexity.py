"""The cost of every network is what `complexity.json` says, so that no change of a network stays unseen."""

import json
from pathlib import Path

import pytest

from models import FAMILIES
from scripts.list_models import Entry, as_json, describe

GOLDEN = Path(__file__).with_name("complexity.json")
KNOWN = {name: Entry(name, **facts) for name, facts in json.loads(GOLDEN.read_text()).items()}
OURS = [(name, family) for family, rows in FAMILIES.items() for name in rows]


@pytest.mark.parametrize(("name", "family"), OURS, ids=[name for name, _ in OURS])
def test_network_costs_what_it_did(name: str, family: str) -> None:
    """After a change that is meant: python -m scripts.list_models --json > tests/models/complexity.json."""
    assert describe(name, family) == KNOWN.get(name)


def test_file_has_our_networks_in_their_order_as_the_script_writes_it() -> None:
    assert list(KNOWN) == [name for name, _ in OURS]
    assert GOLDEN.read_text() == as_json(list(KNOWN.values())) + "\n"
