#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Clones of a checkpoint count on from the same value, each on its own disk.

# shellcheck source=tests/e2e/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

boot_appliance web
guest web 'counter start; echo one >/root/note; sync; sleep 1'
value=$(guest web 'counter value')
must stasis save web@one
must stasis clone web@one twin -n 3
mapfile -t twins < <(stasis ls -q | grep '^twin' | sort)
expect "there are three" 3 "${#twins[@]}"
for twin in "${twins[@]}"; do
    expect_true "$twin counts on" test "$(guest "$twin" 'counter value')" -ge "$value"
    guest "$twin" "echo $twin >>/root/note; sync"
done
for twin in "${twins[@]}"; do
    expect "$twin has a disk of its own" "one $twin" "$(guest "$twin" 'cat /root/note' | tr '\n' ' ' | sed 's/ $//')"
done
expect "the first machine's disk is as it was" one "$(guest web 'cat /root/note')"

# A clone is a machine like any other: saved, it stands in the history.
must stasis save "${twins[0]}@later"
expect_like "its checkpoint is in its history" '*later*' "$(stasis history "${twins[0]}")"

expect_exit 12 stasis clone web@one web
expect_exit 10 stasis clone web@nothing other
