"""What happens to tests of several hosts on a machine that lacks the programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.multihost.hosts import needs_hosts

MISSING = r"not installed: ip, tc, unshare, nsenter \(Debian packages iproute2 and util-linux\)"


def test_missing_programs_fail_in_continuous_integration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nobody would see there that the tests were skipped."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=MISSING):
        needs_hosts()


def test_missing_programs_skip_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The reason names the packages."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=MISSING):
        needs_hosts()
