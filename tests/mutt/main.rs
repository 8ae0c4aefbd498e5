//! What mutt and neomutt see of mutt-sync: the muttrc it prints, its keys and
//! hooks, the status line, and mail sent from each account.

mod after;
mod clients;
mod hooks;
mod leaks;
mod live;
mod matrix;
mod notify_bus;
mod result;
mod screen;
mod send;
mod status;
mod support;
mod text;
