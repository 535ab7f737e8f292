"""The path of tools/new_user.py, which nobody walks in a test: it takes minutes and a network."""

from __future__ import annotations

import shlex

from orchestrator.commands.parser import make_parser
from tests.command_line import ROOT
from tools.new_user import AFTER, BEFORE, INSTALLING, OWN_REWARD, SERVE, TRAIN


def test_the_parser_takes_every_command_of_the_path() -> None:
    """A flag or an action that was renamed is found here, and not by who measures the path next."""
    steps = [*BEFORE, *AFTER, *OWN_REWARD]
    commands = [*(command for _, command, _ in steps), TRAIN, SERVE]
    assert len(commands) > 10
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "eg-grpo"
        _, overrides = make_parser().parse_known_args(arguments)  # they may stand behind a flag
        assert all("=" in word for word in overrides), command


def test_the_pages_of_the_path_show_its_commands() -> None:
    """Each page has the command with its action: what a user types is what the page says."""
    for page, command, _ in [*BEFORE, *AFTER, *OWN_REWARD, ("first_run", TRAIN, "")]:
        action = " ".join(command.split()[:2])
        assert action in (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"), command
    assert {page for page, _, _ in INSTALLING} == {"install"}
