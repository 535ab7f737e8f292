"""What an evaluation reads before it starts: files below its data folder, and scorers' files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluation.suites.registry import suite_named
from orchestrator.settings.suite_config import load_suite_config
from orchestrator.settings.suite_inputs import check_suite
from policy.errors import UserError
from tests.suite_files import JUDGE_PROGRAM, compbench_files, wise_files

SAMPLING = {"guidance_scale": 1.0, "temperature": 1.0, "max_cot_tokens": 1}


@pytest.mark.parametrize("suite", ["wise", "wise-verified"])
def test_the_data_folder_holds_the_texts_of_wise_too(suite: str, tmp_path: Path) -> None:
    """The instruction and the judge's questions move with ``data``, unless they are given."""
    config = load_suite_config(suite, [f"data={tmp_path}"], SAMPLING, "janus-plain")
    assert config.model.instruction == tmp_path / "prompt" / "wise.txt"
    program = {"wise": "gpt_eval.py", "wise-verified": "vllm_eval.py"}[suite]
    assert config.rewards[0].options["questions"] == f"{tmp_path}/wise_judge/{program}"
    plain = load_suite_config(suite, ["model.instruction=mine.txt"], SAMPLING, "janus-plain")
    assert plain.model.instruction == Path("mine.txt")
    assert plain.rewards[0].options["questions"] == f"data/wise_judge/{program}"


def test_drawing_alone_needs_no_file_of_a_scorer(tmp_path: Path) -> None:
    """Images of another model may be drawn where no scorer is."""
    given = [f"data={compbench_files(tmp_path)}", "rewards.0.options.model=/no/such/folder"]
    suite = suite_named("diversity")
    assert len(check_suite(suite, None, given, scores=False).items) == 3
    with pytest.raises(UserError, match=r"reward 'features': .*/no/such/folder"):
        check_suite(suite, None, given)


def test_locations_are_told_apart_from_options(tmp_path: Path) -> None:
    """Two results of one scorer can be compared wherever its files and its server were."""
    data = wise_files(tmp_path)
    (data / "judge.py").write_text(JUDGE_PROGRAM)
    options = {"url": "http://127.0.0.1:8000/v1", "model": "judge", "questions": f"{data}/judge.py"}
    judge = {"name": "judge", "factory": "rewards.judge:WiseJudge", "options": options}
    asked = check_suite(
        suite_named("wise"), None, [f"data={data}", f"rewards={json.dumps([judge])}"]
    ).asked()
    assert asked["scorers"][0]["options"] == {"model": "judge"}
    assert asked["locations"] == {
        "judge": {"url": "http://127.0.0.1:8000/v1", "questions": f"{data}/judge.py"}
    }
