"""All suites by name. The flags of the command line name them too."""

from __future__ import annotations

from evaluation.suites.compbench import COMPBENCH
from evaluation.suites.geneval import GENEVAL
from evaluation.suites.images import DIVERSITY, QUALITY_SUITE
from evaluation.suites.shapes import SHAPES
from evaluation.suites.suite import Suite
from evaluation.suites.wise import WISE, WISE_VERIFIED
from policy.errors import UserError

SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (COMPBENCH, GENEVAL, WISE, WISE_VERIFIED, DIVERSITY, QUALITY_SUITE, SHAPES)
}


def suite_named(name: str) -> Suite:
    """The suite of this name. Raises ``UserError`` that lists the known names."""
    if name not in SUITES:
        raise UserError(f"no suite is called {name!r}; known: {', '.join(SUITES)}")
    return SUITES[name]
