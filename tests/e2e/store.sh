#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# All verbs that need a store, but no machine: what goes in comes out again, and
# what is wrong gets a clear error, the right exit code, and leaves nothing.

# shellcheck source=tests/e2e/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

json() { jq -e "$1" >/dev/null; }
# put PATH OFFSET BYTES, with printf's escapes
# shellcheck disable=SC2059
put() { printf "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }

# A file that begins like a bzImage; nobody boots it here.
kernel=$work/vmlinuz
head -c 100000 /dev/urandom >"$kernel"
put "$kernel" $((0x1fe)) '\x55\xaa'
put "$kernel" $((0x202)) 'HdrS'

# A real file system, and the same with something changed.
mkdir -p "$work/files/etc"
echo 'version one' >"$work/files/etc/motd"
head -c 3M /dev/urandom >"$work/files/noise"
ln -s /etc/motd "$work/files/absolute"
ln -s ../../../../etc/passwd "$work/files/etc/out"
ln -s loop "$work/files/etc/loop"
mkdir -p "$work/files/srv/a:b"
echo 'colons' >"$work/files/srv/a:b/c:d"
PATH=$PATH:/usr/sbin:/sbin mke2fs -q -t ext4 -d "$work/files" "$work/one.raw" 32M
cp "$work/one.raw" "$work/two.raw"
head -c 12288 /dev/urandom | dd of="$work/two.raw" bs=4096 seek=5000 conv=notrunc status=none

# ---- an empty store ----

expect "no machines" '' "$(stasis ls)"
for verb in ls images history; do
    expect "$verb of nothing is an empty array" '[]' "$(stasis "$verb" --json)"
done
expect_true "df of nothing" json '.checkpoint_count == 0 and .unique_bytes == 0' < <(stasis df --json)
must stasis verify

# ---- in, and listed ----

id=$(stasis import base:1 --kernel "$kernel" --disk "$work/one.raw" --memory 64M --cpus 2 \
    --cmdline 'quiet' 2>"$work/note")
expect "import prints an id" 64 "${#id}"
expect "images -q prints names" base:1 "$(stasis images -q)"
expect_true "images --json has times, bytes and ids" json \
    '.[0] | .id == "'"$id"'" and .memory_bytes == 67108864 and .disk_bytes == 33554432 and
     .kind == "cold" and (.created | test("^[0-9]{4}-.*Z$"))' < <(stasis images --json)
expect_true "inspect tells all" json \
    '.type == "checkpoint" and .config.vcpus == 2 and .config.cmdline == "quiet" and
     (.names == ["base:1"]) and (.images == ["base:1"]) and .parents == [] and
     .memory_bytes == 67108864 and .vcpus == 2 and (.nets[0].mac | length) == 17 and
     .disks == [{"name": "disk0", "bytes": 33554432, "read_only": false}] and
     .logical_bytes > 3000000 and .unique_bytes > 3000000 and
     .shared_bytes == .logical_bytes - .unique_bytes and ([.spaces[].name] | sort == ["disk0", "kernel"])' \
    < <(stasis inspect "$id")
expect "an id's first digits will do" "$id" "$(stasis inspect "${id:0:8}" | jq -r .id)"

stored=$(stasis df --json | jq .stored_bytes)
must stasis import base:2 --kernel "$kernel" --disk "$work/one.raw" -q
expect_true "the same again takes almost nothing" \
    test "$(stasis df --json | jq .stored_bytes)" -lt $((stored + 20000))
must stasis import base:3 --kernel "$kernel" --disk "$work/two.raw" -q

expect_true "what others have, too, is shared" json '.unique_bytes < 100000 and .shared_bytes > 3000000' \
    < <(stasis inspect base:2)

# ---- tags ----

must stasis tag base:3 team/app
expect_true "a tag is one more name of it" json '.names | sort == ["base:3", "team/app:latest"]' \
    < <(stasis inspect team/app)
expect_exit 12 stasis tag base:1 team/app
must stasis tag base:1 team/app --replace
expect "a tag can be moved" "$id" "$(stasis inspect team/app:latest | jq -r .id)"
must stasis untag team/app
expect_exit 10 stasis untag team/app
expect_exit 3 stasis untag base:2 nothing:1
expect_exit 0 stasis tag base:1 base:2

# ---- inside, without a mount ----

expect "cat prints a file" 'version one' "$(stasis cat base:1:/etc/motd)"
expect "by its partition, too" 'version one' "$(stasis cat base:1:p0/etc/motd)"
expect "and by its disk" 'version one' "$(stasis cat base:1:disk0/p0/etc/motd)"
expect "links stay inside" 'version one' "$(stasis cat base:1:/absolute)"
expect "names may have colons" 'colons' "$(stasis cat "base:1:/srv/a:b/c:d")"
expect "several in order" $'version one\ncolons' "$(stasis cat base:1:/etc/motd "$id:/srv/a:b/c:d")"
expect_true "a large one as it is" cmp "$work/files/noise" <(stasis cat base:1:/noise)
expect_true "what a mount has beside files" json '.config.vcpus == 2' < <(stasis cat base:1:manifest.json)
must stasis cp base:1:/etc/motd "$work/motd"
expect "cp copies a file out" 'version one' "$(<"$work/motd")"
must stasis cp "$id:/srv" "$work/srv"
expect_true "and a directory" diff -r "$work/files/srv" "$work/srv"
must stasis cp base:1:/noise "$work"
expect_true "and a large file" cmp "$work/files/noise" "$work/noise"
expect_exit 10 stasis cp base:1:/etc/none "$work/none"
expect_true "of what is not there nothing is left" test ! -e "$work/none"
expect_exit 2 stasis cp "$work/motd" base:1:/etc/motd
expect_exit 10 stasis cat base:1:/etc/none
expect_like "and what to do" '*hint: stasis tree base:1:*' "$said"
expect_exit 10 stasis cat base:1:/etc/motd/none
expect_exit 10 stasis cat base:1:/etc/out
expect_exit 10 stasis cat base:1:/../../../../../../etc/passwd
expect_exit 1 stasis cat base:1:/etc/loop
expect_exit 2 stasis cat base:1:/etc
expect_exit 10 stasis cat none:/etc/motd
expect "find goes by name" $'/etc/motd' "$(stasis find base:1:/ --name 'mo*')"
expect "and by type" $'/absolute\n/etc/loop\n/etc/out' "$(stasis find base:1:/ --type l)"
expect "nothing found is an empty array" '[]' "$(stasis find base:1:/ --name none --json)"
expect_true "find --json tells all" json '.[0] | .path == "/etc/motd" and .bytes == 12 and
    .type == "file" and .mode == 420 and .target == null and (.modified | test("Z$"))' \
    < <(stasis find base:1:/etc --name motd --json)
expect "tree draws" $'base:1:/etc\n|-- loop -> loop\n|-- motd\n`-- out -> ../etc/passwd' \
    "$(stasis tree base:1:/etc)"
expect_like "tree of a checkpoint" '*disk0.raw*manifest.json*' "$(stasis tree base:1 --depth 1)"
expect_true "tree --json" json 'map(.path) | sort == ["/srv/a:b", "/srv/a:b/c:d"]' \
    < <(stasis tree base:1:/srv --json)

# Two file systems: the one with an /etc is meant.
truncate -s 80M "$work/parted.raw"
printf 'label: dos\nstart=1MiB,size=32MiB\nstart=40MiB,size=32MiB\n' |
    PATH=$PATH:/usr/sbin:/sbin sfdisk -q "$work/parted.raw"
mkdir "$work/data"
echo 'data' >"$work/data/here"
PATH=$PATH:/usr/sbin:/sbin mke2fs -q -t ext4 -d "$work/data" "$work/data.raw" 32M
dd if="$work/data.raw" of="$work/parted.raw" bs=1M seek=1 conv=notrunc status=none
dd if="$work/one.raw" of="$work/parted.raw" bs=1M seek=40 conv=notrunc status=none
must stasis import parted:1 --kernel "$kernel" --disk "$work/parted.raw" -q
expect "the root file system" 'version one' "$(stasis cat parted:1:/etc/motd)"
expect "another one" 'data' "$(stasis cat parted:1:p1/here)"
must stasis import parted:2 --kernel "$kernel" --disk "$work/data.raw" --disk "$work/data.raw" -q
expect_exit 2 stasis cat parted:2:/here
expect_like "which one is to be said" '*parted:2:disk0/p0/here*' "$said"
expect "as that" 'data' "$(stasis cat parted:2:disk1/p0/here)"
must stasis untag parted:1
must stasis untag parted:2
must stasis gc --yes

# ---- completion ----

# What bash does at the end of a command line.
complete_line() {
    COMP_LINE=$1 COMP_POINT=${#1}
    # shellcheck disable=SC2317  # called by the completion that is sourced
    compopt() { :; }
    # shellcheck source=/dev/null
    source <(stasis completion bash)
    _stasis
    echo "${COMPREPLY[*]}"
}

expect "completion of a verb" 'images' "$(complete_line 'stasis ima')"
expect "of an option" '--blocks' "$(complete_line 'stasis diff --bl')"
expect "of an image behind its colon" '1 2 3' "$(complete_line 'stasis run base:')"
expect "of a name" 'base:1 base:2 base:3' "$(complete_line 'stasis inspect ba')"
for shell in bash zsh fish; do
    stasis completion "$shell" >"$work/script"
    if command -v "$shell" >/dev/null; then
        expect_true "$shell takes its script" "$shell" -n "$work/script"
    fi
done
expect_exit 2 stasis completion csh

# ---- differences ----

expect "diff tells where" 'disk0 20480000 12288' "$(stasis diff base:1 base:3 --json |
    jq -r '.[] | "\(.space) \(.offset_bytes) \(.bytes)"')"
expect_true "diff --stat adds up" json \
    'any(.[]; .space == "disk0" and .bytes == 12288 and .ranges == 1)' \
    < <(stasis diff base:1 base:3 --stat --json)
expect "nothing differs from itself" '[]' "$(stasis diff base:1 base:1 --json)"

# ---- space given back ----

stored=$(stasis df --json | jq .stored_bytes)
head -c 8M /dev/urandom >"$work/gone.raw"
must stasis import gone:1 --kernel "$kernel" --disk "$work/gone.raw" -q
must stasis untag gone:1
expect_true "df tells what gc would free" json '.freeable_bytes > 8000000' < <(stasis df --json)
expect_true "gc shows first" json '.acted == false and .checkpoint_count >= 1 and
    .freeable_bytes > 8000000 and .freed_bytes == 0' < <(stasis gc --json)
expect_true "and then acts" json '.acted and .freed_bytes > 8000000 and .waiting_bytes == 0' \
    < <(stasis gc --yes --json)
expect_true "the space is back" \
    test "$(stasis df --json | jq .stored_bytes)" -le $((stored + 20000))
expect "twice is no more" '0 B freed: 0 packs removed' "$(stasis gc --yes)"
must stasis verify

# ---- out ----

must stasis export base:1 --disk 0 "$work/out.raw"
expect_true "a disk comes out as it went in" cmp "$work/one.raw" "$work/out.raw"
must stasis export base:3 --disk 0 "$work/out.raw" -f
expect_true "the other one, too" cmp "$work/two.raw" "$work/out.raw"
expect_true "it has holes" test "$(stat -c %b "$work/out.raw")" -lt $((32 * 1024 * 2))
expect_exit 12 stasis export base:3 --disk 0 "$work/out.raw"
expect_exit 10 stasis export base:3 --disk 1 "$work/none.raw"
expect_exit 10 stasis export base:3 --memory "$work/none.raw"
expect_exit 2 stasis export base:3 "$work/none.raw"
expect_exit 1 stasis export base:3 --disk 0 /dev/full/none
expect_like "and says what to do" '*hint: give a FILE*' "$said"
expect_exit 10 stasis export base:3 --disk 0 "$work/no/such/none.raw"
expect_like "a missing directory can be made" "*hint: *mkdir -p $work/no/such*" "$said"
expect_exit 2 stasis export base:3 --disk 0 "$work"
expect_like "a directory is no file" '*hint: give the name of a file*' "$said"
expect_exit 1 stasis mount "$work/one.raw"
expect_like "nor a file a mount point" '*hint: *mkdir*' "$said"
expect_true "what failed left no file" test ! -e "$work/none.raw"

stasis send base:3 >"$work/stream"
got=$(stasis --home "$work/second" receive copy:1 <"$work/stream")
must stasis --home "$work/second" export "$got" --disk 0 "$work/sent.raw"
expect_true "a stream carries it to another store" cmp "$work/two.raw" "$work/sent.raw"
must stasis --home "$work/second" verify
head -c 1M "$work/stream" >"$work/cut"
status=0
stasis --home "$work/third" receive cut:1 <"$work/cut" 2>"$work/stderr" || status=$?
expect_true "a cut stream is refused" test "$status" -ne 0
expect "and leaves nothing" '[]' "$(stasis --home "$work/third" history --json)"

must stasis push base:3 "oci:$work/layout:3"
must stasis --home "$work/fourth" pull "oci:$work/layout:3" pulled:3
must stasis --home "$work/fourth" pull "oci:$work/layout:3" pulled:3
must stasis push base:1 "oci:$work/layout:1"
expect_exit 12 stasis --home "$work/fourth" pull "oci:$work/layout:1" pulled:3
expect_like "what to do about a name that is taken" '*hint: *--replace*' "$said"
expect "it stays what it was" 1 "$(stasis --home "$work/fourth" images --json | jq length)"
expect_exit 0 stasis --home "$work/fourth" pull "oci:$work/layout:1" pulled:3 --replace
expect "or moves" "$id" "$(stasis --home "$work/fourth" inspect pulled:3 | jq -r .id)"
expect_exit 0 stasis --home "$work/fourth" pull "oci:$work/layout:3" pulled:3 --replace
cp -r "$work/layout" "$work/my layout!"
must stasis --home "$work/fourth" pull "oci:$work/my layout!:3"
expect_like "a directory's name becomes one for an image" '*my-layout-:3*' \
    "$(stasis --home "$work/fourth" images -q)"
must stasis --home "$work/fourth" export pulled:3 --disk 0 "$work/pulled.raw"
expect_true "a layout carries it, too" cmp "$work/two.raw" "$work/pulled.raw"
expect_exit 2 stasis push base:3 nowhere

# ---- wrong input ----

expect_exit 2 stasis
expect_exit 2 stasis frobnicate
expect_exit 2 stasis hsitory
expect_like "the nearest verb is named" '*did you mean history*' "$said"
expect_exit 2 stasis images --jsno
expect_like "the nearest option is named" '*did you mean --json*' "$said"
expect_exit 2 stasis tag base:1
expect_exit 2 stasis run
expect_exit 2 stasis run base:1 --kernel "$kernel"
expect_exit 2 stasis run base:1 --name 'no/name' -d
expect_exit 2 stasis import 'bad name:1' --kernel "$kernel"
expect_exit 2 stasis import x:1
expect_exit 2 stasis import x:1 --kernel "$kernel" --memory 512
expect_like "it says how to write 512M" '*512M*' "$said"
expect_exit 2 stasis import x:1 --kernel "$kernel" --cpus 0
expect_exit 12 stasis import base:1 --kernel "$kernel"
expect_exit 10 stasis import x:1 --kernel "$work/no-such-file"
expect_exit 2 stasis import x:1 --kernel "$work/one.raw"
expect_like "what is no kernel is named" '*one.raw*kernel*' "$said"
expect_exit 2 stasis import x:1 --kernel "$work"
head -c 1000 "$work/one.raw" >"$work/odd.raw"
expect_exit 2 stasis import x:1 --kernel "$kernel" --disk "$work/odd.raw"
expect_like "the odd disk is named" '*odd.raw*sector*' "$said"
: >"$work/empty.raw"
expect_exit 2 stasis import x:1 --kernel "$kernel" --disk "$work/empty.raw"
printf 'QFI\xfb%508s' '' >"$work/q.qcow2"
expect_exit 2 stasis import x:1 --kernel "$kernel" --disk "$work/q.qcow2"
expect_like "it says how to convert a qcow2" '*qemu-img convert*' "$said"
mapfile -t disks < <(for _ in {1..9}; do printf '%s\n%s\n' --disk "$work/one.raw"; done)
expect_exit 2 stasis import x:1 --kernel "$kernel" "${disks[@]}"
expect_exit 10 stasis inspect nothing
expect_exit 10 stasis inspect 0123456789
expect_exit 10 stasis diff base:1 nothing
expect_exit 10 stasis send nothing
for verb in pause resume stop kill wait console logs history rm; do
    expect_exit 10 stasis "$verb" nothing
done
expect_exit 10 stasis save nothing@x
expect_exit 10 stasis restore nothing@x
expect_exit 10 stasis clone nothing
expect_exit 2 stasis rm base:1
expect_like "untag removes images" '*untag*' "$said"
expect_exit 11 stasis rm "$id"
expect_exit 10 stasis --home /proc/nothing ls
expect_exit 1 bash -c "'$STASIS' images >/dev/full"
expect "nothing was left of all that" 'base:1 base:2 base:3' "$(stasis images -q | paste -s -d ' ')"
expect "no temporary packs either" '' "$(find "$STASIS_HOME" -name '*.tmp')"

# ---- interrupted ----

truncate -s 1G "$work/big.raw"
head -c 100M /dev/urandom | dd of="$work/big.raw" conv=notrunc status=none
"$STASIS" import big:1 --kernel "$kernel" --disk "$work/big.raw" >/dev/null 2>"$work/stderr" &
importer=$!
has_pack() { [[ -n $(find "$STASIS_HOME" -name '*.tmp' -size +1M) ]]; }
if wait_until 20 has_pack; then
    kill -TERM "$importer"
    status=0
    wait "$importer" || status=$?
    expect "an interrupted import says so" 130 "$status"
fi
expect_exit 10 stasis inspect big:1
expect "and leaves no temporary pack" '' "$(find "$STASIS_HOME" -name '*.tmp')"

# ---- removed, and damaged ----

other=$(stasis inspect base:3 | jq -r .id)
must stasis untag base:3
must stasis rm "$other"
expect_exit 10 stasis inspect "$other"
must stasis export base:1 --disk 0 "$work/again.raw"
expect_true "its neighbour is as it was" cmp "$work/one.raw" "$work/again.raw"
must stasis verify

pack=$(find "$STASIS_HOME" -name '*.pack' -size +1M | head -n 1)
chmod u+w "$pack"
put "$pack" 50000 '\xa5\x5a\xa5\x5a'
expect_exit 13 stasis verify
expect_true "verify lists what is wrong" json '.ok == false and (.findings | length > 0) and
    (.findings[0].checkpoints | length > 0) and
    all(.findings[]; .state == "mendable")' < <(stasis verify --json 2>/dev/null)
must stasis export base:1 --disk 0 "$work/again.raw" -f
expect_true "what is damaged reads on" cmp "$work/one.raw" "$work/again.raw"
expect_like "and can be mended" '*all is mended*' "$(stasis repair)"
must stasis verify

# ---- odd surroundings ----

expect_exit 2 stasis --home '' ls
# What is not open must not become a file of the store.
expect_exit 1 sh -c "'$STASIS' ls --json >&-"
expect_exit 1 sh -c "'$STASIS' ls --json >/dev/full"
expect "a missing input is no stream" 1 "$(stasis receive <&- 2>/dev/null || echo $?)"
# A name of no encoding still gives JSON.
expect_true "bad names are reported in JSON" json '.[0].ok == false and .[0].status == 2' \
    < <(stasis untag $'\xff' --json 2>/dev/null)
# root can write everywhere but to what is mounted read-only.
if [[ $EUID -eq 0 ]] && unshare -m true 2>/dev/null; then
    # shellcheck disable=SC2016  # for the inner shell
    expect_like "a read-only home is told" '*Read-only file system*--home*' "$(unshare -m sh -c '
        mount --bind "$STASIS_HOME" "$STASIS_HOME" && mount -o remount,ro,bind "$STASIS_HOME" &&
        "$STASIS" ls' 2>&1)"
else
    echo "left out: a read-only home (not root, or no mount namespaces here)"
fi

# ---- help ----

must stasis version
expect_like "help of a verb has an example" '*Example:*stasis save*' "$(stasis help save)"
expect "help fits 80 columns" '' "$(for verb in '' $(stasis help | sed -n 's/^  \([a-z-]*\) .*/\1/p'); do
    stasis help ${verb:+"$verb"}
done | grep -E '.{81}')"
expect_exit 2 stasis help frobnicate
expect_true "doctor --json is an array of checks" json \
    'length >= 8 and all(.[]; .state | IN("ok", "warn", "missing"))' < <(stasis doctor --json)
