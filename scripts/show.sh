# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Shows commands before their output. Source it after lib.sh.

# Decided where the output goes to a person; inside the lab it is told.
if [[ -n ${NO_COLOR-} ]]; then
    STASIS_DEMO_COLOR=0
elif [[ -z ${STASIS_DEMO_COLOR-} ]]; then
    STASIS_DEMO_COLOR=0
    [[ ! -t 1 ]] || STASIS_DEMO_COLOR=1
fi
export STASIS_DEMO_COLOR

bold() {
    if [[ $STASIS_DEMO_COLOR == 1 ]]; then
        printf '\e[1m%s\e[0m\n' "$*"
    else
        printf '%s\n' "$*"
    fi
}

# note TEXT...: a sentence between commands.
note() { printf '\n%s\n' "$(fold -s -w 78 <<<"# $*" | sed '2,$s/^/# /')"; }

# quoted WORD...: as one would type it.
quoted() {
    local word text=''
    for word; do
        if [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]]; then
            text+=" $word"
        else
            text+=" '${word//\'/\'\\\'\'}'"
        fi
    done
    printf '%s\n' "${text# }"
}

# show CMD...: prints it with a prompt, in bold, and runs it.
show() {
    bold "\$ $(quoted "$@")"
    "$@"
}

# show_brief CMD...: the same for one that talks a lot: only its last line,
# unless it fails.
show_brief() {
    local output
    bold "\$ $(quoted "$@")"
    if ! output=$("$@" 2>&1); then
        printf '%s\n' "$output"
        return 1
    fi
    tail -n 1 <<<"$output"
}
