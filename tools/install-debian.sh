#!/bin/sh
# Install the programs that some tests drive: Prometheus with promtool, its exporter of a host,
# Alertmanager with amtool, Chromium with its driver, and what makes hosts of namespaces. Where they
# are missing these tests are skipped, and fail if CI is set.
set -eu
missing=""
for pair in ip:iproute2 tc:iproute2 unshare:util-linux nsenter:util-linux \
    prometheus:prometheus promtool:prometheus amtool:prometheus-alertmanager \
    prometheus-node-exporter:prometheus-node-exporter chromium:chromium chromedriver:chromium-driver; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "install-debian: not installed, needs apt-get and root:$missing" >&2
    exit 0
fi
echo "install-debian:$missing"
# Debian would start the servers, which listen on all interfaces; the tests start their own.
export RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086  # a list of words
apt-get install -qq --no-install-recommends $missing >/dev/null
