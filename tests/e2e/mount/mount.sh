#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The time-travel file system: what mke2fs and sfdisk made goes into a store and
# is read back through the kernel. Needs /dev/fuse; where loop devices can be
# mounted, also a disk whose journal a real kernel left dirty.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin

tool=$1
[[ -r /dev/fuse && -w /dev/fuse ]] || {
    echo "skip: /dev/fuse cannot be opened"
    exit 77
}
work=$(mktemp -d "${TMPDIR:-/tmp}/mount.XXXXXX")
store=$work/store mnt=$work/mnt
failures=0

# shellcheck disable=SC2317  # called by trap
leave() {
    local status=$?
    trap - EXIT
    "$tool" umount "$mnt" 2>/dev/null || true
    umount "$work/loop" 2>/dev/null || true
    rm -rf "$work"
    [[ $status -ne 0 || $failures -eq 0 ]] || status=1
    exit "$status"
}
trap leave EXIT

ok() {
    local what=$1
    shift
    if "$@"; then
        echo "ok: $what"
    else
        echo "FAILED: $what: $*"
        failures=$((failures + 1))
    fi
}
same() { [[ $1 == "$2" ]] || { printf 'wanted %q, got %q\n' "$1" "$2"; false; }; }
fails_with() {
    local code=$1 got=0
    shift
    timeout 60 "$@" >"$work/out" 2>&1 || got=$?
    [[ $got -eq $code ]] || { echo "exit code $got"; cat "$work/out"; false; }
}
says() { grep -q -e "$1" "$work/out"; }
not() { ! "$@"; }
# Of all but links; without the fractions of seconds, which mke2fs leaves out.
attributes() {
    (cd "$1" && find . -name lost+found -prune -o -type f -printf '%T@ %p %m %U:%G %n %s\n' \
        -o -mindepth 1 -type d -printf '%T@ %p %m %U:%G\n') |
        sed 's/^\([0-9]*\)\.[0-9]*/\1/' | LC_ALL=C sort -k 2
}
eventually() {
    local end=$((SECONDS + 20))
    until "$@" 2>/dev/null; do
        ((SECONDS < end)) || return 1
        sleep 0.05
    done
}
mounted() { grep -q " $mnt " /proc/self/mountinfo; }

# ---- what there is to see ----

cd "$work"
mkdir mnt tree tree/etc tree/many tree/deep tree/deep/er
echo "from the guest" >tree/etc/hosts
ln -s /etc/hosts tree/deep/er/absolute
ln -s ../../../../../../../../etc/hosts tree/deep/er/above
ln -s er/../er/../../etc/hosts tree/deep/devious
head -c 30000001 /dev/urandom >tree/large
truncate -s 300M tree/sparse && printf end >>tree/sparse
for ((i = 1; i <= 5000; i++)); do : >"tree/many/file-$i"; done
ln tree/etc/hosts tree/hard
touch -d '2001-02-03 04:05:06' tree/etc/hosts
mke2fs -q -F -t ext4 -d tree bare.img 120M 2>/dev/null

truncate -s 200M gpt.img
printf 'label: gpt\nstart=1MiB,size=120MiB\nstart=140MiB,size=40MiB\n' | sfdisk -q gpt.img
dd if=bare.img of=gpt.img bs=1M seek=1 conv=notrunc status=none
if command -v mkfs.vfat >/dev/null; then
    mkfs.vfat -C fat.img 20480 >/dev/null
else # a boot sector is enough to be recognised
    truncate -s 20M fat.img
    printf '\xeb\x3c\x90MSDOS5.0\x00\x02\x04\x01\x00\x02\x00\x02\x00\xa0\xf8\x28\x00' |
        dd of=fat.img conv=notrunc status=none
    printf 'FAT16   ' | dd of=fat.img bs=1 seek=54 conv=notrunc status=none
    printf '\x55\xaa' | dd of=fat.img bs=1 seek=510 conv=notrunc status=none
fi
dd if=fat.img of=gpt.img bs=1M seek=140 conv=notrunc status=none
{ head -c 1M /dev/urandom && head -c 2M /dev/zero && head -c 1M /dev/urandom; } >memory
echo "a kernel" >kernel

first=$("$tool" checkpoint "$store" image=registry.example:5000/demo/app tag=1 kernel=kernel disk=bare.img)
"$tool" machine "$store" web "$first"
second=$("$tool" checkpoint "$store" machine=web name=patched parent="$first" \
    memory=memory kernel=kernel disk=bare.img disk=gpt.img)

# ---- mounting ----

ok "mounting where nothing is: not found" fails_with 10 "$tool" mount "$store" "$work/nowhere"
ok "and says what to do" says "mkdir"
ok "mounting on what is not empty is refused" fails_with 1 "$tool" mount "$store" "$work/tree"
ok "a store that is not there is said before anything is mounted" \
    fails_with 10 "$tool" mount "$work/nothing" "$mnt"
ok "nothing is mounted then" not mounted
ok "unmounting what is not ours is refused" fails_with 1 "$tool" umount "$mnt"
"$tool" mount "$store" "$mnt"
ok "it is mounted when the command returns" mounted
ok "mounting twice is busy" fails_with 11 "$tool" mount "$store" "$mnt"
ok "and says what to do" says "umount"

# ---- names ----

image=$mnt/images/registry.example:5000/demo/app/1
id=$mnt/by-id/$second
ok "an image leads to its checkpoint" same "$mnt/by-id/$first" "$(realpath "$image")"
ok "so does a machine's newest" same "$id" "$(realpath "$mnt/machines/web/latest")"
ok "and a checkpoint's name" same "$id" "$(realpath "$mnt/machines/web/checkpoints/patched")"
ok "and the beginning of an id" same "$id" "$(realpath "$mnt/by-id/${second:0:8}")"
ok "but not too short a one" not test -e "$mnt/by-id/${second:0:7}"
ok "ids are listed in full" same "$(printf '%s\n' "$first" "$second" | sort)" "$(ls "$mnt/by-id")"
ok "the parent is a link" same "$mnt/by-id/$first" "$(realpath "$id/parent")"
ok "the first has no parent" not test -L "$mnt/by-id/$first/parent"
ok "the first has no memory" not test -e "$mnt/by-id/$first/memory.raw"
ok "the manifest's digest is the id" same "$second  -" "$(sha256sum <"$id/manifest.json")"
"$tool" checkpoint "$store" image=later tag=new disk=fat.img >later
ok "a new image is there at once" test -e "$mnt/images/later/new/disk0.raw"
ok "as is its checkpoint" test -d "$mnt/by-id/$(cat later)"

# ---- bytes ----

ok "memory" cmp memory "$id/memory.raw"
ok "a kernel" cmp kernel "$id/kernel"
ok "a disk" cmp bare.img "$id/disk0.raw"
ok "a disk with partitions" cmp gpt.img "$id/disk1.raw"
ok "a partition" cmp bare.img "$id/disk1/p1.raw"
ok "a partition that cannot be browsed" cmp <(head -c 20M fat.img) <(head -c 20M "$id/disk1/p2.raw")
ok "is not a folder" not test -e "$id/disk1/p2"
ok "its note says what it is" grep -q "content: vfat" "$id/disk1/p2.note"
cp --sparse=auto "$id/memory.raw" copied
# SEEK_HOLE is 4, SEEK_DATA 3.
perl -e 'open(F, "<", $ARGV[0]) or die; $hole = sysseek(F, 0, 4); $data = sysseek(F, $hole, 3);
    exit !($hole == 1 << 20 && $data == 3 << 20)' "$id/memory.raw" && seek=0 || seek=1
ok "zero pages of memory are holes" same 0 "$seek"

# ---- files of the guest ----

for root in "$image/disk0/p0" "$id/disk1/p1"; do
    ok "all files are as they were put in" diff -r --no-dereference -x lost+found -x absolute -x above -x devious tree "$root"
    ok "names, modes, owners, sizes, links, times are" cmp <(attributes tree) <(attributes "$root/")
    for link in deep/er/absolute deep/er/above deep/devious; do
        ok "the link $link stays inside" same "from the guest" "$(cat "$root/$link")"
    done
    ok "hard links are one file" test "$root/hard" -ef "$root/etc/hosts"
    ok "5000 names" same 5000 "$(find "$root/many" -type f | wc -l)"
    ok "nothing can be written" fails_with 1 touch "$root/etc/hosts"
    ok "nothing can be made" fails_with 1 mkdir "$root/new"
done
ok "a name that is not there" not test -e "$id/disk0/p0/etc/nothing"
ok "a partition that is not there" not test -e "$id/disk1/p3"
ok "no note of a journal that was clean" not grep -q journal "$id/disk0/p0.note"

# ---- two at once, many at once ----

for ((i = 0; i < 8; i++)); do
    cmp tree/large "$id/disk$((i % 2))/p$((i % 2))/large" &
    jobs+=($!)
done
for job in "${jobs[@]}"; do
    ok "readers do not disturb each other" wait "$job"
done

# ---- ends ----

exec 7<"$id/kernel"
ok "a mount in use is busy" fails_with 11 "$tool" umount "$mnt"
ok "and says what to do" says "fuser"
exec 7<&-
"$tool" umount "$mnt"
ok "it is gone" not mounted

"$tool" mount -f "$store" "$mnt" 2>said &
keeper=$!
eventually test -d "$id"
ls "$id/disk0/p0" >/dev/null
kill -TERM "$keeper"
ok "SIGTERM ends it without error" wait "$keeper"
ok "and without a word" same "" "$(cat said)"
ok "and unmounts" not mounted

"$tool" mount -f "$store" "$mnt" &
keeper=$!
eventually test -d "$id"
server=$(cat "/proc/$keeper/task/$keeper/children")
ok "the server may gain no privileges" grep -q 'NoNewPrivs:.*1' "/proc/${server// /}/status"
ok "and is confined by seccomp" grep -q 'Seccomp:.*2' "/proc/${server// /}/status"
kill -KILL "${server// /}"
wait "$keeper" || true
ok "when the server dies, the mount goes" not mounted

"$tool" mount -f "$store" "$mnt" &
keeper=$!
eventually test -d "$id"
kill -KILL "$keeper"
wait "$keeper" 2>/dev/null || true
ok "kill -9 leaves a dead mount point" eventually not test -d "$mnt"
ok "on which one cannot mount" fails_with 11 "$tool" mount "$store" "$mnt"
ok "and it says what to do" says "stasis umount"
ok "which works" "$tool" umount "$mnt"
ok "and leaves nothing" not mounted

# ---- a journal that a kernel left ----

mkdir loop
truncate -s 64M live.img
mke2fs -q -F -t ext4 live.img
if mount -o loop live.img loop 2>/dev/null; then
    cp -r tree/etc tree/deep loop/
    sync -f loop
    mkdir loop/new
    for ((i = 0; i < 300; i++)); do echo "$i" >"loop/new/$i"; done
    rm -r loop/deep
    touch -d '2100-01-01 00:00:00.123456789 UTC' loop/new/7
    sync -f loop
    cp live.img crashed.img # as a checkpoint would see it
    umount loop
    crashed=$("$tool" checkpoint "$store" image=crashed tag=1 disk=crashed.img)
    "$tool" mount "$store" "$mnt"
    root=$mnt/by-id/$crashed/disk0/p0
    if debugfs -R features crashed.img 2>/dev/null | grep -q needs_recovery; then
        ok "the note tells of the replay" grep -q "replayed" "$mnt/by-id/$crashed/disk0/p0.note"
    fi
    ok "files made last are there" same "$(seq 0 299 | sort)" "$(cat "$root"/new/* | sort)"
    ok "files removed last are not" not test -e "$root/deep"
    ok "times after 2038 with nanoseconds" same "4102444800.123456789" \
        "$(stat -c %.9Y "$root/new/7")"
    cp crashed.img checked.img
    e2fsck -y -E journal_only checked.img >/dev/null 2>&1 || true
    mkdir dumped
    debugfs -R "rdump / dumped" checked.img >/dev/null 2>&1
    ok "all is as after e2fsck's replay" diff -r dumped "$root"
    "$tool" umount "$mnt"
else
    echo "skipped: loop devices cannot be mounted here"
fi
