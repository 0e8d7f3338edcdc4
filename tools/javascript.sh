#!/bin/sh
# Install the JavaScript clients that the gateway's tests drive, into .tools/javascript.
# Where there is no Node, those tests are skipped: nothing of ours needs it.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
into="$root/.tools/javascript"

if ! command -v npm >/dev/null || ! command -v node >/dev/null; then
    echo "no Node here: the JavaScript client is not tested" >&2
    exit 0
fi
cmp -s "$root/tools/javascript/package-lock.json" "$into/package-lock.json" &&
    [ -d "$into/node_modules" ] && exit 0
mkdir -p "$into"
cp "$root"/tools/javascript/package*.json "$into/"
npm ci --prefix "$into" --ignore-scripts --no-audit --no-fund --silent
