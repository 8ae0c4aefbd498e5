# bash completion for mutt-sync: options, and names and mailboxes from .mbsyncrc.
# shellcheck shell=bash

# Accounts, channels and groups, and CHANNEL:BOX, one on a line. The arguments
# are what --list is to be given. Read from files; the server is not asked.
_mutt_sync_names() {
    mutt-sync --list --json "$@" 2>/dev/null |
        grep -oE '"(name|channels|groups)":("([^"\\]|\\.)*"|\[("([^"\\]|\\.)*",?)*\])' |
        sed 's/^"[a-z]*"://' | grep -oE '"([^"\\]|\\.)*"' |
        sed 's/^"//; s/"$//; s/\\\(.\)/\1/g' | sort -u
}

_mutt_sync() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev='' at=$COMP_CWORD from='' quote='' line
    local -a given=()
    COMPREPLY=()

    # Readline has split the word at colons and equals signs: put it together.
    if [[ $COMP_WORDBREAKS == *:* ]]; then
        if [[ $cur == : ]]; then
            from=${COMP_WORDS[at - 1]}: cur='' at=$((at - 1))
        elif ((at > 2)) && [[ ${COMP_WORDS[at - 1]} == : ]]; then
            from=${COMP_WORDS[at - 2]}: at=$((at - 2))
        fi
    fi
    if [[ $cur == = ]]; then
        cur='' prev=${COMP_WORDS[at - 1]}
    elif ((at > 1)) && [[ ${COMP_WORDS[at - 1]} == = ]]; then
        prev=${COMP_WORDS[at - 2]}
    elif ((at > 0)); then
        prev=${COMP_WORDS[at - 1]}
    fi

    case $prev in
        --mbsyncrc | --config)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        --throttle)
            mapfile -t COMPREPLY < <(compgen -W '0s 30s 1m 5m' -- "$cur")
            return
            ;;
        --every)
            mapfile -t COMPREPLY < <(compgen -W '5m 15m 30m 1h' -- "$cur")
            return
            ;;
    esac

    if [[ -z $from && $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W '
            -b --background -w --wait --loop --status --status-line --list --check --muttrc
            -a --all -n --dry-run -f --force --block --throttle --every --mbsyncrc --config
            --json -q --quiet -v --verbose -V --version -h --help' -- "$cur")
        return
    fi

    # The files that were named before count for the list, too.
    for ((at = 1; at < COMP_CWORD - 1; at++)); do
        case ${COMP_WORDS[at]} in
            --mbsyncrc | --config)
                line=${COMP_WORDS[at + 1]}
                [[ $line == = ]] && line=${COMP_WORDS[at + 2]}
                given+=("${COMP_WORDS[at]}" "${line/#\~\//$HOME/}")
                ;;
        esac
    done

    # What is typed may be quoted, by a quote at its beginning or by backslashes.
    case $cur in
        \"* | \'*) quote=${cur:0:1} cur=${cur:1} ;;
        *) cur=${cur//\\/} ;;
    esac
    from=${from//\\/}
    # Of several mailboxes the last one is being typed.
    local typed=$from$cur before=''
    if [[ $typed == *:*,* ]]; then
        before=${typed%,*},
        typed=${typed%%:*}:${typed##*,}
    fi
    while IFS= read -r line; do
        # Mailboxes only after the colon: there may be thousands.
        [[ $line == "$typed"* && ($typed == *:* || $line != *:*) ]] || continue
        [[ -n $before ]] && line=$before${line#*:}
        line=${line#"$from"}
        if [[ -n $quote ]]; then
            COMPREPLY+=("$line")
        else
            line=$(printf '%q' "$line")
            COMPREPLY+=("${line//\\,/,}")
        fi
    done < <(_mutt_sync_names "${given[@]}")
    # A mailbox may follow a name, or another mailbox.
    compopt -o nospace 2>/dev/null
}

complete -F _mutt_sync mutt-sync
