"""What the bonus of EG-GRPO does with guidance, and what a user should do about it.

    python -m benchmarks.experiments run --root DIR [STUDY ...]   # stops and resumes cell by cell
    python -m benchmarks.experiments status --root DIR
    python -m benchmarks.experiments table --root DIR             # docs/experiments/results.md
    python -m benchmarks.experiments figure --root DIR            # docs/experiments/*.png and *.svg
    python -m benchmarks.experiments gradient                     # docs/experiments/gradient.md

``docs/experiments/preregistration.md`` says what was expected before the runs, and how they are
judged. Tables and figures show a study only when all its registered runs are finished.
"""
