"""The commands that measured every figure of the docs. Run one as ``python -m benchmarks.NAME``.

Do not run a file as a script: ``benchmarks/rollout.py`` would then hide the package ``rollout``.
"""
