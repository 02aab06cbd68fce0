#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The agent in a guest: commands, files, a save and a restore in their midst, clones
# with an identity of their own, stopping; and what is said where there is none.
# shellcheck disable=SC2016  # scripts are for the guest

# shellcheck source=tests/e2e/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

[[ -x ${STASIS%/cli/stasis}/guest/agent/stasis-agent ]] || skip "the agent is not built"

answers() { stasis exec "$1" -- true 2>/dev/null; }
in_web() { stasis exec web -- "$@"; }

boot_appliance web
expect_true "the agent answers" wait_until 60 answers web

# Commands.
expect "it prints" "hello  world" "$(in_web echo 'hello  world')"
expect_exit 0 stasis exec web -- true
expect_exit 42 stasis exec web -- sh -c 'echo failing >&2; exit 42'
expect_exit 137 stasis exec web -- sh -c 'echo dying >&2; kill -KILL $$'
expect_exit 127 stasis exec web -- no-such-command
expect_exit 126 stasis exec web -- /etc/passwd
expect_exit 125 stasis exec nobody -- true
expect "it knows variables, directory and user" "blue /tmp root" \
    "$(stasis exec web -e COLOUR=blue -w /tmp -- sh -c 'echo $COLOUR $PWD $USER')"
head -c 3000000 /dev/urandom >"$work/data"
sum=$(md5sum <"$work/data")
expect "3 MB go in and come back" "$sum" "$(stasis exec web -i -- cat <"$work/data" | md5sum)"
expect_like "-t gives it a terminal" '/dev/pts/*' "$(stasis exec web -t -- tty </dev/null)"
expect_like "shell takes a script" '*one two*' "$(echo 'echo one two' | stasis shell web)"

# Files.
mkdir -p "$work/tree/sub"
cp "$work/data" "$work/tree/sub/data"
echo 'echo ran' >"$work/tree/script"
chmod 750 "$work/tree/script"
ln -s sub/data "$work/tree/link"
must stasis cp "$work/tree" web:/root/tree
expect "a file is whole in there" "$sum" "$(in_web md5sum /root/tree/link | sed 's/ .*/  -/')"
expect "modes and owners are right" "750 0" "$(in_web stat -c '%a %u' /root/tree/script)"
must stasis cp web:/root/tree "$work/back"
expect_true "a tree comes back as it went" diff -r "$work/tree" "$work/back"
expect "and its mode" 750 "$(stat -c %a "$work/back/script")"
expect_exit 10 stasis cp web:/no/such/file "$work/"
expect_exit 2 stasis cp "$work/data" "$work/data2"

# A command goes on through a save, and ends with a restore.
count='i=0; while [ $i -lt 60 ]; do echo $i; i=$((i+1)); sleep 0.1; done'
stasis exec web -- sh -c "$count" >"$work/counted" &
counting=$!
expect_true "it counts" wait_until 30 grep -q '^3$' "$work/counted"
must stasis save web@one
wait "$counting" || expect "the command's exit code" 0 $?
expect "a save in its midst loses nothing" "$(seq 0 59)" "$(<"$work/counted")"
stasis exec web -- sh -c "$count; sleep 600" >"$work/counted" 2>"$work/said" &
counting=$!
expect_true "it counts again" wait_until 30 grep -q '^3$' "$work/counted"
must stasis restore web@one --discard
status=0
wait "$counting" || status=$?
expect "a restore ends the command's connection" 125 "$status"
expect_like "and says so" '*connection*lost*hint: *' "$(<"$work/said")"
expect_true "the agent answers again" wait_until 30 answers web

# Clones: who they are.
in_web sh -c 'echo 0123456789abcdef0123456789abcdef >/etc/machine-id; sync'
name=$(in_web hostname)
must stasis save web@two
must stasis clone web@two same
must stasis clone web@two own --identity
must stasis clone web@two named --hostname other
identity() { stasis exec "$1" -- sh -c 'echo $(hostname) $(cat /etc/hostname /etc/machine-id)'; }
expect "a clone has the original's identity" \
    "$name $name 0123456789abcdef0123456789abcdef" "$(identity same)"
expect_like "unless it is to have its own" 'own own *' "$(identity own)"
expect "which is another machine id" '' "$(identity own | grep -o 0123456789abcdef || true)"
expect_like "or another name" 'other other 0123*' "$(identity named)"
random() { stasis exec "$1" -- sh -c 'head -c 16 /dev/urandom | md5sum'; }
expect_true "their random numbers are their own" test "$(random same)" != "$(random own)"
must stasis kill same named

# The clock goes on, or comes along.
must stasis kill own
must stasis clone web@two later --clock host
difference=$(($(date +%s) - $(stasis exec later -- date +%s)))
expect_true "--clock host sets the wall clock ($difference s)" test "${difference#-}" -le 5

# Stopping, and without an agent.
must stasis stop later
expect_true "stop stops" wait_until 60 is_state later stopped
in_web rm /usr/sbin/stasis-agent
guest web 'killall stasis-agent; echo gone' >/dev/null
expect_exit 125 stasis exec web -- true
expect_like "it says that there is no agent, and what to do" '*runs no agent*hint: *' "$said"
expect_exit 10 stasis cp "$work/data" web:/
expect_exit 10 stasis clone web agentless --identity
expect "the clone runs all the same" running "$(state_of agentless)"
must stasis stop agentless
must stasis pause web
expect_exit 125 stasis exec web -- true
expect_like "it says that it is paused" '*paused*hint: *' "$said"
must stasis resume web
must stasis stop web
