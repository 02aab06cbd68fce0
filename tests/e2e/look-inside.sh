#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Checkpoints can be listed, compared and read without restoring them.

# shellcheck source=tests/e2e/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

[[ -e /dev/fuse ]] || skip "there is no /dev/fuse"
boot_appliance web
guest web 'echo one >/root/note; sync'
must stasis save web@one
guest web 'echo two >/root/note; head -c 307200 /dev/urandom >/root/noise; sync'
sum=$(guest web 'md5sum </root/noise')
must stasis save web@two

expect_like "the history has both" '*one*two*' "$(stasis history web | tr '\n' ' ')"
expect_true "as JSON, it is an array" jq -e 'type == "array" and length >= 2' >/dev/null < <(stasis history web --json)
expect_true "they differ by blocks" test -n "$(stasis diff --blocks web@one web@two)"

mkdir "$work/mnt"
must stasis mount "$work/mnt"
one=$work/mnt/machines/web/checkpoints/one
two=$work/mnt/machines/web/checkpoints/two
root=("$two"/disk0/p*/root)
expect "a file of the guest" two "$(cat "${root[0]}/note")"
expect "a bigger one, with all its bytes" "$sum" "$(md5sum <"${root[0]}/noise")"
expect "the first checkpoint as well" one "$(cat "$one"/disk0/p*/root/note)"
expect "the disk has its size" "$(stat -c %s "$STASIS_APPLIANCE/disk.raw")" "$(stat -L -c %s "$two/disk0.raw")"
expect "memory has its size" $((192 << 20)) "$(stat -L -c %s "$two/memory.raw")"
expect_true "nothing can be written" bash -c "! touch '$two/x' 2>/dev/null"
must stasis umount "$work/mnt"

expect_true "df counts" jq -e '.' >/dev/null < <(stasis df --json)
must stasis verify
