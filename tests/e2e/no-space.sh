#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A store on a full disk refuses cleanly, and what it had is whole.

# shellcheck source=tests/e2e/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

mkdir "$work/small"
mount -t tmpfs -o size=48m tmpfs "$work/small" 2>/dev/null || skip "cannot mount a tmpfs (not root?)"
# shellcheck disable=SC2317  # called by trap
unmount_and_leave() {
    local status=$?
    umount -l "$work/small"
    (exit "$status")
    leave
}
trap unmount_and_leave EXIT
STASIS_HOME=$work/small/home

boot_appliance web
must stasis save web@fits
guest web 'head -c 60000000 /dev/urandom >/tmp/noise'
expect_exit 1 stasis save web@too-much
expect_like "the error says what is full" '*[Ss]pace*' "$said"
expect "the machine runs on" running "$(state_of web)"
expect "it answers" alive "$(guest web 'echo alive')"
must stasis verify
must stasis restore web@fits --discard
expect "the checkpoint that fitted restores" alive "$(guest web 'echo alive')"
