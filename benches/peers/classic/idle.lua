-- Touches the trigger file when the server says anything of the mailbox.
options.wakeonany = true -- not only new mail, also flags and deletions
options.info = false

account = IMAP {
    server = "@HOST@",
    port = @PORT@,
    username = "@USER@",
    password = "@PASSWORD@",
    ssl = "auto",
}

while account[os.getenv("MAILBOX")]:enter_idle() do
    io.open(os.getenv("HOME") .. "/Mail/triggers/Home", "a"):close()
end
