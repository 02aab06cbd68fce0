#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A kernel with a driver for the VM generation id (Debian's generic one; the cloud
# flavour has none) seeds its random numbers anew when it was cloned or rolled back,
# and only then.

# shellcheck source=tests/e2e/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

STASIS_APPLIANCE=${STASIS_APPLIANCE_GENERIC:-$top/build/appliance-generic}
[[ -s $STASIS_APPLIANCE/vmlinuz ]] || skip "there is no appliance with the generic kernel"

reseeds() { guest "$1" 'dmesg | grep -c "crng reseeded due to virtual machine fork"; true'; }
has_reseeds() { [[ $(reseeds "$1") == "$2" ]]; }

boot_appliance web
expect "a machine that booted is of one generation" 0 "$(reseeds web)"
must stasis save web@one
must stasis pause web
must stasis resume web
expect "a save and a pause change nothing" 0 "$(reseeds web)"

must stasis clone web@one twin
expect_true "a clone is told" wait_until 60 has_reseeds twin 1
must stasis restore web@one --discard
expect_true "a machine that is rolled back is told" wait_until 60 has_reseeds web 1
must stasis restore web@one --discard
expect_true "and each time" wait_until 60 has_reseeds web 1
must stasis kill web
must stasis restore web@one
expect_true "and by a new process" wait_until 60 has_reseeds web 1
must stasis clone twin twin2
expect_true "a clone of a clone is told again" wait_until 60 has_reseeds twin2 2
