#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The store beside casync and restic on the same series, RAM of a guest and of its
# second boot, and its disk before and after it has installed packages: the time
# to record each, a process each, and the size of what is kept at the end.

here=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/../scripts/lib.sh"
# shellcheck source=benchmarks/lib.sh
. "$here/lib.sh"

readonly ROUNDS=3
readonly SERIES=(memory1.raw memory3.raw memory2.raw disk1.raw disk2.raw)

data=$(bench_data)
for tool in casync restic; do
    have "$tool" || skip "there is no $tool: scripts/setup bench installs it"
done
work=$(mktemp -d "$STASIS_BUILD/bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
export RESTIC_PASSWORD=bench RESTIC_CACHE_DIR=$work/cache

# record PROGRAM FILE: into the folder $work/PROGRAM
record() {
    case $1 in
    stasis) "$STASIS_BUILD/benchmarks/bench_store" put "$work/stasis" "$data/$2" ;;
    casync) casync make --store="$work/casync/store.castr" "$work/casync/$2.caibx" "$data/$2" ;;
    restic) restic --quiet --repo "$work/restic" backup "$data/$2" ;;
    esac >"$work/log" 2>&1 || die "$1 failed on $2: $(tail -n 3 "$work/log")"
}

# series PROGRAM: records everything; seconds in $took, MB in $size.
series() {
    local file begin
    rm -rf "${work:?}/$1" "$work/cache"
    case $1 in
    casync) mkdir -p "$work/casync" ;;
    restic) restic --quiet --repo "$work/restic" init >/dev/null ;;
    esac
    begin=$EPOCHREALTIME
    for file in "${SERIES[@]}"; do
        record "$1" "$file"
    done
    took=$(awk -v begin="$begin" -v end="$EPOCHREALTIME" 'BEGIN { printf "%.3f", end - begin }')
    size=$(du -s --block-size=10000 "$work/$1" | awk '{ printf "%.2f", $1 / 100 }')
}

# What is read comes from memory for all of them.
for file in "${SERIES[@]}"; do
    cat "$data/$file" >/dev/null
done
declare -A times=() sizes=()
for ((round = 0; round < ROUNDS; round++)); do
    for program in stasis casync restic; do
        series "$program"
        times[$program]+=" $took"
        sizes[$program]+=" $size"
    done
done
# shellcheck disable=SC2086  # lists of numbers
for peer in casync restic; do
    figure "store.vs.$peer.time" "$(median ${times[stasis]})" "$(median ${times[$peer]})" 10 lower s
    # At most 0.75 of the peer's size.
    figure "store.vs.$peer.size" "$(median ${sizes[stasis]})" "$(median ${sizes[$peer]})" 1.33 lower MB
done
