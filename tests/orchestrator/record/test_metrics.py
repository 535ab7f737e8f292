"""The table of metrics: what it lists, and that everything which names a metric is in it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.record.metrics import EVALUATION_METRICS, STEP_METRICS, TABLES, find, markdown
from orchestrator.settings.run_config import METRICS_OF_THE_TOTAL
from tests.training_records import check_keys

ROOT = Path(__file__).parents[3]
READERS = ("pipeline", "record", "report")
LEDGER_COUNTERS = ("lost/learner", "lost/rollout")  # they are in the ledger, and in no row


def test_the_page_is_the_table() -> None:
    """docs/metrics.md is what ``python -m orchestrator.record.metrics`` prints."""
    assert (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8") == markdown()


@pytest.mark.parametrize("name", TABLES)
def test_every_metric_is_listed_once(name: str) -> None:
    """Of each key there is one line, and each help is one line without a full stop."""
    keys = [metric.key for metric in TABLES[name]]
    assert len(set(keys)) == len(keys)
    for metric in TABLES[name]:
        assert metric.help
        assert not re.search(r"[\n|]|\.$", metric.help), metric.key
        assert (metric.unit == "none") == (metric.kind == "other"), metric.key


@pytest.mark.parametrize(
    ("key", "listed"),
    [
        ("reward/mean", "reward/mean"),
        ("reward/hps-v2.1", "reward/{reward}"),
        ("detail/hps/a/b c", "detail/{reward}/{part}"),
        ("entropy/cot/mean", "entropy/{modality}/mean"),
        ("seconds/learn", "seconds/{stage}"),
        ("seconds/step", "seconds/step"),
        ("entropy/sound/mean", None),
        ("seconds/nap", None),
        ("reward/hps/mean", None),
        ("reward/standard_error", "reward/{reward}"),  # no metric of a step has this name
    ],
)
def test_a_key_belongs_to_one_line(key: str, listed: str | None) -> None:
    """A key of its own goes before a family; a placeholder stands for what it can be alone."""
    metric = find(key)
    assert (metric.key if metric else None) == listed


def test_a_key_that_is_not_listed_is_named() -> None:
    """The check behind every test that reads a run's rows says which key of which file it is."""
    check_keys({"step": 1, "reward/a": 0.5})
    with pytest.raises(AssertionError, match=r"^metrics\.jsonl: not in .*/metrics\.py: kl/maen, x"):
        check_keys({"step": 1, "kl/maen": 0.5, "x": 1})
    with pytest.raises(AssertionError, match=r"^evaluations\.jsonl: .*: grad_norm"):
        check_keys({"step": 1, "grad_norm": 0.5}, "evaluations.jsonl")


def test_a_reward_cannot_take_the_name_of_a_metric_of_the_total() -> None:
    """The names that settings refuse are those after ``reward/`` in the table."""
    keys = {metric.key for metric in (*STEP_METRICS, *EVALUATION_METRICS)}
    names = {key.removeprefix("reward/") for key in keys if key.startswith("reward/")}
    assert names - {"{reward}"} == METRICS_OF_THE_TOTAL


@pytest.mark.parametrize("room", READERS)
def test_whoever_reads_a_metric_names_one_of_the_table(room: str) -> None:
    """Every literal in these rooms that looks like a metric, ``kl/mean``, is a key of the table, or
    a counter of the ledger."""
    for file in (ROOT / "orchestrator" / room).glob("*.py"):
        for key in set(literal_keys(file)) - set(LEDGER_COUNTERS):
            assert any(find(key, table) for table in TABLES.values()), f"{file.name}: {key}"


def literal_keys(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and re.fullmatch(r"[a-z_]+(/[a-z_]+)+", text):
            yield text
