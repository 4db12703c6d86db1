"""The ancestors' sizes: each row of their READMEs to the printed digit, and their codes' exact numbers."""

import pytest
import torch

from models import build_model
from scripts.ancestor_sizes import HEADS, compare, like, markdown
from scripts.ancestors.counting import INSIGHT_RULE, THOP_RULE, ZOO_RULE, Rule, count
from scripts.ancestors.published import TABLES, Row, Table
from utils.config import ModelConfig

ROWS = [(table, row) for table, rows in TABLES for row in rows]

# Parameters and FLOPs of the ancestors' own code, with more digits than a README has: seeds.md 4.5, 5.2 to 5.5.
CODE = [
    (ModelConfig(), INSIGHT_RULE, 25_557_032, "4.1219 G"),
    (ModelConfig(attention="se"), INSIGHT_RULE, 28_088_024, "4.1300 G"),
    (ModelConfig(attention="sk"), INSIGHT_RULE, 26_154_496, "4.1869 G"),
    (ModelConfig(attention="bam"), INSIGHT_RULE, 25_915_099, "4.2051 G"),
    (ModelConfig(attention="cbam"), INSIGHT_RULE, 28_089_624, "4.1394 G"),
    (ModelConfig(attention="sge"), INSIGHT_RULE, 25_559_080, "4.1274 G"),
    (ModelConfig(model="resnet18"), INSIGHT_RULE, 11_689_512, "1.8222 G"),
    (ModelConfig(model="shufflenet_v2_x0_5"), INSIGHT_RULE, 1_366_792, "0.0437 G"),
    (ModelConfig(), ZOO_RULE, 25_557_032 + 53_120, "4.095 G"),
    (ModelConfig(model="resnet50v2"), ZOO_RULE, 25_549_480 + 45_568, "4.093 G"),
    (ModelConfig(model="resnext50_32x4d"), ZOO_RULE, 25_028_904 + 68_224, "4.239 G"),
]


@pytest.mark.parametrize(("table", "row"), ROWS, ids=[f"{table.ancestor}, {row.name}" for table, row in ROWS])
def test_size_is_the_published_one(table: Table, row: Row) -> None:
    found = compare(table, row)
    assert found.present
    assert found.right, found.cells


@pytest.mark.parametrize(("config", "rule", "parameters", "flops"), CODE)
def test_counts_are_those_of_the_ancestors_code(config: ModelConfig, rule: Rule, parameters: int, flops: str) -> None:
    with torch.device("meta"):
        model = build_model(config, 1000)
    found = count(model, 224, rule)
    assert (found[0], like(found[1], flops)) == (parameters, flops)


def test_wrong_number_and_absent_network_are_told() -> None:
    table = Table("somebody", THOP_RULE, size=32, classes=10)
    wrong = compare(table, Row("net", ModelConfig(model="resnet20"), "0.28 M", "0.04 G"))
    assert not wrong.right and wrong.cells[3] == "0.27 M"
    absent = compare(table, Row("net", ModelConfig(model="resnet21"), "0.28 M"))
    assert absent.right and not absent.present and absent.cells[3] == "not ours yet"


def test_markdown_has_a_column_for_each_head() -> None:
    table, row = ROWS[0]
    lines = markdown([compare(table, row)]).splitlines()
    assert [line.count("|") for line in lines] == [len(HEADS) + 1] * 3
