# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the project's shell scripts share. Source it, don't run it.

set -euo pipefail

# Results go to stdout, everything else to stderr.
say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# die MESSAGE [HINT]
die() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    [[ -z ${2-} ]] || printf '    %s\n' "$2" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Tools like mke2fs and debugfs live in sbin, which a plain user's PATH lacks.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# as_root CMD...: runs CMD as root, by sudo where we are somebody else.
as_root() {
    if [[ $EUID -eq 0 ]]; then
        "$@"
    elif have sudo; then
        sudo -- "$@"
    else
        die "need root to run: $*" "Run this as root, or install sudo."
    fi
}

# Where downloads and things built from them are kept between runs.
cache_dir() {
    local dir
    if [[ -n ${STASIS_CACHE-} ]]; then
        dir=$STASIS_CACHE
    elif [[ -n ${XDG_CACHE_HOME-} ]]; then
        dir=$XDG_CACHE_HOME/stasis
    elif [[ $EUID -eq 0 ]]; then
        dir=/var/cache/stasis-build
    else
        dir=$HOME/.cache/stasis
    fi
    mkdir -p "$dir" || die "cannot make the cache folder $dir" "Set STASIS_CACHE to a folder you can write to."
    (cd "$dir" && pwd)
}

# find_busybox: prints the path of a static busybox (the package busybox-static).
find_busybox() {
    local path
    for path in /bin/busybox /usr/bin/busybox; do
        if [[ -x $path ]] && [[ $(LC_ALL=C ldd "$path" 2>&1) == *"not a dynamic"* ]]; then
            printf '%s\n' "$path"
            return
        fi
    done
    return 1
}

# module_closure KERNEL_DIR MODULE...: prints the paths of the modules and of
# all they depend on, in the order they have to be loaded. What is built into
# the kernel is left out; what is nowhere is an error. (The packages are only
# unpacked, so there is no modules.dep to ask modprobe with.)
module_closure() {
    local versions=("$1"/lib/modules/*)
    declare -A seen=()
    _module_closure_dir=${versions[0]}
    shift
    local name
    for name; do
        _module_visit "$name" || return 1
    done
}

_module_visit() {
    local name=${1//-/_} path dep
    [[ -z ${seen[$name]-} ]] || return 0
    seen[$name]=1
    # File names mix - and _ freely; the kernel does not care.
    path=$(find "$_module_closure_dir/kernel" -name "${name//_/[-_]}.ko" -print -quit)
    if [[ -z $path ]]; then
        grep -q "/${name//_/[-_]}\.ko\$" "$_module_closure_dir/modules.builtin" && return 0
        say "no module $1 in $_module_closure_dir"
        return 1
    fi
    while read -r dep; do
        [[ -z $dep ]] || _module_visit "$dep" || return 1
    done < <(modinfo -F depends "$path" | tr ',' '\n')
    printf '%s\n' "$path"
}

# pack_cpio DIR FILE: an initramfs of everything in DIR, owned by root.
pack_cpio() {
    local out
    out=$(realpath "$2")
    (cd "$1" && find . -mindepth 1 | LC_ALL=C sort |
        cpio --quiet --reproducible -o -H newc -R 0:0 >"$out")
}
