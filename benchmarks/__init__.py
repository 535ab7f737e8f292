"""The commands behind every figure; run them as ``python -m benchmarks.NAME``.

(As a plain script ``benchmarks/rollout.py`` would hide the package ``rollout``.)
"""
