"""A secret reaches the worker that needs it, and nothing that is written or printed."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.record.progress import Progress
from orchestrator.record.run_folder import RunFolder
from orchestrator.record.run_log import logged_to
from orchestrator.report.page import write_report
from orchestrator.settings.input_checks import check_inputs
from orchestrator.settings.run_config import load_config
from orchestrator.settings.unchanged import check_unchanged, save_settings
from policy.errors import UserError
from policy.types import Prompt, RewardFailure
from rewards.config import RewardConfig
from rewards.scored_group import failure_reasons
from rewards.worker import NO_CACHE, RewardWorker
from tests.image_groups import image_group
from tests.started_pools import Started, groups_of, reward, scores_of

ROOT = Path(__file__).parents[3]
SHAPES = str(ROOT / "configs" / "shapes.yaml")
TOKEN, LOGIN = "s3cr3t-token", "me:pa55w0rd"
REFUSED = (  # the SHA-256 shows that the worker had the token, and no other
    f"http://***@scorer/ refused ***, whose SHA-256 is {hashlib.sha256(TOKEN.encode()).hexdigest()}"
)
WITH_SECRETS = (
    f"rewards.0.runtime_env.env_vars={{SCORER_TOKEN: {TOKEN}}}",
    f"rewards.1={{name: far, factory: 'rewards.remote:RemoteReward', options: {{url:"
    f" 'http://{LOGIN}@scorer/score'}}}}",
)


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def tells(name: str, value: str) -> RewardConfig:
    return reward(
        "Tells",
        name,
        options={"variable": "SCORER_TOKEN", "login": LOGIN},
        runtime_env={"env_vars": {"SCORER_TOKEN": value}},
    )


def no_secret_in(text: str) -> bool:
    return TOKEN not in text and "pa55w0rd" not in text


def test_what_a_run_leaves_behind_holds_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """config.yaml, run.log, the report (of an older, unmasked config.yaml too), the terminal."""
    config = load_config(Path(SHAPES), [*WITH_SECRETS, f"root={tmp_path}"])
    folder = RunFolder(config.folder)
    save_settings(config, folder.path)
    folder.append("metrics.jsonl", {"step": 1})
    with logged_to(folder.path / "run.log"):
        logging.getLogger("eg_grpo").warning("http://%s@scorer/ refused %s", LOGIN, TOKEN)
    Progress(config.steps).note(f"ALARM: http://{LOGIN}@scorer/ refused {TOKEN}")
    write_report(folder.path)
    assert "SCORER_TOKEN: '***'" in (folder.path / "config.yaml").read_text()
    assert "http://***@scorer/ refused ***" in (folder.path / "run.log").read_text()
    assert capsys.readouterr().err == "ALARM: http://***@scorer/ refused ***\n"
    for file in folder.path.rglob("*"):
        assert file.is_dir() or no_secret_in(file.read_text(errors="replace")), file
    unmasked = (folder.path / "config.yaml").read_text().replace("***@", f"{LOGIN}@")
    (folder.path / "config.yaml").write_text(unmasked.replace("'***'", TOKEN))
    assert no_secret_in(write_report(folder.path).read_text())
    folder.close()


def test_what_is_printed_of_a_configuration_holds_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The dry run, a mistake in the options, an override that cannot be, doctor's findings."""
    dry_run = ["train", SHAPES, "--dry-run", f"root={tmp_path}", *WITH_SECRETS]
    assert main(dry_run) == 0
    printed = capsys.readouterr().out
    assert no_secret_in(printed)
    assert "url: http://***@scorer/score" in printed
    wrong = WITH_SECRETS[1].replace("/score'", "/score', retries: -1").replace("http", "ftp")
    for command in (
        [*dry_run[:4], WITH_SECRETS[0], wrong],
        [*dry_run, f"rewards.9.runtime_env.env_vars.SCORER_TOKEN={TOKEN}"],
        [*dry_run, f"rewards.0.runtime_env.env_vars.SCORER_TOKEN=[{TOKEN}"],
    ):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert error.startswith("eg-grpo: ")
        assert no_secret_in(error), error
    assert main(["doctor", SHAPES, WITH_SECRETS[0], wrong]) == 2
    assert no_secret_in(capsys.readouterr().out)


def test_a_bug_prints_no_secret(tmp_path: Path) -> None:
    """The traceback of what nobody thought of is masked too, and shows all else."""
    code = (
        "import sys; from pathlib import Path; from orchestrator import cli\n"
        "from orchestrator.commands import train\n"
        "from orchestrator.settings.run_config import load_config\n"
        "def bug(parsed): load_config(parsed.config, parsed.overrides); raise KeyError(sys.argv)\n"
        "train.run = bug; cli.main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "train", SHAPES, *WITH_SECRETS],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "KeyError" in done.stderr
    assert "in bug" in done.stderr
    assert no_secret_in(done.stdout + done.stderr)


def test_a_reward_that_tells_is_masked_by_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it gives as reason is masked before it leaves the process."""
    monkeypatch.setenv("SCORER_TOKEN", TOKEN)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    group = image_group(Prompt(id="p", text="a prompt", task_type="color"), [1])
    reply = RewardWorker(tells("tells", TOKEN), NO_CACHE).score([[0]], group)
    assert reply.results == [[RewardFailure(REFUSED)]]


def test_a_masked_file_resumes_when_the_secret_is_given_again(tmp_path: Path) -> None:
    """Read back, the mask is refused by its key; a reference needs no second giving."""
    config = load_config(Path(SHAPES), [WITH_SECRETS[0], f"root={tmp_path}"])
    config.folder.mkdir()
    save_settings(config, config.folder)
    saved = config.folder / "config.yaml"
    expected = r"^rewards\.0\.runtime_env\.env_vars\.SCORER_TOKEN: \*\*\* stands for a secret"
    with pytest.raises(UserError, match=expected):
        check_inputs(load_config(saved, []))
    again = load_config(saved, [WITH_SECRETS[0]])
    check_inputs(again)
    check_unchanged(again, config.folder)
    reference = "rewards.0.runtime_env.env_vars={SCORER_TOKEN: '${MY_TOKEN}'}"
    check_unchanged(load_config(saved, [reference]), config.folder)


def test_a_reference_is_written_as_it_is_and_must_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = "rewards.0.runtime_env.env_vars={SCORER_TOKEN: '${MY_TOKEN}'}"
    config = load_config(Path(SHAPES), [reference, f"root={tmp_path}"])
    config.folder.mkdir()
    save_settings(config, config.folder)
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    saved = config.folder / "config.yaml"
    assert "${MY_TOKEN}" in saved.read_text()
    check_inputs(load_config(saved, []))
    monkeypatch.delenv("MY_TOKEN")
    expected = r"^rewards\.0\.runtime_env\.env_vars\.SCORER_TOKEN: \$\{MY_TOKEN\}: MY_TOKEN is not"
    with pytest.raises(UserError, match=expected):
        check_inputs(load_config(saved, []))


@pytest.mark.cluster
@pytest.mark.slow
def test_the_worker_has_the_secret_and_its_failures_do_not(
    start: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Ray: given as it is and by reference, and told by a reward in a failure's reason."""
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    variables = {"as-it-is": TOKEN, "by-reference": "${MY_TOKEN}"}
    pools = start(*(tells(how, value) for how, value in variables.items()))
    _, refs = groups_of([[1]])
    assert failure_reasons(scores_of(pools, refs)) == {f"{how}: {REFUSED}": 1 for how in variables}
