#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A guest on a tap device: reached and reaching at its own address, also when it was put
# back or cloned, which it announces; and devices that are not there, or taken.

here=${BASH_SOURCE[0]%/*}
# In a network of its own: the host's stays as it is.
if [[ -z ${STASIS_TAP_NAMESPACE-} ]] && unshare --net true 2>/dev/null; then
    STASIS_TAP_NAMESPACE=1 exec unshare --net "$0"
fi

# shellcheck source=tests/e2e/lib.sh
. "$here/lib.sh"

[[ -n ${STASIS_TAP_NAMESPACE-} ]] || skip "no network namespace can be made"
busybox=$(find_busybox) || skip "there is no static busybox"
listener=${STASIS_TAP_LISTEN:-${STASIS%/cli/stasis}/tests/e2e/tap_listen}
[[ -x $listener ]] || skip "there is no $listener"
[[ -n $(command -v curl) ]] || skip "there is no curl"
[[ -c /dev/net/tun ]] || skip "there is no /dev/net/tun"

host=10.88.0.1 guest=10.88.0.2
must "$busybox" ip link set lo up
for tap in vm1 vm2; do
    must "$busybox" tunctl -t "$tap" >/dev/null
    # To the guest it is the same host on either.
    must "$busybox" ip link set "$tap" address 02:00:00:88:00:01
    must "$busybox" ip link set "$tap" up
done
must "$busybox" ip addr add "$host/24" dev vm1

mkdir "$work/www"
head -c 600000 /dev/urandom >"$work/www/file"
sum=$(md5sum <"$work/www/file")
"$busybox" httpd -f -p "$host:8000" -h "$work/www" &
helpers=("$!")
trap 'kill "${helpers[@]}" 2>/dev/null; leave' EXIT
for tap in vm1 vm2; do
    "$listener" "$tap" >"$work/heard-$tap" &
    helpers+=("$!")
done

fetched() { guest "$1" "wget -q -O - http://$host:8000/file | md5sum" | tail -n 1; }
page() { curl -s -m 30 "http://$guest:80/index.html"; }
mac_of() { stasis inspect "$1" | jq -r '.nets[0].mac'; }
# announced TAP MACHINE: has it said where its address is, without being asked?
announced() { grep -q "^arp-request $(mac_of "$2") $guest $guest\$" "$work/heard-$1"; }
forget_heard() { : >"$work/heard-$1"; }

import_appliance
expect_exit 10 stasis run appliance:1 --name none -d --net tap=vm9
expect_like "a device that is not there: what to do" '*vm9*hint: *ip tuntap add vm9*' "$said"
expect "the machine is not left behind" '' "$(stasis ls -q)"
expect_exit 2 stasis run appliance:1 --name none -d --net tap=lo
expect_exit 2 stasis run appliance:1 --name none -d --net tap=vm1 -p 8080:80

boot_appliance web --net tap=vm1
# Nobody gives addresses here.
guest web "killall udhcpc; ip addr flush dev eth0; ip addr add $guest/24 dev eth0
    mkdir /tmp/www; echo one >/tmp/www/index.html; httpd -p 80 -h /tmp/www"
expect_true "the guest answers pings" wait_until 30 "$busybox" ping -c 1 -W 2 "$guest"
expect "it fetches a file from the host" "$sum" "$(fetched web)"
expect_true "it sends one to the host" uploaded web "$host" 8001
expect "and is reached at its own address" one "$(page)"
expect "inspect tells its device" vm1 "$(stasis inspect web | jq -r .net.tap)"
# Bits 1 and 11, from the left.
expect_like "checksums and segments are left to who needs them" '?1?????????1*' \
    "$(guest web 'cat /sys/class/net/eth0/device/features' | tail -n 1)"

expect_exit 11 stasis run appliance:1 --name late -d --net tap=vm1
expect_like "a device that is taken: what to do" '*vm1*hint: *' "$said"
expect_exit 2 stasis clone web late
expect_like "clones are not on the same device" '*vm1*--net tap=*' "$said"
expect_exit 2 stasis clone web late -n 2 --net tap=vm2

# Back in place, and after its process has gone.
must stasis save web@one
expect_exit 2 stasis run web@one --name late -d
guest web 'echo two >/tmp/www/index.html'
forget_heard vm1
must stasis restore web@one --discard
expect_true "put back, it announces itself" wait_until 60 announced vm1 web
expect "put back, it is reached, with the page of then" one "$(page)"
expect "put back, it fetches the file" "$sum" "$(fetched web)"
must stasis kill web
forget_heard vm1
must stasis restore web@one --discard
expect_true "started again, it announces itself" wait_until 60 announced vm1 web
expect "started again, it is on its device as before" one "$(page)"

# A guest that boots again keeps the device, which its process had from the beginning.
must stasis kill web
must stasis resume web
must "$top/scripts/console-do" --timeout 120 --boot web
guest web 'reboot -f' >/dev/null 2>&1 || true
boots() { [[ $(stasis logs web | grep -c 'appliance: ready') -ge 3 ]]; }
expect_true "it boots again" wait_until 120 boots
guest web "killall udhcpc; ip addr flush dev eth0; ip addr add $guest/24 dev eth0"
expect "booted again, it fetches the file" "$sum" "$(fetched web)"
must stasis kill web

# The network moves with the address; a clone has another hardware address if asked to.
must "$busybox" ip addr del "$host/24" dev vm1
must "$busybox" ip addr add "$host/24" dev vm2
must stasis clone web@one twin --net tap=vm2
expect_true "a clone announces itself" wait_until 60 announced vm2 twin
expect "a clone is reached on its own device" one "$(page)"
expect "it fetches the file" "$sum" "$(fetched twin)"
must stasis kill twin
forget_heard vm2
must stasis clone web@one other --net tap=vm2 --new-mac
expect_true "a clone of another hardware address says so, too" wait_until 60 \
    grep -q "^arp-request .* $guest $guest\$" "$work/heard-vm2"
must stasis kill other

# On a network of its own there is a driver that was on a tap, and back again.
must stasis clone web@one alone --net user
expect "elsewhere, it goes on" one "$(guest alone 'cat /tmp/www/index.html' | tail -n 1)"
must stasis save alone@here
must stasis kill alone
must stasis restore alone@here --discard --net tap=vm2
expect "and back" "$sum" "$(fetched alone)"
