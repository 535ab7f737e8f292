"""Everything that only a GPU can show, as one command that is dry-run on the CPU in the tests.

    python -m benchmarks.gpu_check --minutes 6 --out runs/gpu-check     # one GPU of 80 GB
    python -m benchmarks.gpu_check --device cpu --tiny --out DIR        # the dry run

It needs torch, transformers, peft and pydantic, but neither Ray, DeepSpeed, vLLM, Redis nor a
network; all weights are random and made on the device. ``parts.py`` lists the parts in the order of
their worth. Each runs in a process of its own (``child.py``) within a time of its own, under a
session (``session.py``) that prints as it goes and after every figure writes ``results.json`` and
``table.md``. A second call with the same ``--out`` goes on with what is missing.
"""
