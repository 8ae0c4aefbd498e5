# fish completion for mutt-sync: options, and names and mailboxes from .mbsyncrc.

# Accounts, channels and groups, and CHANNEL:BOX, one on a line. The arguments
# are what --list is to be given. Read from files; the server is not asked.
function __mutt_sync_list
    command mutt-sync --list --json $argv 2>/dev/null |
        command grep -oE '"(name|channels|groups)":("([^"\\\\]|\\\\.)*"|\\[("([^"\\\\]|\\\\.)*",?)*\\])' |
        command sed 's/^"[a-z]*"://' | command grep -oE '"([^"\\\\]|\\\\.)*"' |
        command sed 's/^"//; s/"$//; s/\\\\\\(.\\)/\\1/g' | command sort -u
end

# What the token at hand may become.
function __mutt_sync_names
    # The files that were named before count for the list, too.
    set -l given
    set -l words (commandline -opc)
    for at in (seq 2 (count $words))
        switch $words[$at]
            case --mbsyncrc --config
                set -q words[(math $at + 1)]
                and set -a given $words[$at] $words[(math $at + 1)]
            case '--mbsyncrc=*' '--config=*'
                set -a given $words[$at]
        end
    end
    set -l token (string unescape -- (commandline -ct))
    set -l known (__mutt_sync_list $given)
    if not string match -q '*:*' -- "$token"
        string match -v '*:*' -- $known
        return
    end
    # Of several mailboxes the last one is being typed.
    set -l name (string replace -r ':.*' ':' -- $token)
    set -l before (string match -r '.*,' -- $token; or echo $name)
    for each in $known
        set -l mailbox (string split -m 1 : -- $each)
        test "$mailbox[1]:" = "$name"
        and set -q mailbox[2]
        and echo -- $before$mailbox[2]
    end
end


complete -c mutt-sync -f -a '(__mutt_sync_names)'
complete -c mutt-sync -s b -l background -d 'Submit the request and return at once'
complete -c mutt-sync -s w -l wait -d 'Wait until a sync is needed, sync, exit'
complete -c mutt-sync -l loop -d 'With --wait: continue waiting instead of exiting'
complete -c mutt-sync -l status -d 'Show the state of each account without contacting the server'
complete -c mutt-sync -l status-line -d 'Print FORMAT with the state appended, for mutt\'s status_format'
complete -c mutt-sync -l list -d 'List accounts, their mailboxes and Maildirs'
complete -c mutt-sync -l check -d 'Check everything that a sync needs, and print how to fix it'
complete -c mutt-sync -l muttrc -d 'Print lines for muttrc; with ACCOUNT, that account\'s identity file'
complete -c mutt-sync -s a -l all -d 'Every channel of every account'
complete -c mutt-sync -s n -l dry-run -d 'Print what would run, and why'
complete -c mutt-sync -s f -l force -d 'Ignore throttle and backoff'
complete -c mutt-sync -l block -d 'Wait for the result, even when throttled'
complete -c mutt-sync -l throttle -x -a '0s 30s 1m 5m' -d 'Least interval between two runs of an account'
complete -c mutt-sync -l every -x -a '5m 15m 30m 1h' -d 'Sync everything at least this often'
complete -c mutt-sync -l mbsyncrc -r -F -d 'The configuration of mbsync to use'
complete -c mutt-sync -l config -r -F -d 'The configuration of mutt-sync to use'
complete -c mutt-sync -l json -d 'With --status, --list, --check: print JSON'
complete -c mutt-sync -s q -l quiet -d 'Print errors only; -qq: only errors that will not go away by themselves'
complete -c mutt-sync -s v -l verbose -d 'Print each decision and the output of mbsync'
complete -c mutt-sync -s V -l version -d 'Print the version'
complete -c mutt-sync -s h -l help -d 'Print help'
