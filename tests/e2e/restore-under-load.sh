#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# A guest that does everything at once is saved at random moments and put back, in place,
# after a kill, from a stop, or as a clone: it goes on with no error but connections that
# are reset, its disk is whole, and its console neither loses nor repeats a byte.
#
#   STASIS_ROUNDS  how many times (2; which of the four ways comes first, the seed says)
#   STASIS_SEED    of the random moments (printed)
#
# By hand: ./check does not run it. STASIS_ROUNDS=100 tests/lab/run --timeout 5000 -- \
#     tests/e2e/restore-under-load.sh
# shellcheck disable=SC2016  # scripts are for the guest

# shellcheck source=tests/e2e/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

here=${BASH_SOURCE[0]%/*}
peer=${STASIS_PEER:-${STASIS%/cli/stasis}/tests/e2e/vsock_peer}
fio=$(command -v fio) || skip "there is no fio"
busybox=$(find_busybox) || skip "there is no static busybox"
stream_check=${peer%/*}/console_stream
[[ -x $peer && -x $stream_check && -x ${STASIS%/cli/stasis}/guest/agent/stasis-agent ]] || skip "its tools are not built"

rounds=${STASIS_ROUNDS:-2}
RANDOM=${STASIS_SEED:=$((RANDOM * 32768 + RANDOM))}
echo "seed: $STASIS_SEED, rounds: $rounds"
base=$((20000 + RANDOM % 20000))

# fio and the libraries it wants, as they are on this machine, on a disk of their own.
make_tools() {
    local tools=$work/tools path
    mkdir -p "$tools/lib" "$work/www"
    head -c 400000 /dev/urandom >"$work/www/file"
    md5sum <"$work/www/file" >"$tools/sum"
    cp "$peer" "$tools/peer"
    cp "$here/load_guest.sh" "$tools/load"
    cp "$fio" "$tools/fio"
    while read -r path; do
        cp -L "$path" "$tools/lib/"
    done < <(ldd "$fio" | grep -o '/[^ ]*')
    mv "$tools"/lib/ld-linux* "$tools/lib/ld.so"
    must mke2fs -q -F -t ext4 -O ^has_journal -d "$tools" "$work/tools.raw" 128M
}

import_with_tools() {
    must stasis import appliance:1 --kernel "$STASIS_APPLIANCE/vmlinuz" \
        --initrd "$STASIS_APPLIANCE/initrd" --cmdline "$(<"$STASIS_APPLIANCE/cmdline")" \
        --disk "$STASIS_APPLIANCE/disk.raw" --disk "$work/tools.raw" --memory 192M
}

servers=() stream=''
serve() {
    "$busybox" httpd -f -p "127.0.0.1:$base" -h "$work/www" &
    servers+=("$!")
    "$peer" echo "tcp:127.0.0.1:$((base + 1))" &
    servers+=("$!")
}
trap 'kill "${servers[@]}" $stream 2>/dev/null; leave' EXIT

# ---- what the guest does, and how far it has come ----

answers() { stasis exec "$1" -- true 2>/dev/null; }
status() { stasis exec "$1" -- /mnt/load status; }

# All of it has gone on since $before was told; nothing was ever wrong.
went_on() {
    local -a now
    read -ra now < <(status "$1" 2>/dev/null) || return 1
    [[ ${#now[@]} -eq 10 ]] || return 1
    said="before: ${before[*]}; now: ${now[*]}"
    if [[ ${now[2]} -ne 0 || ${now[5]} -ne 0 || ${now[6]} == dead ]]; then
        spoilt=1
        return 0
    fi
    ((now[0] > before[0] + 1 && now[3] > before[3] + 1 && now[6] > before[6] && now[7] > before[7]))
}

# goes_on MACHINE: with its files, fetches and talks.
goes_on() {
    local -a before
    local spoilt='' said=''
    expect_true "$1: the agent answers" wait_until 60 answers "$1"
    read -ra before < <(status "$1")
    if ! wait_until 90 went_on "$1" || [[ -n $spoilt ]]; then
        expect "$1: everything goes on" "no error" "$said"
    else
        echo "ok: $1 goes on: $said"
    fi
}

ended() {
    local -a now
    read -ra now < <(status "$1" 2>/dev/null)
    [[ ${now[8]} -gt $idle_ended && ${now[9]} -eq 0 ]]
}

# What was connected with the host when the machine was saved is no longer.
old_ones_end() {
    expect_true "$1: command and idle connection are ended" wait_until 60 ended "$1"
}

# An endless command; its marker is how it is found in the guest.
start_stream() {
    stasis exec web -- sh -c 'i=0; while :; do i=$((i+1)); echo $i; done' streaming \
        >"$work/streamed" 2>"$work/stream.said" &
    stream=$!
    wait_until 60 grep -q '^10$' "$work/streamed" || die "no stream from web"
}

# Its numbers follow each other; the last may be cut.
stream_is_whole() {
    awk '$1 != NR && wrong++ == 0 { at = NR; got = $0 } END { exit wrong > 1 || (wrong && at != NR) }' "$1"
}

end_stream() {
    local status=0
    wait "$stream" || status=$?
    stream=''
    expect "the command's connection is lost" 125 "$status"
    expect_true "its output had been whole" stream_is_whole "$work/streamed"
}

# ---- where its console is ----

log_of() { echo "$STASIS_HOME/machines/$1/console.log"; }
size() { stat -c %s "$(log_of "$1")"; }
nap() { sleep "$((RANDOM % 2)).$((RANDOM % 1000 + 1000))"; }

# A machine that is paused has nothing more to print; inspect makes sure that it has.
hold() { stasis pause web && stasis inspect web >/dev/null; }

jumps=() came=''
# save_now NAME: at this moment, as web@NAME. What it had printed is in $came: the more
# exactly known if it is held.
save_now() {
    local from held=$((RANDOM % 2))
    [[ $held -eq 0 ]] || hold
    from=$(size web)
    must stasis save "web@$1"
    came=$from-$(size web)
    [[ $held -eq 0 ]] || stasis resume web
}

put_back_in_place() {
    local from held=$((RANDOM % 2))
    save_now "$1"
    nap
    [[ $held -eq 0 ]] || hold
    from=$(size web)
    must stasis restore "web@$1" --discard
    jumps+=("$from-$(size web):$came")
    [[ $held -eq 0 ]] || stasis resume web
}

# The process gone, what it had not yet written to the log is, too.
put_back_after_kill() {
    save_now "$1"
    nap
    kill -9 "$(stasis inspect web | jq -r .pid)"
    wait_until 30 is_state web stopped || die "web is not stopped"
    jumps+=("$(size web)-$(size web):$came")
    must stasis restore "web@$1" --discard
}

# What it prints then follows, byte for byte: there is no jump.
put_back_after_stop() {
    must stasis save "web@$1" --stop
    wait_until 30 is_state web stopped || die "web is not stopped"
    must stasis restore "web@$1" --discard
}

put_in_clone() {
    save_now "$1"
    must stasis clone "web@$1" twin
    goes_on twin
    old_ones_end twin
    cp "$(log_of web)" "$work/web.log"
    expect_true "twin's console goes on where web's was" "$stream_check" \
        "$(log_of twin)" --after "$work/web.log" "$came"
    must stasis kill twin
    must stasis rm -f twin
}

# The disk of the checkpoint, when its journal has been replayed.
disk_is_whole() {
    stasis export "web@$1" --disk 0 --force "$work/disk.raw" >/dev/null
    e2fsck -y -E journal_only "$work/disk.raw" >"$work/fsck" 2>&1 || [[ $? -eq 1 ]] || cat "$work/fsck"
    e2fsck -fn "$work/disk.raw" >"$work/fsck" 2>&1 || { cat "$work/fsck" && return 1; }
}

# ---- the rounds ----

make_tools
import_with_tools
serve
boot_appliance web
expect_true "the agent answers" wait_until 60 answers web
must stasis exec web -- sh -c "mount -o ro /dev/vdb /mnt && /mnt/load start $base $((base + 1))"
wait_until 120 stasis exec web -- test -s /root/tree/last0 -a -s /tmp/fetch.log -a -s /tmp/talk.log ||
    die "the load does not start"
goes_on web

ways=(in_place after_kill after_stop)
passed=0
for ((round = 0; round < rounds; round++)); do
    failed=$failures way=$(((STASIS_SEED + round) % 4))
    idle_ended=$(stasis exec web -- /mnt/load status | cut -d ' ' -f 9)
    [[ -n $stream ]] || start_stream
    nap
    if [[ $way -eq 3 ]]; then
        echo "--- round $round: clone ($SECONDS s)"
        put_in_clone "r$round"
        expect_true "the command goes on" kill -0 "$stream"
        expect_true "its output is whole" stream_is_whole "$work/streamed"
    else
        echo "--- round $round: ${ways[way]} ($SECONDS s)"
        "put_back_${ways[way]}" "r$round"
        end_stream
    fi
    goes_on web
    [[ -n $stream ]] || old_ones_end web
    expect_true "the checkpoint's disk is whole" disk_is_whole "r$round"
    cp "$(log_of web)" "$work/web.log"
    expect_true "the console goes on" "$stream_check" "$work/web.log" "${jumps[@]}"
    [[ $failures -ne $failed ]] || passed=$((passed + 1))
    stasis rm -f "web@r$((round - 1))" 2>/dev/null || true
done
expect_like "fio has found no error" '*err= 0:*' "$(stasis exec web -- /mnt/load stop)"
echo "$passed of $rounds rounds went well, seed $STASIS_SEED, $SECONDS s"
