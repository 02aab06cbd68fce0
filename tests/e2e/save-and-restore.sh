#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A checkpoint of a running machine holds memory and disk of one instant, and
# the machine can be put back to it in place.

# shellcheck source=tests/e2e/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

boot_appliance web
guest web 'counter start; echo one >/root/note; sync; sleep 1'
guest web 'head -c 8388608 /dev/urandom >/tmp/memory; md5sum /tmp/memory >/tmp/memory.sum' # /tmp is RAM
before=$(guest web 'counter value')
must stasis save web@one
expect "the machine goes on while it is saved" running "$(state_of web)"
after=$(guest web 'counter value')
expect_true "its counter went on" test "$after" -ge "$before"

guest web 'echo two >/root/note; sync; head -c 8388608 /dev/zero >/tmp/memory; sleep 10'
late=$(guest web 'counter value')
must stasis restore web@one --discard
now=$(guest web 'counter value')
expect_true "the counter went back ($before <= $now < $late)" test "$now" -ge "$before" -a "$now" -lt "$late"
expect "the file went back" one "$(guest web 'cat /root/note')"
expect_like "memory went back" '*OK' "$(guest web 'md5sum -c /tmp/memory.sum')"
sleep 1
expect_true "the counter counts on" test "$(guest web 'counter value')" -gt "$now"

# The disk is whole: what is written now is there after a stop.
guest web 'echo three >>/root/note; sync'
must stasis stop web
must wait_until 60 is_state web stopped
must stasis restore web@one --discard
expect "a stopped machine can be put back too" one "$(guest web 'cat /root/note')"
must stasis verify
