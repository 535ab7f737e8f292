"""Kills and freezes the processes of a run at random moments, and checks what the run ends with.

    python -m benchmarks.chaos --faults 100 --seed 0

Each run is a process of its own, ``eg-grpo train configs/shapes.yaml`` with small steps. The first
one is left alone. The second one is struck: the faults of ``plan`` hit its processes. A driver that
is killed is started again as a user would do it. ``checks`` then reads the ledger and the rows that
the learner left, and says what is wrong with them.
"""
