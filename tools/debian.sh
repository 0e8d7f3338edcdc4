#!/bin/sh
# Install what the tests run from Debian's packages, where it is not there yet.
# Needs root and apt-get; elsewhere it says what to install by hand.
set -eu

have_postgres() {
    for initdb in /usr/lib/postgresql/*/bin/initdb; do
        [ -x "$initdb" ] && return 0
    done
    command -v initdb >/dev/null
}

wanted=""
have_postgres || wanted="$wanted postgresql"
command -v git >/dev/null || wanted="$wanted git"
command -v ssh-keygen >/dev/null || wanted="$wanted openssh-client"
# Its package listens on every address: only where nobody lives may a test bring it.
if [ "${CI:-}" = true ]; then
    PATH="$PATH:/usr/sbin:/sbin"
    command -v sshd >/dev/null || wanted="$wanted openssh-server"
    command -v ip >/dev/null || wanted="$wanted iproute2"
    command -v softhsm2-util >/dev/null || wanted="$wanted softhsm2"
fi
command -v valkey-server >/dev/null || command -v redis-server >/dev/null ||
    wanted="$wanted redis-server"
[ -z "$wanted" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "cannot install$wanted: install it with this system's package manager" >&2
    exit 1
fi
apt-get update -qq
# shellcheck disable=SC2086  # a list of names
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted
