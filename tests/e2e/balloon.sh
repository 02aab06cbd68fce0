#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Memory that a guest frees, or gives to its balloon, is no part of the next
# checkpoint.

# shellcheck source=tests/e2e/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

readonly MIB=$((1 << 20)) FILE_MIB=40
figure() { stasis balloon "$1" --json | jq ".$2"; }
reaches() { [[ $(figure "$1" "$2") -ge $3 ]]; }
is_now() { [[ $(figure "$1" "$2") -eq $3 ]]; }
# What all checkpoints show together: pages that are not zero.
logical() { stasis df --json | jq .logical_bytes; }

# save_size REF: how much the checkpoint shows.
save_size() {
    local before
    before=$(logical)
    stasis save "$1" >/dev/null || die "cannot save $1"
    echo $(($(logical) - before))
}

boot_appliance web
expect_true "the guest tells how much memory it has" \
    wait_until 60 reaches web statistics.total_bytes $((100 * MIB))
expect_true "and not more than there is" test "$(figure web statistics.total_bytes)" -le $((192 * MIB))

# Twice, so that what the first save takes with it is not counted.
guest web "dd if=/dev/urandom of=/tmp/file bs=1M count=$FILE_MIB 2>/dev/null; sync"
save_size web@before >/dev/null
full=$(save_size web@full)
dropped=$(figure web dropped_bytes)
guest web 'rm /tmp/file'
# Linux reports whole blocks of some MiB: not all that it has freed lies in such.
expect_true "what the guest frees goes back to the host" \
    wait_until 90 reaches web dropped_bytes $((dropped + FILE_MIB * MIB / 2))
dropped=$(($(figure web dropped_bytes) - dropped))
freed=$(save_size web@freed)
printf 'a checkpoint of %d MiB, and of %d MiB with %d MiB freed, of which %d MiB given back\n' \
    $((full / MIB)) $((freed / MIB)) "$FILE_MIB" $((dropped / MIB))
expect_true "the next checkpoint is smaller by it" test $((full - freed)) -ge $((dropped - 4 * MIB))

# A balloon.
expect "there is no balloon yet" 0 "$(figure web actual_bytes)"
must stasis balloon web 48M
expect_true "the balloon fills" wait_until 60 is_now web actual_bytes $((48 * MIB))
must stasis save web@small
must stasis balloon web 0
expect_true "and empties" wait_until 60 is_now web actual_bytes 0
must stasis restore web@small --discard
expect "it is as large as it was saved" $((48 * MIB)) "$(figure web actual_bytes)"
must stasis balloon web 0
expect_true "and empties again" wait_until 60 is_now web actual_bytes 0

# The guest's memory is whole: it can use what it had given up.
sum=$(guest web "dd if=/dev/urandom of=/tmp/file bs=1M count=16 2>/dev/null; md5sum </tmp/file")
must stasis clone web twin
expect "a clone has it, too" "$sum" "$(guest twin 'md5sum </tmp/file')"

expect_exit 2 stasis balloon web 192M
expect_exit 2 stasis balloon web plenty
expect_exit 10 stasis balloon nobody 1M
