"""The rules that a user chooses among, and their defaults, which are the authors' own.

The settings read this module, in every process and first of all in the driver. So it imports no
torch.
"""

from __future__ import annotations

from typing import Literal

Modalities = Literal["both", "cot", "image", "none"]
LOW_QUANTILE = 0.2
HIGH_QUANTILE = 0.5

BonusRule = Literal["capped", "budget", "budget-exact"]
CAP_FACTOR = 0.3  # the authors' n_beta, which multiplies the entropy and its cap

Aggregation = Literal["token-mean", "sequence-mean", "constant"]
KlEstimator = Literal["k2", "k3"]

FRACTION = 0.2  # of the 80/20 rule
# Which tokens the authors (selected) and TRL (all) divide the sum of surrogates by. The two differ
# by a factor of 1 / fraction in step size.
MeanOver = Literal["selected", "all"]

# Token methods whose ``needs`` include the reference, or log-probs without the prompt.
WITH_REFERENCE = frozenset({"critical"})
WITH_UNCONDITIONAL = frozenset({"contrast"})
