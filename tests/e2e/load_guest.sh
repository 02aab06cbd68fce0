#!/bin/busybox sh
# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
# What restore-under-load.sh has a guest do, all at once. Logs are in /tmp, which is RAM.
#
#   load start WEB ECHO   starts all of it; the host's ports of the two servers
#   load status           what was done until now: see the end
#   load stop             ends the disk's part and says how it went

here=/mnt

# Writes blocks with checksums at random, and reads each 64 of them again.
disk() {
	echo $$ >/tmp/disk.pid
	exec $here/lib/ld.so --library-path $here/lib $here/fio --name=disk --thread \
		--filename=/root/blocks --size=8M --rw=randwrite --bs=4k --direct=1 \
		--ioengine=libaio --iodepth=8 --verify=crc32c --verify_backlog=64 \
		--verify_fatal=1 --time_based --runtime=1000000 --output=/tmp/disk.result
}

# Files, too, so that there is something in the journal.
files() {
	n=0
	while :; do
		n=$((n + 1))
		echo $n >/root/tree/$n && mv /root/tree/$n /root/tree/last$((n % 5)) && sleep 0.1
	done
}

# A guest that only listens: it has nothing to send that could be answered.
fetch() {
	while :; do
		rm -f /tmp/fetched
		if ! wget -q -O /tmp/fetched "http://10.0.2.2:$1/file"; then
			echo broken
		elif [ "$(md5sum </tmp/fetched)" = "$(cat $here/sum)" ]; then
			echo right
		else
			echo wrong
		fi >>/tmp/fetch.log
	done
}

# Both ways in one connection.
talk() {
	head -c 300000 /dev/urandom >/tmp/said
	sum=$(md5sum </tmp/said)
	while :; do
		if ! $here/peer join "tcp:10.0.2.2:$1" </tmp/said >/tmp/heard 2>/dev/null; then
			echo broken
		elif [ "$(md5sum </tmp/heard)" = "$sum" ]; then
			echo right
		else
			echo wrong
		fi >>/tmp/talk.log
	done
}

# Nothing is ever said: only a reset can end it.
idle() {
	mkfifo /tmp/nothing
	while :; do
		$here/peer join "tcp:10.0.2.2:$1" <>/tmp/nothing >/dev/null 2>&1
		echo ended >>/tmp/idle.log
		sleep 0.1
	done
}

console() {
	seq -w 1 99999999 | dd of=/dev/console bs=100
}

count() { grep -c "$1" "$2" 2>/dev/null; }

# shellcheck disable=SC2009  # busybox has no pgrep here
commands() { ps | grep -c '[e]cho [$]i'; }

# Not a process that has ended and that nobody has asked about.
runs() { grep -q '^State:.[^ZX]' "/proc/$1/status" 2>/dev/null; }

case $1 in
start)
	dmesg -n 1 # the console's stream has it to itself
	mkdir -p /root/tree
	: >/tmp/idle.log
	for part in disk files "fetch $2" "talk $3" "idle $3" console; do
		# shellcheck disable=SC2086  # words
		$here/load part $part >"/tmp/${part%% *}.said" 2>&1 &
	done
	;;
part)
	shift
	"$@"
	;;
status)
	# fetches right, broken, wrong; talks the same; bytes read from the disk; files made;
	# idle connections that ended; commands of the test
	echo "$(count right /tmp/fetch.log) $(count broken /tmp/fetch.log) $(count wrong /tmp/fetch.log)" \
		"$(count right /tmp/talk.log) $(count broken /tmp/talk.log) $(count wrong /tmp/talk.log)" \
		"$(sed -n 's/^read_bytes: //p' "/proc/$(cat /tmp/disk.pid)/io" 2>/dev/null || echo dead)" \
		"$(cat /root/tree/last0)" \
		"$(wc -l </tmp/idle.log) $(commands)"
	;;
stop)
	pid=$(cat /tmp/disk.pid)
	kill -INT "$pid"
	n=0
	while runs "$pid" && [ $n -lt 600 ]; do
		n=$((n + 1))
		sleep 0.1
	done
	# What it waits for, if it does not end.
	runs "$pid" && tail -n 20 "/proc/$pid/task"/*/stack "/proc/$pid/status"
	cat /tmp/disk.said /tmp/disk.result
	;;
esac
