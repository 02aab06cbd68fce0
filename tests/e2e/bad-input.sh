#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What is wrong gets a clear error and the right exit code, and nothing is lost.

# shellcheck source=tests/e2e/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

expect_exit 2 stasis no-such-verb
expect_exit 2 stasis run
expect_exit 10 stasis run nothing:1 -d
expect_exit 10 stasis save nothing@one
expect_exit 10 stasis pause nothing

echo "not a kernel" >"$work/text"
expect_true "what is no kernel is refused" bash -c "! '$STASIS' run --kernel '$work/text' --name bad -d >/dev/null 2>'$work/err'"
expect_true "and the error names it" grep -q text "$work/err"
head -c 1000 /dev/zero >"$work/odd.raw"
expect_true "a disk that is no multiple of a sector is refused" bash -c \
    "! '$STASIS' import odd:1 --kernel '$STASIS_APPLIANCE/vmlinuz' --disk '$work/odd.raw' >/dev/null 2>'$work/err'"
expect_true "and the error names it" grep -q odd.raw "$work/err"
expect "nothing was left behind" '' "$(stasis ls -q; stasis images -q)"

import_appliance
expect_exit 12 stasis import appliance:1 --kernel "$STASIS_APPLIANCE/vmlinuz"
boot_appliance web
expect_exit 12 stasis run appliance:1 --name web -d
must stasis save web@one
expect_exit 12 stasis save web@one
expect_exit 10 stasis restore web@two
expect "the machine runs on" running "$(state_of web)"

# A host without KVM, and one where /dev/kvm is something else.
mkdir "$work/dev"
touch "$work/dev/null" "$work/dev/urandom"
# shellcheck disable=SC2016  # for the inner shell
without_kvm='mount --bind /dev/null "$0/null" && mount --bind /dev/urandom "$0/urandom" &&
    mount --rbind "$0" /dev && exec "$@"'
if unshare --mount true 2>/dev/null; then
    expect_exit 14 unshare --mount sh -c "$without_kvm" "$work/dev" "$STASIS" run appliance:1 --name none -d
    expect_like "it says what to do" '*/dev/kvm*hint: *' "$said"
    expect_exit 14 unshare --mount sh -c "$without_kvm" "$work/dev" "$STASIS" doctor
    expect_like "doctor says what is missing" '*kvm*hint: *' "$said"
    expect_exit 14 unshare --mount sh -c 'mount --bind /dev/null /dev/kvm && exec "$@"' - \
        "$STASIS" run appliance:1 --name none -d
    expect_exit 10 stasis inspect none
else
    echo "left out: hosts without KVM (no mount namespaces here)"
fi

# A store with a flipped bit says so, and which checkpoint it hurts.
must stasis kill web
pack=$(find "$STASIS_HOME" -name '*.pack' -size +100k | head -n 1)
[[ -n $pack ]] || die "there is no pack in $STASIS_HOME"
cp "$pack" "$work/pack"
chmod u+w "$pack"
printf '\xa5\x5a\xa5\x5a' | dd of="$pack" bs=1 seek=50000 conv=notrunc status=none
expect_exit 13 stasis verify
cp "$work/pack" "$pack"
expect_exit 0 stasis verify
