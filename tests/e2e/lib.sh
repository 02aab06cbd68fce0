# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the end-to-end tests share. They get the binary in STASIS and the
# appliance's folder in STASIS_APPLIANCE (tests/lab/session sets both).

# shellcheck source=scripts/lib.sh
. "${BASH_SOURCE[0]%/*}/../../scripts/lib.sh"

top=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)
: "${STASIS:=$top/build/cli/stasis}" "${STASIS_APPLIANCE:=$top/build/appliance}"
export STASIS STASIS_APPLIANCE
stasis() { "$STASIS" "$@"; }

# A home of its own for each test; short, because sockets' paths are.
work=$(mktemp -d "${TMPDIR:-/tmp}/e2e.XXXXXX")
export STASIS_HOME=$work/home XDG_RUNTIME_DIR=$work/run
mkdir -m 700 "$XDG_RUNTIME_DIR"
failures=0

# shellcheck disable=SC2317  # called by trap
leave() {
    local status=$? machine
    trap - EXIT
    for machine in $(stasis ls -q 2>/dev/null); do
        if [[ $status -ne 0 || $failures -ne 0 ]]; then
            printf -- '--- last lines of the console of %s\n' "$machine"
            stasis logs "$machine" 2>/dev/null | tail -n 15 || true
            printf -- '--- its log\n'
            tail -n 15 "$STASIS_HOME"/machines/"$machine"/machine.log 2>/dev/null || true
        fi
        stasis kill "$machine" >/dev/null 2>&1 || true
    done
    rm -rf "$work"
    [[ $status -ne 0 || $failures -eq 0 ]] || status=1
    exit "$status"
}
trap leave EXIT

skip() {
    echo "skip: $*"
    exit 77
}

# A step that must work; says what it does, and stops the test where it fails.
must() {
    printf '$ %s\n' "$*"
    "$@" || die "exit code $? from: $*"
}

# expect WHAT WANTED GOT, and WANTED as a pattern
expect() {
    if [[ $2 == "$3" ]]; then
        printf 'ok: %s\n' "$1"
    else
        printf 'FAILED: %s: wanted %q, got %q\n' "$1" "$2" "$3"
        failures=$((failures + 1))
    fi
}

expect_like() {
    # shellcheck disable=SC2053  # a pattern
    if [[ $3 == $2 ]]; then
        printf 'ok: %s\n' "$1"
    else
        printf 'FAILED: %s: wanted something like %q, got %q\n' "$1" "$2" "$3"
        failures=$((failures + 1))
    fi
}

# expect_true WHAT CMD...
expect_true() {
    local what=$1
    shift
    if "$@"; then
        printf 'ok: %s\n' "$what"
    else
        printf 'FAILED: %s: %s\n' "$what" "$*"
        failures=$((failures + 1))
    fi
}

# expect_exit CODE CMD...: also that a failure says something, and that it says
# it on stderr. What it said is in $said.
expect_exit() {
    local wanted=$1 status=0
    shift
    "$@" >"$work/stdout" 2>"$work/stderr" </dev/null || status=$?
    said=$(<"$work/stderr")
    expect "exit code of: ${*//"$STASIS"/stasis}" "$wanted" "$status"
    [[ $wanted -eq 0 || -n $said ]] || expect "an error says something" "a message" ''
    [[ $status -eq "$wanted" ]] || printf '    it said: %s\n' "$said"
}

# wait_until SECONDS CMD...: until CMD succeeds.
wait_until() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < end)) || return 1
        sleep 0.1
    done
}

# guest MACHINE COMMAND: on its serial console; prints what it printed.
guest() {
    "$top/scripts/console-do" --timeout 90 "$@" || {
        local status=$?
        say "exit code $status in $1 from: ${*:2}"
        return "$status"
    }
}

# uploaded MACHINE ADDRESS PORT: does what a guest sends to this host arrive?
uploaded() {
    local listener sum
    mkfifo "$work/upload" # nc hangs up at the end of its input
    "$(find_busybox)" nc -l -p "$3" <>"$work/upload" >"$work/uploaded" &
    listener=$!
    sum=$(guest "$1" "head -c 5000000 /dev/urandom >/tmp/upload
        until nc $2 $3 </tmp/upload; do sleep 1; done; md5sum </tmp/upload; rm /tmp/upload" | tail -n 1)
    wait "$listener"
    rm "$work/upload"
    [[ $sum == "$(md5sum <"$work/uploaded")" ]]
}

import_appliance() {
    must stasis import appliance:1 --kernel "$STASIS_APPLIANCE/vmlinuz" \
        --initrd "$STASIS_APPLIANCE/initrd" --cmdline "$(<"$STASIS_APPLIANCE/cmdline")" \
        --disk "$STASIS_APPLIANCE/disk.raw" --memory 192M
}

# boot_appliance NAME [OPTION]...: imports it if need be, and waits for its shell.
boot_appliance() {
    stasis images -q | grep -q '^appliance' || import_appliance
    must stasis run appliance:1 --name "$1" -d "${@:2}"
    must "$top/scripts/console-do" --timeout 120 --boot "$1"
}

state_of() { stasis ls --json | jq -r --arg name "$1" '.[] | select(.name == $name) | .state'; }
is_state() { [[ $(state_of "$1") == "$2" ]]; }
