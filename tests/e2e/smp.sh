#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Two CPUs: stock Linux brings both up, and both go on after a restore in place
# and in a clone, each at its own work.

# shellcheck source=tests/e2e/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

# Has CPU $2 of machine $1 done work of its own? Its counter must move.
counts_on_cpu() {
    guest "$1" "a=\$(cat /tmp/count$2); n=0
while [ \"\$(cat /tmp/count$2)\" = \"\$a\" ] && [ \$n -lt 100 ]; do sleep 0.1; n=\$((n + 1)); done
[ \"\$(cat /tmp/count$2)\" != \"\$a\" ]"
}

both_count() {
    expect "$1 has two CPUs" 2 "$(guest "$1" nproc)"
    expect_true "CPU 0 of $1 works" counts_on_cpu "$1" 0
    expect_true "CPU 1 of $1 works" counts_on_cpu "$1" 1
}

import_appliance
must stasis run appliance:1 --name web --cpus 2 -d
must "$top/scripts/console-do" --timeout 120 --boot web
# shellcheck disable=SC2016  # for the guest's shell
guest web 'for cpu in 0 1; do
taskset $((cpu + 1)) sh -c "n=0; while sleep 0.1; do n=\$((n + 1)); echo \$n >/tmp/count$cpu; done" &
done'
must wait_until 30 guest web 'cat /tmp/count0 /tmp/count1 >/dev/null 2>&1'
both_count web

must stasis save web@busy
must stasis restore web@busy --discard
both_count web
must stasis clone web@busy twin
must stasis kill web
both_count twin
must stasis stop twin
must wait_until 60 is_state twin stopped
