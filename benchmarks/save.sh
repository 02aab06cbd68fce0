#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Saving a machine of 1 GiB, and one of 8, that has the RAM of a stock Debian guest,
# of which 50 MiB were written since the last time:
#   save.pause      how long the guest stands still, beside QEMU, which stops it for all of
#                   its save; the median, and the 99th percentile (of 30: the worst)
#   save.pause.8g   the same of 8 GiB beside 1 GiB
#   save.total.8g   until it is durable, of 8 GiB beside 1 GiB

here=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/../scripts/lib.sh"
# shellcheck source=benchmarks/lib.sh
. "$here/lib.sh"

[[ -r /dev/kvm && -w /dev/kvm ]] || skip "/dev/kvm cannot be opened"
have qemu-system-x86_64 || skip "there is no qemu-system-x86_64"
data=$(bench_data) || exit
samples=$(python3 "$here/save_steps.py" "$data/memory2.raw")

# column WHO MEMORY COLUMN: of the samples
column() { awk -v who="$1" -v memory="$2" -v at="$3" '$1 == who && $2 == memory { print $at }' <<<"$samples"; }
mapfile -t small < <(column ours 1G 3)
mapfile -t large < <(column ours 8G 3)
mapfile -t qemu < <(column qemu 1G 3)
mapfile -t small_total < <(column ours 1G 4)
mapfile -t large_total < <(column ours 8G 4)
p99() { printf '%s\n' "$@" | sort -g | awk '{ v[NR] = $1 } END { print v[int(NR * 0.99 + 0.5)] }'; }

figure save.pause "$(median "${small[@]}")" "$(median "${qemu[@]}")" =5 lower ms
figure save.pause.p99 "$(p99 "${small[@]}")" "$(median "${qemu[@]}")" =10 lower ms
figure save.pause.8g "$(median "${large[@]}")" "$(median "${small[@]}")" 0.77 lower ms
figure save.total.8g "$(median "${large_total[@]}")" "$(median "${small_total[@]}")" 0.833 lower ms
