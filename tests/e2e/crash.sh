#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Killed at any moment, machines and saves leave a store that is whole.

# shellcheck source=tests/e2e/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

boot_appliance web
guest web 'counter start; sync'
must stasis save web@base

pid_of() { stasis inspect "$1" | jq -r '.pid // empty'; }
for round in 1 2 3; do
    guest web "head -c 4194304 /dev/urandom >/root/noise$round; sync"
    stasis save "web@round$round" >/dev/null 2>&1 &
    saver=$!
    sleep "0.$((RANDOM % 5))"
    pid=$(pid_of web)
    [[ -n $pid ]] || die "inspect does not tell the pid of web"
    kill -9 "$pid"
    wait "$saver" || true
    must wait_until 10 is_state web stopped
    must stasis verify
    must stasis restore web@base --discard
    expect_true "round $round: the machine counts" test "$(guest web 'counter value')" -ge 0
done
expect_true "the first checkpoint is still there" test -n "$(stasis history web | grep base)"
