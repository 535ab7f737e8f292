"""What the bonus of EG-GRPO does with guidance, and what a user should do about it.

    python -m benchmarks.experiments run [STUDY ...]   # goes on where earlier sessions ended
    python -m benchmarks.experiments status
    python -m benchmarks.experiments weights           # makes runs again whose weights are not here
    python -m benchmarks.experiments table             # docs/experiments/results.md
    python -m benchmarks.experiments choose            # the two methods that the confirmation takes
    python -m benchmarks.experiments figure            # docs/experiments/*.png and *.svg
    python -m benchmarks.experiments analyze           # docs/experiments/entropy.md
    python -m benchmarks.experiments drawing           # docs/experiments/drawing.md
    python -m benchmarks.experiments cost ARM          # CPU seconds, with and without Ray
    python -m benchmarks.experiments gradient          # docs/experiments/gradient.md

``docs/experiments/preregistration.md`` says what was expected before the runs, and how they are
judged. ``docs/experiments/results`` holds the numbers of the finished runs. Tables and figures show
a study only when all its registered runs are there.
"""
