#!/bin/sh
# Build the pinned tools that the tests run for real, into .tools/bin.
#
#   tools/build.sh kubernetes      one group
#   tools/build.sh                 say which groups there are
#
# A tool that KUBEBUILDER_ASSETS or PATH already has is used as it is. A built one
# is kept in a cache under a key of its module files, the Go version and the flags,
# next to its checksum, so that a second checkout on this machine builds nothing.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
bin="$root/.tools/bin"
cache=${BUD_TOOLS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bud-foundry/tools}

# The API server takes its own version from the linker, and clients ask for it.
kubernetes=v1.34.2
version=k8s.io/component-base/version
ldflags="-s -w -X $version.gitVersion=$kubernetes -X $version.gitMajor=1 -X $version.gitMinor=34"

# Each line: group, folder under tools/go, package, name of the binary.
tools() {
    cat <<'TABLE'
kubernetes helm       helm.sh/helm/v3/cmd/helm                       helm
kubernetes kwok       sigs.k8s.io/kwok/cmd/kwok                      kwok
kubernetes etcd       go.etcd.io/etcd/server/v3                      etcd
kubernetes registry   github.com/google/go-containerregistry/cmd/registry oci-registry
kubernetes kubernetes k8s.io/kubernetes/cmd/kube-apiserver           kube-apiserver
kubernetes kubernetes k8s.io/kubernetes/cmd/kube-controller-manager  kube-controller-manager
kubernetes kubernetes k8s.io/kubernetes/cmd/kube-scheduler           kube-scheduler
clusters   sops       github.com/getsops/sops/v3/cmd/sops            sops
clusters   tofu       github.com/opentofu/opentofu/cmd/tofu          tofu
forge      gitea      code.gitea.io/gitea                            gitea
TABLE
}

share() { # GROUP: files that come with the modules, next to the binaries
    case "$1" in kubernetes)
        stages=$(module kwok sigs.k8s.io/kwok)/kustomize/stage
        copy kwok "$stages"/node/fast/node-*.yaml \
            "$stages"/node/heartbeat-with-lease/node-*.yaml \
            "$stages"/pod/fast/pod-*.yaml "$stages"/volume/fast/*.yaml
        copy crds \
            "$(pinned sigs.k8s.io/lws)"/config/crd/bases/*.yaml \
            "$(pinned github.com/kedacore/keda/v2)"/config/crd/bases/keda.sh_scaledobjects.yaml \
            "$(pinned github.com/external-secrets/external-secrets)"/config/crds/bases/external-secrets.io_externalsecrets.yaml \
            "$(pinned sigs.k8s.io/gateway-api)"/config/crd/standard/*_httproutes.yaml \
            "$(pinned github.com/prometheus-operator/prometheus-operator)"/example/prometheus-operator-crd/*_servicemonitors.yaml
        ;;
    forge)
        # Pages and messages; the built frontend is no part of the module.
        mkdir -p "$root/.tools/share/gitea"
        for part in options templates; do
            ln -sfn "$(module gitea code.gitea.io/gitea)/$part" "$root/.tools/share/gitea/$part"
        done
        mkdir -p "$root/.tools/share/gitea/public"
        ;;
    esac
}

module() { # FOLDER MODULE -> where its files are
    (cd "$root/tools/go/$1" && go mod download "$2" && go list -m -f '{{.Dir}}' "$2")
}

pinned() { # MODULE of crds.sum -> where its files are, once their sum is checked
    line=$(grep "^$1@" "$root/tools/go/crds.sum")
    told=$(cd / && go mod download -json "${line% *}")
    sum=$(echo "$told" | sed -n 's/.*"Sum": "\(.*\)",/\1/p')
    [ "$sum" = "${line##* }" ] || { echo "cannot trust $1: sum $sum" >&2; exit 1; }
    echo "$told" | sed -n 's/.*"Dir": "\(.*\)",/\1/p'
}

copy() { # NAME FILE...
    into="$root/.tools/share/$1"
    shift
    mkdir -p "$into"
    cp "$@" "$into/"
    chmod u+w "$into"/*
}

found() { # NAME -> path of a binary that is already there
    there=$(command -v "$1" 2>/dev/null || true)
    if [ -n "${KUBEBUILDER_ASSETS:-}" ] && [ -x "$KUBEBUILDER_ASSETS/$1" ]; then
        there=$KUBEBUILDER_ASSETS/$1
    fi
    # An older etcd does not report the progress of a watch, and clients of this
    # API server then stall for tens of seconds at a time.
    case "$1:$("${there:-false}" --version 2>/dev/null | head -1)" in
    etcd:*" 3.4."* | etcd:*" 3.3."* | etcd:) ;;
    *) echo "$there" ;;
    esac
}

settings() { # NAME: what a build needs beside the others' flags
    case "$1" in
    # SQLite comes as C; a forge of one test needs no other database.
    gitea) echo CGO_ENABLED=1 GOFLAGS=-tags=sqlite,sqlite_unlock_notify ;;
    *) echo CGO_ENABLED=0 ;;
    esac
}

build() { # FOLDER PACKAGE NAME
    folder="$root/tools/go/$1"
    key=$( (cat "$folder/go.mod" "$folder/go.sum"; go env GOVERSION GOOS GOARCH
            echo "$2 $ldflags$(settings "$3" | grep -v '^CGO_ENABLED=0$' || true)") | sha256sum | cut -c1-32)
    kept="$cache/$3-$key"
    if [ ! -x "$kept/$3" ] || ! (cd "$kept" && sha256sum --status -c SHA256SUMS); then
        echo "build $3 ($2)" >&2
        rm -rf "$kept.part.$$"
        mkdir -p "$kept.part.$$"
        (cd "$folder" && env $(settings "$3") go build -mod=readonly -trimpath \
            -ldflags="$ldflags" -o "$kept.part.$$/$3" "$2")
        (cd "$kept.part.$$" && sha256sum "$3" > SHA256SUMS)
        rm -rf "$kept"
        mv "$kept.part.$$" "$kept"
    fi
    ln -sf "$kept/$3" "$bin/$3"
}

if [ $# -eq 0 ]; then
    tools | cut -d' ' -f1 | sort -u
    exit 2
fi
mkdir -p "$bin"
for group in "$@"; do
    tools | grep -q "^$group " || { echo "no such group: $group" >&2; exit 2; }
    tools | grep "^$group " | while read -r _ folder package name; do
        there=$(found "$name")
        if [ -n "$there" ] && [ "$there" != "$bin/$name" ]; then
            ln -sf "$there" "$bin/$name"
        else
            command -v go >/dev/null || {
                echo "cannot build $name: go is not on PATH" >&2; exit 1; }
            build "$folder" "$package" "$name"
        fi
    done
    share "$group"
done
