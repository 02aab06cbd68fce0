#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A machine of a CPU baseline boots, has no more than that, and says what it needs.

# shellcheck source=tests/e2e/lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

has_flag() { guest "$1" "grep -m 1 ^flags /proc/cpuinfo" | grep -qw "$2"; }
lacks_flag() { ! has_flag "$1" "$2"; }

boot_appliance web --cpu v2
for flag in cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3; do
    expect_true "x86-64-v2 has $flag" has_flag web "$flag"
done
for flag in avx xsave bmi1 aes svm rdrand smap; do
    expect_true "and nothing beyond, like $flag" lacks_flag web "$flag"
done
must stasis save web@one
needs=$(stasis inspect web@one | jq -r '.cpu_features | join(" ")')
expect_like "the checkpoint says what it needs" '*sse4_2*' "$needs"
expect_like "which is not what the host has" 'no' "$(grep -qw aes <<<"$needs" && echo yes || echo no)"
must stasis clone web@one twin
expect "a clone goes on" alive "$(guest twin 'echo alive')"
must stasis restore web@one --discard
expect "so does the machine itself" alive "$(guest web 'echo alive')"

must stasis kill twin
boot_appliance all
expect_true "all that the host has does not make a host of a guest" lacks_flag all '\(svm\|vmx\)'
must stasis kill all

if grep -qw avx2 /proc/cpuinfo && grep -qw xsave /proc/cpuinfo; then
    must stasis run appliance:1 --name third -d --cpu v3
    must "$top/scripts/console-do" --timeout 120 --boot third
    expect_true "x86-64-v3 has avx2" has_flag third avx2
else
    expect_exit 14 stasis run appliance:1 --name third -d --cpu v3
    expect_like "a host that does not reach x86-64-v3 says what it lacks" '*x86-64-v3, it lacks: *' "$said"
fi
expect_exit 2 stasis run appliance:1 --name fourth -d --cpu v9
