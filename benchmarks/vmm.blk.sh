#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# A guest's disk beside QEMU's microvm (a raw file there): requests of 4 KiB a second,
# MB/s in requests of 128 KiB; base.* is what the image holds, which is compressed here.

here=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/../scripts/lib.sh"
# shellcheck source=benchmarks/lib.sh
. "$here/lib.sh"
# shellcheck source=benchmarks/vmm-lib.sh
. "$here/vmm-lib.sh"

samples=$(vmm_samples blk)
for name in read write base.read; do
    vmm_figure "$samples" "$name" "vmm.blk.$name" 1.00 higher MB/s
done
for name in randread1 randread randwrite base.randread; do
    vmm_figure "$samples" "$name" "vmm.blk.$name" 1.00 higher /s
done
