#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A whole Debian: systemd, ext4, an address, commands and files; fio finds on its disk
# what it wrote, also through a save in its midst; and when it has stopped, its file system
# is clean. With STASIS_DEBIAN_CPUS=N, with that many CPUs (2) and all the rest, which takes
# twice as long: the same in a clone with a name of its own, and in what is put back.
# shellcheck disable=SC2016  # scripts are for the guest

# shellcheck source=tests/e2e/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

cpus=${STASIS_DEBIAN_CPUS:-2}
appliance=${STASIS_APPLIANCE_DEBIAN:-$top/build/appliance-debian}
[[ -s $appliance/cmdline ]] || skip "there is no Debian in $appliance (make it as root:" \
    "scripts/appliance --debian --include fio $appliance)"
[[ -e /dev/fuse ]] || skip "there is no /dev/fuse"
busybox=$(find_busybox) || skip "there is no static busybox"

# How long things take is told: a whole Debian in an emulated CPU is at the edge.
step() { printf -- '--- %4d s: %s\n' "$SECONDS" "$*"; }
answers() { stasis exec "$1" -- true 2>/dev/null; }
in_debian() { stasis exec deb -- "$@"; }

# verified MACHINE: fio, a service in there, comes to its end without an error.
fio_ended() { [[ $(stasis exec "$1" -- systemctl show -P SubState verify) =~ ^(exited|failed)$ ]]; }
verified() {
    wait_until 240 fio_ended "$1" || return
    [[ $(stasis exec "$1" -- systemctl show -P Result -P ExecMainStatus verify) != $'success\n0' ]] || return 0
    stasis exec "$1" -- journalctl -u verify | tail -n 20
    return 1
}

# clean MACHINE: it stops when asked, and what it leaves needs no repair, not even from
# its journal. The present of a machine that does not run is in a clone of it.
clean() {
    local disk=$work/past/machines/$1-end/latest/disk0.raw status=0
    stasis stop "$1" --timeout 120s || return
    stasis clone "$1" "$1-end" --paused --net none >/dev/null || return
    stasis mount "$work/past" || return
    LC_ALL=C dumpe2fs -h "$disk" >"$work/header" 2>&1 && ! grep needs_recovery "$work/header" || status=1
    fsck.ext4 -fn "$disk" >"$work/fsck" 2>&1 || status=1
    [[ $status -eq 0 ]] || cat "$work/header" "$work/fsck"
    stasis umount "$work/past" && stasis kill "$1-end" && stasis rm "$1-end" || return
    return "$status"
}

port=$((20000 + RANDOM % 20000))
mkdir "$work/www" "$work/past"
head -c 1000000 /dev/urandom >"$work/www/file"
sum=$(md5sum <"$work/www/file")
"$busybox" httpd -f -p "127.0.0.1:$port" -h "$work/www" &
server=$!
trap 'kill $server 2>/dev/null; leave' EXIT

step "import"
# tests/lab/session has done that already, where it is fast.
if [[ -d $appliance/home ]]; then
    must cp -a "$appliance/home" "$STASIS_HOME"
else
    must stasis import debian:12 --kernel "$appliance/vmlinuz" --initrd "$appliance/initrd" \
        --cmdline "$(<"$appliance/cmdline")" --disk "$appliance/disk.raw"
fi
step "boot with $cpus CPUs"
must stasis run debian:12 --name deb -d --memory 384M --cpus "$cpus"
must wait_until 300 answers deb
expect "it comes up with nothing failed" running "$(in_debian systemctl is-system-running --wait)"
expect "its target is reached" active "$(in_debian systemctl is-active multi-user.target)"
step "$(in_debian systemd-analyze time | head -n 1)"
expect "its CPUs are there" "$cpus" "$(in_debian nproc)"
expect "its root is ext4 on a virtio disk" "ext4 /dev/vda" "$(in_debian findmnt -rno FSTYPE,SOURCE /)"

has_address() { [[ $(stasis exec "$1" -- ip -4 addr show eth0) == *10.0.2.15/24* ]]; }
expect_true "it gets an address" wait_until 60 has_address deb
client() { stasis exec "$1" -- sh -c 'grep CLIENTID /run/systemd/netif/leases/*'; }
client=$(client deb)
fetched() { stasis exec "$1" -- sh -c "busybox wget -q -O - http://10.0.2.2:$port/file | md5sum"; }
expect "it fetches a file from the host" "$sum" "$(fetched deb)"

step "files in and out"
mkdir -p "$work/tree/sub"
cp "$work/www/file" "$work/tree/sub/data"
echo 'echo ran' >"$work/tree/script"
chmod 750 "$work/tree/script"
ln -s sub/data "$work/tree/link"
must stasis cp "$work/tree" deb:/root/tree
expect "modes and owners are right" "750 0" "$(in_debian stat -c '%a %u' /root/tree/script)"
must stasis cp deb:/root/tree "$work/back"
expect_true "a tree comes back as it went" diff -r "$work/tree" "$work/back"
expect "and its mode" 750 "$(stat -c %a "$work/back/script")"
expect_exit 42 stasis exec deb -- sh -c 'echo failing >&2; exit 42'

# It writes, and then reads all of it back.
step "fio"
must in_debian systemd-run --quiet --unit verify --remain-after-exit \
    fio --name verify --filename /root/fio --size 8M --rw randwrite --bs 4k --direct 1 \
    --ioengine libaio --iodepth 8 --verify crc32c --verify_fatal 1 --fsync 256
writes() { in_debian sh -c '[ "$(stat -c %b /root/fio)" -gt 500 ]' 2>/dev/null; }
expect_true "it writes" wait_until 60 writes
step "save"
must stasis save deb@busy
expect_true "fio finds what it wrote" verified deb
step "stop"
expect_true "after a stop its file system is clean" clean deb

[[ -n ${STASIS_DEBIAN_CPUS-} ]] || exit 0
step "clone"
id=$(stasis cat deb@busy:/etc/machine-id)
cloned=$(date +%s)
must stasis clone deb@busy twin --identity --clock host
before=$(date +%s) there=$(stasis exec twin -- date +%s) after=$(date +%s)
expect_true "a clone has the time of now ($before <= $there <= $after, to 2 s)" \
    test "$there" -ge "$((before - 2))" -a "$there" -le "$((after + 2))"
expect "a name of its own" twin "$(stasis exec twin -- hostname)"
expect_true "a machine id of its own" test "$(stasis exec twin -- cat /etc/machine-id)" != "$id"
expect_true "its address" has_address twin
renewed() { [[ $(stasis exec twin -- sh -c 'stat -c %Y /run/systemd/netif/leases/*') -ge "$cloned" ]]; }
expect_true "for which it has asked again" wait_until 60 renewed
expect_true "by its own name" test "$(client twin)" != "$client"
expect_true "fio goes on in it" verified twin
expect_true "and its file system is clean" clean twin

step "restore"
must stasis restore deb@busy --discard
expect_true "put back, fio goes on" verified deb
expect "it fetches the file" "$sum" "$(fetched deb)"
expect_true "after a restore its file system is clean" clean deb
step "end"
