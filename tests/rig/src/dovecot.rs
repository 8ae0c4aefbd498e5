//! The dovecot that is installed: its configuration, in the language of its
//! version, and its words in the log.
//!
//! 2.4 took another language than 2.3; which one is asked of the program.

use crate::other_user::is_root;
use crate::process::run;
use crate::server::{ServerOptions, Tls};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

/// Where dovecot is looked for, and what it looks for programs in.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What dovecot 2.3 says after login, less what is switched off. It can only be
/// given the whole list; from 2.4 on single ones can be taken out.
const CAPABILITIES: &str = "IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE SORT SORT=DISPLAY \
    THREAD=REFERENCES THREAD=REFS THREAD=ORDEREDSUBJECT MULTIAPPEND URL-PARTIAL CATENATE UNSELECT \
    CHILDREN NAMESPACE UIDPLUS LIST-EXTENDED I18NLEVEL=1 CONDSTORE QRESYNC ESEARCH ESORT \
    SEARCHRES WITHIN CONTEXT=SEARCH LIST-STATUS BINARY MOVE SNIPPET=FUZZY PREVIEW=FUZZY PREVIEW \
    STATUS=SIZE SAVEDATE LITERAL+ NOTIFY";

/// What 2.4 says besides.
const NEWER: &str = "REPLACE INPROGRESS UIDONLY QUOTA SPECIAL-USE SEARCH=FUZZY LITERAL-";

/// All that any version says after login.
pub(crate) fn capabilities() -> impl Iterator<Item = &'static str> {
    CAPABILITIES.split_whitespace().chain(NEWER.split_whitespace())
}

/// A version of dovecot, as far as the rig can tell them apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dovecot {
    /// Such as `2.4.1`.
    version: String,
    /// The language of 2.4, and its words.
    new: bool,
}

fn name_of(flag: &str) -> String {
    run(Command::new("id").args(["-n", flag]), Duration::from_secs(60))
        .ok()
        .stdout
        .trim()
        .to_owned()
}

impl Dovecot {
    /// The one that is installed.
    pub(crate) fn installed() -> &'static Dovecot {
        static INSTALLED: OnceLock<Dovecot> = OnceLock::new();
        INSTALLED.get_or_init(|| {
            let mut command = Command::new("dovecot");
            command.arg("--version").env("PATH", PATH);
            Dovecot::named(&run(&mut command, Duration::from_secs(60)).ok().stdout)
        })
    }

    /// From what `dovecot --version` prints, such as `2.4.1-4 (7d8c0e5759)`.
    fn named(printed: &str) -> Dovecot {
        let end = printed.find(|c: char| c != '.' && !c.is_ascii_digit());
        let version = printed[..end.unwrap_or(printed.len())].to_owned();
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
        let (Some(Some(major)), Some(Some(minor))) = (numbers.next(), numbers.next()) else {
            panic!("dovecot --version says {printed:?}");
        };
        Dovecot { new: (major, minor) >= (2, 4), version }
    }

    /// How a line of the log begins that tells of a login.
    pub(crate) fn logged_in(&self) -> &'static str {
        if self.new { "Logged in: " } else { "Login: " }
    }

    /// The configuration of a server whose files are in this directory, and
    /// which listens at these ports: the users', and the rig's own.
    pub(crate) fn configuration(
        &self,
        options: &ServerOptions,
        dir: &Path,
        port: u16,
        rig_port: u16,
    ) -> String {
        let tls = self.tls(options, dir);
        let dir = dir.display();
        let (user, group) = if is_root() {
            ("nobody".to_owned(), "nogroup".to_owned())
        } else {
            (name_of("-u"), name_of("-g"))
        };
        let mut text = if self.new {
            // What both are called decides which defaults hold.
            format!("dovecot_config_version = {0}\ndovecot_storage_version = {0}\n", self.version)
        } else {
            String::new()
        };
        let index = if options.notify { "yes" } else { "no" };
        let _ = write!(
            text,
            "base_dir = {dir}/run
state_dir = {dir}/state
log_path = {dir}/log
protocols = imap
listen = 127.0.0.1
auth_failure_delay = 0
auth_mechanisms = plain login
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
first_valid_uid = 1
mail_uid = {user}
mail_gid = {group}
mail_max_userip_connections = 1000
mail_fsync = never
mailbox_list_index = {index}
service anvil {{
  chroot =
  # Failed logins of one test hold up no other: mode 0 switches the penalty off.
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service stats {{
  chroot =
}}
"
        );
        let format = &options.format;
        let service_count = if self.new {
            let _ = write!(
                text,
                "auth_allow_cleartext = yes
mail_home = {dir}/home/%{{user}}
mail_driver = {format}
mail_path = {dir}/mail/%{{user}}
login_log_format_elements = user=<%{{user}}> lport=%{{local_port}}
passdb passwd-file {{
  passwd_file_path = {dir}/users
}}
userdb static {{
  fields {{
    uid = {user}
    gid = {group}
  }}
}}
"
            );
            "restart_request_count = unlimited"
        } else {
            let _ = write!(
                text,
                "disable_plaintext_auth = no
mail_home = {dir}/home/%u
mail_location = {format}:{dir}/mail/%u
login_log_format_elements = user=<%u> lport=%a
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {dir}/users
}}
userdb {{
  driver = static
  args = uid={user} gid={group}
}}
"
            );
            "service_count = 0"
        };
        let (imap, imaps) = if options.tls == Tls::Imaps { (0, port) } else { (port, 0) };
        let _ = write!(
            text,
            "service imap-login {{
  chroot =
  process_min_avail = 1
  {service_count}
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = {imaps}
    ssl = yes
  }}
  inet_listener rig {{
    port = {rig_port}
  }}
}}
namespace inbox {{
  inbox = yes
  prefix = {prefix}
  separator = {separator}
",
            prefix = options.prefix,
            separator = options.separator,
        );
        for name in &options.boxes {
            let _ = writeln!(text, "  mailbox \"{name}\" {{\n    auto = subscribe\n  }}");
        }
        text += "}\n";
        text += &tls;
        text += &self.without(&options.without);
        if options.rights.is_some() {
            text += &if self.new {
                format!(
                    "mail_plugins {{\n  acl = yes\n}}\nacl_driver = vfile\n\
                     acl_global_path = {dir}/rights\n"
                )
            } else {
                format!("mail_plugins = acl\nplugin {{\n  acl = vfile:{dir}/rights\n}}\n")
            };
        }
        if options.tokens {
            text += &self.tokens(&dir);
        }
        if let Some(quota) = options.quota {
            text += &self.quota(quota);
        }
        text + &options.extra + "\n"
    }

    fn tokens(&self, dir: &impl std::fmt::Display) -> String {
        let mechanisms = "auth_mechanisms = plain login xoauth2 oauthbearer\n";
        if self.new {
            format!(
                "{mechanisms}oauth2 {{\n  introspection_mode = local\n}}\n\
                 oauth2_local_validation {{\n  dict fs {{\n    fs posix {{\n      \
                 prefix = {dir}/keys/\n    }}\n  }}\n}}\n"
            )
        } else {
            format!(
                "{mechanisms}passdb {{\n  driver = oauth2\n  mechanisms = xoauth2 oauthbearer\n  \
                 args = {dir}/oauth2\n}}\n"
            )
        }
    }

    fn quota(&self, (all, each): (u32, u32)) -> String {
        let (all, each) = (format!("{all}K"), format!("{each}K"));
        if self.new {
            format!(
                "mail_plugins {{\n  quota = yes\n}}\nquota_mail_size = {each}\n\
                 quota user {{\n  driver = count\n  quota_storage_size = {all}\n}}\n"
            )
        } else {
            format!(
                "mail_plugins = quota\nplugin {{\n  quota = count:User quota\n  quota_vsizes = yes\n  \
                 quota_rule = *:storage={all}\n  quota_max_mail_size = {each}\n}}\n"
            )
        }
    }

    fn tls(&self, options: &ServerOptions, dir: &Path) -> String {
        if options.tls == Tls::None {
            return "ssl = no\n".to_owned();
        }
        let at = |name: &str| dir.join(name).display().to_string();
        let (cert, key) = match &options.certificate {
            Some((cert, key)) => (cert.display().to_string(), key.display().to_string()),
            None => (at("cert"), at("key")),
        };
        let mut text = "ssl = yes\n".to_owned();
        text += &if self.new {
            format!("ssl_server_cert_file = {cert}\nssl_server_key_file = {key}\n")
        } else {
            format!("ssl_cert = <{cert}\nssl_key = <{key}\n")
        };
        if options.client_authority.is_some() {
            let authority = at("authority");
            text += "auth_ssl_require_client_cert = yes\n";
            text += &if self.new {
                format!(
                    "ssl_server_ca_file = {authority}\n\
                     ssl_server_request_client_cert = yes\nssl_server_require_crl = no\n"
                )
            } else {
                format!(
                    "ssl_ca = <{authority}\n\
                     ssl_verify_client_cert = yes\nssl_require_crl = no\n"
                )
            };
        }
        text
    }

    fn without(&self, without: &[String]) -> String {
        if self.new {
            // 2.3 does not compress either, and some of the rig's proxies read lines.
            let all = without.iter().map(String::as_str).chain(["COMPRESS=DEFLATE"]);
            let lines: String = all.map(|name| format!("  \"{name}\" = no\n")).collect();
            format!("imap_capability {{\n{lines}}}\n")
        } else if without.is_empty() {
            String::new()
        } else {
            let (taken, kept): (Vec<&str>, Vec<&str>) = CAPABILITIES
                .split_whitespace()
                .partition(|capability| without.iter().any(|name| name == capability));
            // What it does not announce need not be taken out.
            if taken.is_empty() {
                return String::new();
            }
            format!("imap_capability = {}\n", kept.join(" "))
        }
    }
}
