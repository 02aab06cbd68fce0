#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# restore.rollback: putting a machine of 1 GiB back to its checkpoint after 1 MiB was
# written, as who asks for it sees it; beside 2 ms.

here=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/../scripts/lib.sh"
# shellcheck source=benchmarks/lib.sh
. "$here/lib.sh"

[[ -r /dev/kvm && -w /dev/kvm ]] || skip "/dev/kvm cannot be opened"
data=$(bench_data) || exit
samples=$(python3 "$here/restore_steps.py" "$data/memory2.raw")
mapfile -t took < <(awk '{ print $2 }' <<<"$samples")
figure restore.rollback "$(median "${took[@]}")" 2 1.00 lower ms
