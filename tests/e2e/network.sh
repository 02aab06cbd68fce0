#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A guest gets an address, reaches the host and is reached through forwarded ports;
# so do machines that were put back, and clones with the same address.

# shellcheck source=tests/e2e/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

busybox=$(find_busybox) || skip "there is no static busybox"
base=$((20000 + RANDOM % 20000))
web=$base listener=$((base + 1)) port=$((base + 2)) other=$((base + 3)) upload=$((base + 5))

mkdir "$work/www"
head -c 300000 /dev/urandom >"$work/www/file"
sum=$(md5sum <"$work/www/file")
[[ -n $(command -v curl) ]] || skip "there is no curl"
"$busybox" httpd -f -p "127.0.0.1:$web" -h "$work/www" &
servers=$!
trap 'kill $servers 2>/dev/null; leave' EXIT

has_address() { [[ $(guest "$1" 'ip -4 addr show eth0') == *10.0.2.15/24* ]]; }
fetched() { guest "$1" "wget -q -O - http://10.0.2.2:$web/file | md5sum"; }
page() { curl -s -m 30 "http://127.0.0.1:$1/index.html"; }

boot_appliance web -p "$port:80"
expect_true "the guest gets its address" wait_until 60 has_address web
expect "it fetches a file from the host" "$sum" "$(fetched web)"
expect_true "it sends one to the host" uploaded web 10.0.2.2 "$upload"
expect_like "it knows a name server" '*10.0.2.3*' "$(guest web 'cat /etc/resolv.conf')"
guest web 'mkdir /tmp/www; echo one >/tmp/www/index.html; httpd -p 80 -h /tmp/www'
expect "a forwarded port reaches the guest" one "$(page "$port")"
expect_like "inspect tells the ports" "*127.0.0.1:$port:80/tcp*" "$(stasis inspect web)"

# A port that is taken: told before anything is left behind.
expect_exit 11 stasis run appliance:1 --name late -d -p "$port:80"
expect_like "it names the port" "*$port*hint: *" "$said"
expect "the machine is not left behind" web "$(stasis ls -q)"
expect_exit 2 stasis run appliance:1 --name late -d -p 80

# A connection that is open while the machine is saved.
mkfifo "$work/quiet"
exec 9<>"$work/quiet" # it would hang up at the end of its input
"$busybox" nc -l -p "$listener" >"$work/heard" <&9 &
servers="$servers $!"
guest web "mkfifo /tmp/line; (exec 3<>/tmp/line; nc 10.0.2.2 $listener <&3; echo ended >/tmp/ended) >/dev/null 2>&1 &"
guest web 'echo before >/tmp/line'
expect_true "the host hears it" wait_until 20 grep -q before "$work/heard"
must stasis save web@one
guest web 'echo later >/tmp/line; echo two >/tmp/www/index.html'
expect_true "the host hears more" wait_until 20 grep -q later "$work/heard"

must stasis restore web@one --discard
connection_ended() { guest web 'cat /tmp/ended' 2>/dev/null | grep -q ended; }
expect_true "the old connection is reset, not continued, though the guest says nothing" wait_until 60 connection_ended
expect "and the host heard nothing twice" "before later" "$(tr '\n' ' ' <"$work/heard" | sed 's/ $//')"
expect "put back, it fetches the file" "$sum" "$(fetched web)"
expect "put back, it is reached, with the page of then" one "$(page "$port")"

# Clones have the same address, and each the network to itself.
must stasis clone web@one twin -n 2 --json >"$work/clones"
for twin in twin-1 twin-2; do
    expect_true "$twin has the address" has_address "$twin"
    guest "$twin" "echo $twin >/tmp/www/index.html"
    expect "$twin fetches the file" "$sum" "$(fetched "$twin")"
done
expect "the port still leads to the first machine" one "$(page "$port")"
must stasis kill twin-1 twin-2
must stasis clone web@one front -p "$other:80"
guest front 'echo front >/tmp/www/index.html'
expect "a clone has a port if one is asked for" front "$(page "$other")"
expect_exit 2 stasis clone web@one many -n 2 -p "$((base + 4)):80"

# How a machine is connected is kept, until something else is said.
must stasis kill web
must stasis restore web@one --discard
expect "started again, it is reached as before" one "$(page "$port")"
expect_exit 11 stasis restore web@one --discard --net none
must stasis kill web
must stasis restore web@one --discard --net none
has_no_link() { [[ $(guest web 'cat /sys/class/net/eth0/carrier') == 0 ]]; }
expect_true "without a network, the guest sees that its link is down" wait_until 20 has_no_link
expect_true "and nobody reaches it" bash -c "! curl -s -m 5 http://127.0.0.1:$port/"
