#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# From the start of the command to the guest's first process, beside QEMU's microvm
# with the same kernel and initramfs: vmm.boot, in ms.

here=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/../scripts/lib.sh"
# shellcheck source=benchmarks/lib.sh
. "$here/lib.sh"
# shellcheck source=benchmarks/vmm-lib.sh
. "$here/vmm-lib.sh"

samples=$(vmm_samples boot)
vmm_figure "$samples" init vmm.boot 1.00 lower ms
