# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the benchmarks of machines share; source it after benchmarks/lib.sh.

vmm_top=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd)

# Makes the guest in a folder: Debian's kernel, and an initramfs that is all of it.
make_guest() {
    local dir=$1 kernel busybox tree=$1/tree paths path
    kernel=$("$vmm_top/scripts/kernels" cloud) || skip "Debian's kernel cannot be fetched"
    busybox=$(find_busybox) || skip "there is no static busybox"
    mkdir -p "$tree"/{bin,dev,proc,sys,modules}
    cp "$busybox" "$tree/bin/busybox"
    ln -s busybox "$tree/bin/sh"
    install -m 755 "$vmm_top/benchmarks/vmm-init" "$tree/init"
    install -m 755 "$STASIS_BUILD/benchmarks/vmm_load" "$tree/bin/vmm_load"
    paths=$(module_closure "$kernel" virtio_mmio virtio_blk virtio_net)
    while read -r path; do
        cp "$path" "$tree/modules/"
        printf '%s\n' "${path##*/}" >>"$tree/modules/list"
    done <<<"$paths"
    pack_cpio "$tree" "$dir/initrd"
    rm -rf "$tree"
    cp "$kernel/vmlinuz" "$dir/vmlinuz"
    cp "$STASIS_BUILD/benchmarks/vmm_load" "$dir/vmm_load"
    # Data that compresses a little, and room.
    head -c 24M /dev/urandom | base64 -w 0 | head -c 32M >"$dir/disk.raw"
    truncate -s 128M "$dir/disk.raw"
}

# vmm_samples WHAT: prints what benchmarks/vmm-steps measured, in the lab where this
# host's KVM does not run stock Linux.
vmm_samples() {
    local dir where=() status=0
    have qemu-system-x86_64 || skip "there is no qemu-system-x86_64" >&2
    dir=$(mktemp -d "$STASIS_BUILD/bench.XXXXXX")
    make_guest "$dir"
    "$vmm_top/scripts/host-runs-linux" "$STASIS" >/dev/null ||
        where=("$vmm_top/tests/lab/run" --timeout 1200 --)
    "${where[@]}" env STASIS="$STASIS" "$vmm_top/benchmarks/vmm-steps" "$1" "$dir" || status=$?
    rm -rf "$dir"
    return "$status"
}

# vmm_figure SAMPLES NAME FIGURE GOAL lower|higher UNIT: one line, of the medians.
vmm_figure() {
    local ours qemu
    mapfile -t ours < <(awk -v name="$2" '$1 == "ours" && $2 == name { print $3 }' <<<"$1")
    mapfile -t qemu < <(awk -v name="$2" '$1 == "qemu" && $2 == name { print $3 }' <<<"$1")
    figure "$3" "$(median "${ours[@]}")" "$(median "${qemu[@]}")" "$4" "$5" "$6"
}
