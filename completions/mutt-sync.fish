# fish completion for mutt-sync: options, and names and mailboxes from .mbsyncrc.

# What the token at hand may become. Read from files; the server is not asked.
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
    if test "$words[-1]" = --muttrc
        command mutt-sync $given --complete accounts 2>/dev/null
        return
    end
    if not string match -q '*:*' -- "$token"
        command mutt-sync $given --complete names 2>/dev/null
        return
    end
    # Of several mailboxes the last one is being typed.
    set -l name (string replace -r ':.*' '' -- $token)
    set -l before (string match -r '.*,' -- $token; or echo $name:)
    for each in (command mutt-sync $given --complete mailboxes -- $name 2>/dev/null)
        echo -- $before(string split -m 1 : -- $each)[2]
    end
end

complete -c mutt-sync -f -a '(__mutt_sync_names)'
complete -c mutt-sync -s b -l background -d 'Submit the request and return at once'
complete -c mutt-sync -s w -l wait -d 'Wait until a sync is needed, sync, exit'
complete -c mutt-sync -l result -d 'Print the result of the last -f, for mutt\'s message line'
complete -c mutt-sync -l loop -d 'With --wait: continue waiting instead of exiting'
complete -c mutt-sync -l status -d 'Show the state of each account without contacting the server'
complete -c mutt-sync -l status-line -d 'Print FORMAT with the state appended, for mutt\'s status_format'
complete -c mutt-sync -l list -d 'List accounts, their mailboxes and Maildirs'
complete -c mutt-sync -l check -d 'Check everything that a sync needs, and print how to fix it'
complete -c mutt-sync -l report -d 'With --check: print what a bug report needs, without names'
complete -c mutt-sync -l retry -d 'Try again what mbsync could not transfer'
complete -c mutt-sync -l acknowledge -d 'Stop reporting what mbsync could not transfer'
complete -c mutt-sync -l allow-deletions -d 'Go ahead once with the deletions that are held'
complete -c mutt-sync -l resync -d 'Sync a mailbox whose Maildir or record is not the one of the last run'
complete -c mutt-sync -l muttrc -d 'Print lines for muttrc; with ACCOUNT, that account\'s identity file'
complete -c mutt-sync -l init -d 'Print a .mbsyncrc for ADDRESS, to be completed'
complete -c mutt-sync -l msmtp -d 'With --init: print an msmtprc instead'
complete -c mutt-sync -s a -l all -d 'Every channel of every account'
complete -c mutt-sync -s n -l dry-run -d 'Print what would run, and why'
complete -c mutt-sync -s f -l force -d 'Ignore throttle, pace and backoff'
complete -c mutt-sync -l full -d 'Run mbsync for everything that is asked for, whatever differs'
complete -c mutt-sync -l block -d 'Wait for the result, even when throttled'
complete -c mutt-sync -l throttle -x -a '0s 30s 1m 5m' -d 'Least average interval between two logins'
complete -c mutt-sync -l every -x -a '5m 15m 30m 1h' -d 'With --wait: compare everything at least this often'
complete -c mutt-sync -l mbsyncrc -r -F -d 'The configuration of mbsync to use'
complete -c mutt-sync -l config -r -F -d 'The configuration of mutt-sync to use'
complete -c mutt-sync -l json -d 'With --status, --list, --check: print JSON'
complete -c mutt-sync -s q -l quiet -d 'Print errors only; -qq: only errors that will not go away by themselves'
complete -c mutt-sync -s v -l verbose -d 'Print each decision and the output of mbsync'
complete -c mutt-sync -s V -l version -d 'Print the version'
complete -c mutt-sync -s h -l help -d 'Print help'
