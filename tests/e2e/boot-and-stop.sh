#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A stock Linux boots from its virtio disk, can be used, and ends orderly.

# shellcheck source=tests/e2e/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

boot_appliance web
expect "a booted machine runs" running "$(state_of web)"
expect_like "the guest is stock Debian's kernel" 'Linux 6.*-cloud-amd64' "$(guest web 'uname -sr')"
expect_like "its root is the disk, read-write" '*/dev/vda on / type ext4 (rw*' "$(guest web mount)"
expect "it has a source of entropy" virtio_rng.0 "$(guest web 'cat /sys/class/misc/hw_random/rng_current')"
guest web 'echo kept >/root/kept; sync'

must stasis pause web
expect "a paused machine says so" paused "$(state_of web)"
must stasis resume web
expect "it answers again" 42 "$(guest web 'expr 6 \* 7')"

must stasis stop web
must wait_until 60 is_state web stopped
expect_like "the guest ended by itself" '*reboot: Power down*' "$(stasis logs web | tr -d '\r')"

must stasis resume web
expect "its disk kept what was written" kept "$(guest web 'cat /root/kept')"
must stasis kill web
expect "a killed machine is stopped" stopped "$(state_of web)"
must stasis rm web
expect "a removed one is gone" '' "$(state_of web)"
