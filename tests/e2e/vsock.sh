#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Streams between host and guest: both ways, across a save, reset by a restore, and in
# clones at once.

# shellcheck source=tests/e2e/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

peer=${STASIS_PEER:-${STASIS%/cli/stasis}/tests/e2e/vsock_peer}
[[ -x $peer ]] || skip "there is no $peer"

# The program comes into the guest by a disk of its own.
mkdir "$work/tools"
cp "$peer" "$work/tools/peer"
truncate -s 8M "$work/tools.raw"
must mke2fs -q -F -t ext4 -d "$work/tools" "$work/tools.raw"
must stasis import appliance:1 --kernel "$STASIS_APPLIANCE/vmlinuz" \
    --initrd "$STASIS_APPLIANCE/initrd" --cmdline "$(<"$STASIS_APPLIANCE/cmdline")" \
    --disk "$STASIS_APPLIANCE/disk.raw" --disk "$work/tools.raw" --memory 192M
head -c 10000000 /dev/urandom >"$work/data"
sum=$(md5sum <"$work/data")

socket_of() { stasis inspect "$1" | jq -r .process.vsock; }
# to_guest MACHINE PORT: joins standard input and output to a port of the guest.
to_guest() { timeout 60 "$peer" join "guest:$(socket_of "$1"):$2"; }
echoed() { to_guest "$1" 5000 <"$work/data" | md5sum; }
# from_guest MACHINE: the guest sends 10 MB to a program of the host and gets it back.
from_guest() {
    # shellcheck disable=SC2016  # for the guest
    guest "$1" 'head -c 10000000 /dev/urandom >/tmp/data; a=$(md5sum </tmp/data)
        b=$(/mnt/peer join vsock:2:6000 </tmp/data | md5sum); [ "$a" = "$b" ] && echo same || echo "$a $b"' |
        tail -n 1
}
servers=()
# serve MACHINE: a program of the host, for port 6000.
serve() {
    "$peer" echo "unix:$(socket_of "$1")_6000" &
    servers+=("$!")
}
trap 'kill "${servers[@]}" 2>/dev/null; leave' EXIT

boot_appliance web
socket=$(socket_of web)
expect "the socket is for its owner" 600 "$(stat -c %a "$socket")"
guest web 'mount -o ro /dev/vdb /mnt && (/mnt/peer echo vsock:3:5000 >/tmp/served 2>&1 &)'
expect "10 MB go into the guest and come back" "$sum" "$(echoed web)"
serve web
expect_true "a program of the host listens" wait_until 20 test -S "${socket}_6000"
expect "10 MB go out of the guest and come back" same "$(from_guest web)"
expect_exit 3 timeout 60 "$peer" join "guest:$socket:5001"
expect_like "the guest is refused where nobody listens" '*reset*' \
    "$(guest web '/mnt/peer join vsock:2:6001 </dev/null 2>&1' || true)"

# An open connection: it lives through a save, and ends in what is restored from it.
mkfifo "$work/in"
exec 8<>"$work/in"
status=$work/status
(to_guest web 5000 <"$work/in" >"$work/out" 2>/dev/null || echo $? >"$status") &
servers+=("$!")
echo before >&8
expect_true "the host hears itself" wait_until 20 grep -q before "$work/out"
must stasis save web@one
echo after >&8
expect_true "and still does after a save" wait_until 20 grep -q after "$work/out"
expect "10 MB, saved in between" "$sum" "$(
    echoed web &
    stasis save web >/dev/null
    wait $!
)"

guest web '(mkfifo /tmp/line; exec 3<>/tmp/line; /mnt/peer join vsock:2:6000 <&3 >/tmp/heard 2>&1; echo ended $? >/tmp/ended) >/dev/null 2>&1 &'
guest web 'echo hello >/tmp/line'
heard() { [[ $(guest web 'cat /tmp/heard') == *hello* ]]; }
expect_true "the guest hears itself" wait_until 20 heard
must stasis save web@two
must stasis restore web@two --discard
ended() { [[ $(guest "$1" 'cat /tmp/ended 2>/dev/null') == *"ended 4"* ]]; }
expect_true "put back, the guest's connection is reset" wait_until 20 ended web
expect_true "and the host's ended" wait_until 20 bash -c "! kill -0 ${servers[1]} 2>/dev/null"
expect "put back, 10 MB go in and come back" "$sum" "$(echoed web)"
expect "put back, 10 MB go out and come back" same "$(from_guest web)"

# Clones, each with sockets of its own.
must stasis clone web@two twin -n 2
for twin in twin-1 twin-2; do
    serve "$twin"
    echoed "$twin" >"$work/$twin.sum" &
    twins+=("$!")
done
wait "${twins[@]}"
for twin in twin-1 twin-2; do
    expect "10 MB in $twin, with the other" "$sum" "$(<"$work/$twin.sum")"
    expect_true "the old connection in $twin is reset" wait_until 20 ended "$twin"
    expect "10 MB out of $twin" same "$(from_guest "$twin")"
done
must stasis kill twin-1 twin-2
expect "no socket is left behind" '' "$(find "$XDG_RUNTIME_DIR" -name 'twin-?.vsock')"

# Paused, nothing hangs for ever; what waits goes on.
must stasis pause web
echoed web >"$work/late.sum" &
late=$!
must stasis resume web
wait "$late"
expect "what was sent to a paused machine comes back" "$sum" "$(<"$work/late.sum")"
