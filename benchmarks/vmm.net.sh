#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# A guest's TCP to and from the host by user networking (libslirp both), beside QEMU's
# microvm, in MB/s.

here=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/../scripts/lib.sh"
# shellcheck source=benchmarks/lib.sh
. "$here/lib.sh"
# shellcheck source=benchmarks/vmm-lib.sh
. "$here/vmm-lib.sh"

samples=$(vmm_samples net)
for name in receive send; do
    vmm_figure "$samples" "$name" "vmm.net.$name" 1.00 higher MB/s
done
