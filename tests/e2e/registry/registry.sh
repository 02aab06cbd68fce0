#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Push and pull against docker-registry, with skopeo carrying what we wrote.
# usage: registry.sh REGISTRY-TOOL
set -euo pipefail

tool=$1
for needed in docker-registry skopeo openssl; do
    if ! command -v "$needed" >/dev/null; then
        echo "skip: there is no $needed"
        exit 77
    fi
done

work=$(mktemp -d "${TMPDIR:-/tmp}/e2e-registry.XXXXXX")
export TMPDIR=$work/tmp HOME=$work XDG_RUNTIME_DIR=$work/run
mkdir "$TMPDIR" "$XDG_RUNTIME_DIR"
unset REGISTRY_AUTH_FILE DOCKER_CONFIG
pids=()
failures=0

# shellcheck disable=SC2317  # called by trap
leave() {
    local status=$?
    trap - EXIT
    [[ ${#pids[@]} -eq 0 ]] || kill "${pids[@]}" 2>/dev/null || true
    if mountpoint -q "$work/small"; then umount "$work/small"; fi
    rm -rf "$work"
    [[ $status -ne 0 || $failures -eq 0 ]] || status=1
    exit "$status"
}
trap leave EXIT

ok() { printf 'ok: %s\n' "$1"; }
wrong() {
    printf 'FAILED: %s\n' "$*"
    failures=$((failures + 1))
}
expect() { # WHAT WANTED GOT
    if [[ $2 == "$3" ]]; then ok "$1"; else wrong "$1: wanted $2, got $3"; fi
}
# expect_exit CODE WHAT CMD...; what it said is in $said
expect_exit() {
    local wanted=$1 what=$2 status=0
    shift 2
    "$@" >"$work/out" 2>"$work/err" </dev/null || status=$?
    said=$(<"$work/err")
    if [[ $status -eq $wanted ]]; then ok "$what"; else wrong "$what: exit code $status: $said"; fi
}
field() { sed -n "s/.*$1 \([0-9a-f]*\).*/\1/p"; }

# start_registry NAME [HTTP-OPTION...]: a registry on a free port of loopback;
# its address is in $address, its blobs are below $work/NAME.
start_registry() {
    local name=$1 end=$((SECONDS + 20)) port=
    shift
    {
        echo 'version: 0.1'
        echo "storage: {filesystem: {rootdirectory: $work/$name}}"
        echo 'http:'
        echo '  addr: 127.0.0.1:0'
        printf '%s\n' "$@"
    } >"$work/$name.yml"
    docker-registry serve "$work/$name.yml" >"$work/$name.log" 2>&1 &
    pids+=($!)
    until [[ -n $port ]]; do
        if ((SECONDS >= end)); then
            cat "$work/$name.log"
            echo "docker-registry does not start"
            exit 1
        fi
        sleep 0.05
        port=$(sed -n 's/.*listening on 127\.0\.0\.1:\([0-9]*\).*/\1/p' "$work/$name.log" | head -n 1)
    done
    address=127.0.0.1:$port
}

start_registry plain
plain=$address
id=$("$tool" make "$work/a" 1)

# there and back
"$tool" push "$work/a" "$id" "$plain/lab/web:v1" >"$work/pushed"
"$tool" pull "$work/b" "$plain/lab/web:v1" >"$work/pulled"
expect 'pulled is what was pushed' "$id" "$(field checkpoint <"$work/pulled")"
expect 'and the same OCI manifest' "$(field manifest <"$work/pushed")" \
    "$(field manifest <"$work/pulled")"
expect_exit 0 'byte for byte' "$tool" same "$work/a" "$work/b" "$id"
expect 'the second push sends nothing' 0 \
    "$("$tool" push "$work/a" "$id" "$plain/lab/web:v2" | field transferred)"
expect 'nor does one from the other store' 0 \
    "$("$tool" push "$work/b" "$id" "$plain/lab/web:v3" | field transferred)"

# other tools carry it
manifest=$(field manifest <"$work/pushed")
copy() { skopeo copy -q --src-tls-verify=false --dest-tls-verify=false "$@"; }
copy "docker://$plain/lab/web:v1" "oci:$work/layout:x"
"$tool" pull "$work/c" "oci:$work/layout:x" >"$work/pulled"
expect 'registry, skopeo, layout' "$manifest" "$(field manifest <"$work/pulled")"
expect_exit 0 'byte for byte' "$tool" same "$work/a" "$work/c" "$id"
"$tool" push "$work/a" "$id" "oci:$work/ours:y" >"$work/pushed"
expect 'a layout gets the same manifest' "$manifest" "$(field manifest <"$work/pushed")"
copy "oci:$work/ours:y" "docker://$plain/other/repo:z"
"$tool" pull "$work/d" "$plain/other/repo:z" >"$work/pulled"
expect 'layout, skopeo, registry' "$manifest" "$(field manifest <"$work/pulled")"
expect_exit 0 'byte for byte' "$tool" same "$work/a" "$work/d" "$id"
copy "oci:$work/ours:y" "oci:$work/layout:second"
"$tool" push "$work/a" "$("$tool" make "$work/a" 2)" "oci:$work/layout:third" >"$work/pushed"
expect_exit 0 "skopeo's tags stay" "$tool" pull "$work/d" "oci:$work/layout:second"
expect_exit 0 'beside ours' skopeo inspect --raw "oci:$work/layout:third"

# more than one pack, killed on the way: no tag, and only the rest is sent again
big=$("$tool" make-big "$work/a" 3 17000)
expect_exit 137 'a push is killed' "$tool" push "$work/a" "$big" "$plain/lab/big:1" 67200000
expect_exit 10 'it leaves no tag' "$tool" pull "$work/e" "$plain/lab/big:1"
"$tool" push "$work/a" "$big" "$plain/lab/big:1" >"$work/pushed"
total=$(field total <"$work/pushed")
sent=$(field transferred <"$work/pushed")
if ((total > 69000000 && sent < 10000000)); then
    ok "the next push sends the rest only ($sent of $total bytes)"
else
    wrong "the next push sends $sent of $total bytes"
fi
"$tool" pull "$work/e" "$plain/lab/big:1" >"$work/pulled"
expect_exit 0 'byte for byte' "$tool" same "$work/a" "$work/e" "$big"
if [[ -n $(ls -A "$TMPDIR") ]]; then wrong "left in TMPDIR: $(ls "$TMPDIR")"; else ok 'nothing is left in TMPDIR'; fi

# credentials: user, secret
# shellcheck disable=SC2016  # bcrypt of "secret"
echo 'user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a' >"$work/htpasswd"
start_registry closed "auth: {htpasswd: {realm: lab, path: $work/htpasswd}}"
closed=$address
expect_exit 1 'without credentials it says how to log in' \
    "$tool" push "$work/a" "$id" "$closed/lab/web:v1"
expect 'hint' "hint: log in first, e.g.: skopeo login $closed" "$(tail -n 1 <<<"$said")"
skopeo login --tls-verify=false --authfile "$work/auth.json" -u user -p secret "$closed" \
    >/dev/null
export REGISTRY_AUTH_FILE=$work/auth.json
expect_exit 0 "with skopeo's it pushes" "$tool" push "$work/a" "$id" "$closed/lab/web:v1"
expect_exit 0 'and pulls' "$tool" pull "$work/f" "$closed/lab/web:v1"
unset REGISTRY_AUTH_FILE

# TLS: every name below .localhost is this host, but not plain HTTP by itself
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
    -subj /CN=lab.localhost -addext subjectAltName=DNS:lab.localhost \
    -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
start_registry tls "  tls: {certificate: $work/cert.pem, key: $work/key.pem}"
tls=lab.localhost:${address#*:}
expect_exit 1 'a certificate nobody signed is refused' "$tool" push "$work/a" "$id" "$tls/a:1"
SSL_CERT_FILE=$work/cert.pem expect_exit 0 'a trusted one is taken' \
    "$tool" push "$work/a" "$id" "$tls/a:1"
SSL_CERT_FILE=$work/cert.pem expect_exit 0 'for pulls too' "$tool" pull "$work/g" "$tls/a:1"

# trouble
expect_exit 10 'no such tag' "$tool" pull "$work/h" "$plain/lab/web:none"
expect_exit 10 'no such repository' "$tool" pull "$work/h" "$plain/none:v1"
expect_exit 1 'no registry' "$tool" pull "$work/h" 127.0.0.1:1/a:b
if [[ $(id -u) -eq 0 ]] && mkdir "$work/small" && mount -t tmpfs -o size=8m none "$work/small" 2>/dev/null; then
    TMPDIR=$work/small expect_exit 1 'a full disk' "$tool" pull "$work/h" "$plain/lab/big:1"
    case $said in *'No space left'*) ok 'says so' ;; *) wrong "says: $said" ;; esac
    TMPDIR=$work/small expect_exit 1 'for pushes too' \
        "$tool" push "$work/a" "$big" "$plain/lab/big:2"
else
    echo 'skip: a full disk (needs root)'
fi
blob=$(find "$work/plain" -name data -size +60M | head -n 1)
printf x | dd of="$blob" bs=1 seek=30000000 conv=notrunc status=none
expect_exit 13 'a blob that rotted in the registry' "$tool" pull "$work/h" "$plain/lab/big:1"
