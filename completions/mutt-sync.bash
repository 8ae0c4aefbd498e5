# bash completion for mutt-sync: options, and names and mailboxes from .mbsyncrc.
# shellcheck shell=bash

# Reads a word that is being typed as the shell does: `text`, and the `quote` that
# is open at its end. False for what is not plain: an expansion, a quote within it.
_mutt_sync_unquote() {
    local word=$1 at c
    text='' quote=''
    case $word in
        \"* | \'*) quote=${word:0:1} word=${word:1} ;;
    esac
    for ((at = 0; at < ${#word}; at++)); do
        c=${word:at:1}
        case $quote$c in
            \'[!\']) ;;
            [\"\']$quote | [\"\'\$\`] | \"[\$\`]) return 1 ;;
            \\) c=${word:$((++at)):1} ;;
            \"\\) [[ ${word:at+1:1} == [\\\"\$\`] ]] && c=${word:$((++at)):1} ;;
        esac
        text+=$c
    done
}

# Spells a name for the quote that is open. False if there it has no spelling.
_mutt_sync_quoted() {
    case $quote in
        \')
            text=$1
            [[ $1 != *\'* ]]
            ;;
        \")
            # Between double quotes an exclamation mark calls up the history.
            text=${1//\\/\\\\} text=${text//\"/\\\"} text=${text//\$/\\\$} text=${text//\`/\\\`}
            [[ $1 != *!* ]]
            ;;
        *)
            printf -v text %q "$1"
            text=${text//\\,/,}
            ;;
    esac
}

_mutt_sync() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev='' at=$COMP_CWORD from='' text quote line name
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
            -b --background -w --wait --loop --result --status --status-line --list --check --report --muttrc
            --init --msmtp
            --retry --acknowledge --allow-deletions --resync -a --all -n --dry-run -f --force --full --block
            --throttle --every --mbsyncrc --config
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

    _mutt_sync_unquote "${from%:}" && [[ -z $quote ]] || return
    [[ -n $from ]] && from=$text:
    _mutt_sync_unquote "$cur" || return
    # Of several mailboxes the last one is being typed.
    local typed=$from$text before=''
    name=${typed%%:*}
    if [[ $typed == *:*,* ]]; then
        before=${typed%,*},
        typed=$name:${typed##*,}
    fi
    # Mailboxes only after the colon: there may be thousands. Read from files; the
    # server is not asked.
    if [[ $prev == --muttrc ]]; then
        given+=(--complete accounts)
    elif [[ $typed == *:* ]]; then
        given+=(--complete mailboxes -- "$name")
    else
        given+=(--complete names)
    fi
    while IFS= read -r line; do
        [[ $line == "$typed"* ]] || continue
        [[ -n $before ]] && line=$before${line#*:}
        line=${line#"$from"}
        _mutt_sync_quoted "$line" && COMPREPLY+=("$text")
    done < <(mutt-sync "${given[@]}" 2>/dev/null)
    # A mailbox may follow a name, or another mailbox.
    compopt -o nospace 2>/dev/null
}

complete -F _mutt_sync mutt-sync
