#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Linux's time over pauses and restores: it stands still, or steps to now, and never
# goes back. What it may have moved by is bounded by the host's clock.

# shellcheck source=tests/e2e/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

readonly HOLD=8 # seconds
host_ms() { date +%s%3N; }
# Milliseconds since the guest booted, and of its wall clock.
uptime_ms() { guest "$1" "sed 's/\\.\\([0-9]*\\) .*/\\10/' /proc/uptime"; }
wall_s() { guest "$1" 'date +%s'; }

# held WHAT FROM TO BEFORE AFTER: guest time went from FROM to TO while the host's went
# from BEFORE to AFTER, and stood still for HOLD of that. Two clocks may differ by 1 %.
held() {
    local moved=$(($3 - $2)) passed=$(($5 - $4))
    printf '%s: guest %d ms, host %d ms\n' "$1" "$moved" "$passed"
    expect_true "$1: never backwards" test "$moved" -ge 0
    expect_true "$1: time stood still" test "$moved" -le $((passed - HOLD * 1000 + passed / 100))
}
stepped() {
    local moved=$(($3 - $2))
    printf '%s: guest %d ms\n' "$1" "$moved"
    expect_true "$1: time has passed" test "$moved" -ge $((HOLD * 990))
}
# Its clock was set from a chip that counts seconds.
is_now() {
    local before after wall
    before=$(($(date +%s) - 2))
    wall=$(wall_s "$1")
    after=$(($(date +%s) + 2))
    ((wall >= before && wall <= after)) || printf 'the guest has %s, the host %s\n' "$wall" "$after"
    ((wall >= before && wall <= after))
}

boot_appliance web
guest web 'cat /sys/devices/system/clocksource/clocksource0/current_clocksource'

before=$(host_ms) from=$(uptime_ms web)
must stasis pause web
sleep "$HOLD"
must stasis resume web
to=$(uptime_ms web) after=$(host_ms)
held "a pause" "$from" "$to" "$before" "$after"

from=$(uptime_ms web)
must stasis pause web
sleep "$HOLD"
must stasis resume web --clock host
to=$(uptime_ms web)
stepped "a pause with --clock host" "$from" "$to"
expect_true "and its wall clock is the host's" is_now web

before=$(host_ms) from=$(uptime_ms web)
must stasis save web@one
must stasis restore web@one --discard --paused
sleep "$HOLD"
must stasis resume web
to=$(uptime_ms web) after=$(host_ms)
held "a restore that waits" "$from" "$to" "$before" "$after"

must stasis clone web@one now --clock host
to=$(uptime_ms now)
stepped "a clone with --clock host" "$from" "$to"
expect_true "and its wall clock is the host's" is_now now

# Nothing hangs: timers go on.
guest web 'sleep 1'
guest now 'sleep 1'
expect "the guest's kernel saw no lockup" 0 "$(guest now "dmesg | grep -ci -e lockup -e 'rcu.*stall'; true")"
