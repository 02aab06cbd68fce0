#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# What one more machine takes beside its guest's RAM: vmm.memory beside QEMU's microvm,
# vmm.memory.limit beside 5 MiB; in KiB of private pages.

here=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/../scripts/lib.sh"
# shellcheck source=benchmarks/lib.sh
. "$here/lib.sh"
# shellcheck source=benchmarks/vmm-lib.sh
. "$here/vmm-lib.sh"

samples=$(vmm_samples memory)
vmm_figure "$samples" private vmm.memory 1.00 lower KiB
figure vmm.memory.limit "$(awk '$1 == "ours" { print $3 }' <<<"$samples")" 5120 1.00 lower KiB
