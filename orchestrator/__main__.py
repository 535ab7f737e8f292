"""``python -m orchestrator`` is ``eg-grpo``."""

import sys

from orchestrator.cli import main

sys.exit(main())
