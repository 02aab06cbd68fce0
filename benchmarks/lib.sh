# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the benchmarks share. Source it after scripts/lib.sh.

# figure NAME OURS REFERENCE GOAL [lower|higher] UNIT: prints one line,
#   name  ours  reference  ratio  goal  ok|short
# The ratio says how much better than the reference ours is, whichever way
# better goes for this figure; the goal is the least ratio to be content with, or,
# as =NUMBER, what ours itself has to reach, however fast the reference is here.
figure() {
    awk -v name="$1" -v ours="$2" -v reference="$3" -v goal="$4" -v better="${5:-lower}" -v unit="${6-}" '
        BEGIN {
            ratio = better == "lower" ? reference / ours : ours / reference
            reached = ratio
            shown = ">=" goal
            if (sub(/^=/, "", goal)) {
                reached = better == "lower" ? goal / ours : ours / goal
                shown = (better == "lower" ? "<=" : ">=") goal unit
                goal = 1
            }
            printf "%-32s %12s %12s %8.2f %8s  %s\n", name, ours unit, reference unit, ratio,
                shown, (reached >= goal) ? "ok" : "short"
        }'
}

# median NUMBER...
median() { printf '%s\n' "$@" | sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

skip() {
    echo "skip: $*"
    exit 77
}

# Prints the folder of the real data (benchmarks/data), or skips the benchmark.
bench_data() {
    local answer status=0
    answer=$("${BASH_SOURCE[0]%/*}/data") || status=$?
    # The reason goes where it is seen, for this runs in a command substitution.
    [[ $status -eq 0 ]] || { printf '%s\n' "$answer" >&2 && return "$status"; }
    printf '%s\n' "$answer"
}
