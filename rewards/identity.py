"""Identifies the scorer of a score by reward, settings, code and weights, for the score cache."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from rewards.config import RewardConfig
from rewards.protocol import Reward


def scorer_identity(config: RewardConfig, reward: Reward) -> str:
    """A text that changes whenever the scores may change. The reward must have been built."""
    parts = {
        "name": config.name,
        "factory": config.factory,
        "options": config.options,
        "code": _code_digest(config.factory.split(":")[0].split(".")[0]),
        "weights": getattr(reward, "digest", None),
    }
    return json.dumps(parts, sort_keys=True, default=str)


def _code_digest(package: str) -> str:
    """Digest of the package's loaded source files. After an edit, no old score is found."""
    digest = hashlib.blake2b(digest_size=20)
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.split(".")[0] == package and file and Path(file).is_file():
            digest.update(name.encode() + hashlib.blake2b(Path(file).read_bytes()).digest())
    return digest.hexdigest()
