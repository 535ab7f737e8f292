"""Secrets are masked by structure in settings, and by what is known in text."""

from __future__ import annotations

import pytest

from policy import secrets
from policy.errors import UserError
from policy.secrets import hide, masked, masked_tree, resolved, secrets_in


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_known", set())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://:hush@host:6379/0", "redis://***@host:6379/0"),
        ("at https://user:p%40ss@host/a?b=c: refused", "at https://***@host/a?b=c: refused"),
        ("git+https://ghp_token@github.com/a/b", "git+https://***@github.com/a/b"),
        ("rediss://u:p@ss@host", "rediss://***@host"),
        ("http://h/s?x=1&api_key=hush&y=2", "http://h/s?x=1&api_key=***&y=2"),
        ("http://h/s?access-token=hush", "http://h/s?access-token=***"),
        ("http://h/s?sig=hush#f", "http://h/s?sig=***#f"),
        ("http://h/a@b", "http://h/a@b"),
        ("http://h/s?max_tokens=5&author=me", "http://h/s?max_tokens=5&author=me"),
        ("mail me@host", "mail me@host"),
    ],
)
def test_logins_and_tokens_in_urls_are_masked_in_any_text(text: str, expected: str) -> None:
    assert masked(text) == expected
    assert masked_tree({"a": [text]}) == {"a": [expected]}


def test_a_secret_may_be_a_number_or_lie_deeper() -> None:
    """YAML makes a number of 12345678, and a key may name several secrets."""
    tree = {
        "password": 12345678,
        "api_key": ["k1", "k2"],
        "credentials": {"user": "a", "pass": "b"},
        "secret_key": "s",
        "verify": True,
        "url": "http://user:it's@host",
    }
    assert masked_tree(tree) == {
        "password": "***",
        "api_key": ["***", "***"],
        "credentials": {"user": "***", "pass": "***"},
        "secret_key": "***",
        "verify": True,
        "url": "http://***@host",
    }
    assert secrets_in(tree) == ["12345678", "k1", "k2", "a", "b", "s"]


def test_settings_are_masked_by_their_keys() -> None:
    """All of env_vars but references, however short; text under a name that says what it is."""
    tree = {
        "env_vars": {"TOKEN": "hush", "CUDA_VISIBLE_DEVICES": "0", "HOME": "${HOME}"},
        "options": {
            "api_key": "k",
            "headers": {"Authorization": "Bearer b", "Accept": "json"},
            "token": "t",
            "password": "p",
            "eos_token": "</s>",
            "tokenizer": "folder",
            "max_tokens": 5,
            "api_key_index": 3,
        },
    }
    assert masked_tree(tree) == {
        "env_vars": {"TOKEN": "***", "CUDA_VISIBLE_DEVICES": "***", "HOME": "${HOME}"},
        "options": {
            "api_key": "***",
            "headers": {"Authorization": "***", "Accept": "json"},
            "token": "***",
            "password": "***",
            "eos_token": "</s>",
            "tokenizer": "folder",
            "max_tokens": 5,
            "api_key_index": 3,
        },
    }
    assert secrets_in(tree) == ["hush", "0", "k", "Bearer b", "t", "p"]


def test_known_values_are_masked_in_text_unless_they_are_too_short_to_be_one() -> None:
    """The longer first, so that no rest of it shows."""
    hide(["hush", "hush-hush", "0"])
    assert masked("0 x hush-hush and hush") == "0 x *** and ***"


def test_references_are_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole value that is one; anything else stays what it is."""
    monkeypatch.setenv("EG_TOKEN", "hush")
    assert resolved({"A": "${EG_TOKEN}", "B": "x${EG_TOKEN}", "C": "$EG_TOKEN"}) == {
        "A": "hush",
        "B": "x${EG_TOKEN}",
        "C": "$EG_TOKEN",
    }
    monkeypatch.delenv("EG_TOKEN")
    with pytest.raises(UserError, match=r"^A: \$\{EG_TOKEN\}: EG_TOKEN is not set"):
        resolved({"A": "${EG_TOKEN}"})
