"""Measures everything that only a GPU can show. Tests run the same command on the CPU.

    python -m benchmarks.gpu_check --minutes 6 --out runs/gpu-check     # one GPU of 80 GB
    python -m benchmarks.gpu_check --device cpu --tiny --out DIR        # the dry run

It needs torch, transformers, peft, pydantic and xxhash. It needs neither Ray, DeepSpeed, vLLM,
Redis nor a network. All weights are random and made on the device. ``parts.py`` lists the parts,
the most important first. Each part runs in a process of its own (``child.py``) with a time limit of
its own. The session (``session.py``) writes ``results.json`` and ``table.md`` after every figure. A
second call with the same ``--out`` runs only the parts that are missing.
"""
