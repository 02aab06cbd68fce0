#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A checkpoint is complete: in another store, on another host, it goes on.

# shellcheck source=tests/e2e/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

boot_appliance web
guest web 'counter start; echo packed >/root/note; sync; sleep 1'
value=$(guest web 'counter value')
must stasis save web@one
must stasis tag web@one travel:1
must stasis push travel:1 "oci:$work/layout:1"
stasis send web@one >"$work/stream"
must stasis stop web
must wait_until 60 is_state web stopped

STASIS_HOME=$work/second
stasis receive <"$work/stream" >"$work/received" || die "cannot receive"
id=$(grep -oE '[0-9a-f]{8,}' "$work/received" | head -n 1)
must stasis clone "$id" sent
expect_true "sent, it counts on" test "$(guest sent 'counter value')" -ge "$value"
expect "sent, it has its file" packed "$(guest sent 'cat /root/note')"
must stasis kill sent

STASIS_HOME=$work/third
must stasis pull "oci:$work/layout:1" travel:1
must stasis run travel:1 --name pulled -d
expect_true "pulled, it counts on" test "$(guest pulled 'counter value')" -ge "$value"
expect "pulled, it has its file" packed "$(guest pulled 'cat /root/note')"
must stasis kill pulled
must stasis verify
