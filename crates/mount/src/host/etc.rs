// SPDX-License-Identifier: Apache-2.0
//! Which files of /etc a host container gets a copy of: an allow-list of names, and what is held back all the same.
//!
//! An allow-list, because nobody knows all secrets that a machine keeps in /etc; a name that is missing here costs a
//! program its settings, a name too many could cost somebody a key.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

/// What of /etc is copied: settings of programs that anybody runs, and what package tools work on. Words, in groups.
const LISTED: &str = "
    passwd group nsswitch.conf host.conf gai.conf networks protocols services rpc ethertypes
    shells login.defs adduser.conf deluser.conf default skel pam.conf pam.d security environment
    os-release debian_version lsb-release redhat-release fedora-release system-release
    centos-release almalinux-release rocky-release SuSE-release arch-release alpine-release
    gentoo-release issue issue.net motd localtime timezone locale.alias locale.conf locale.gen
    mtab mime.types magic magic.mime
    ld.so.cache ld.so.conf ld.so.conf.d profile profile.d bash.bashrc bash.bash_logout bashrc
    bash_completion bash_completion.d csh.cshrc csh.login inputrc zsh zshrc zshenv zprofile fish
    terminfo screenrc tmux.conf DIR_COLORS GREP_COLORS
    alternatives apt dpkg debconf.conf ucf.conf pacman.conf pacman.d makepkg.conf yum yum.conf
    yum.repos.d dnf rpm zypp apk portage kernel-img.conf cron.d cron.daily cron.hourly
    cron.weekly cron.monthly init.d rc0.d rc1.d rc2.d rc3.d rc4.d rc5.d rc6.d rcS.d systemd
    tmpfiles.d sysctl.d sysusers.d modprobe.d modules-load.d binfmt.d logrotate.d logrotate.conf
    update-motd.d mke2fs.conf e2scrub.conf dhcp udev init insserv.conf.d perl python python2.7
    python3
    python3.9 python3.10 python3.11 python3.12 python3.13 python3.14 java java-8-openjdk
    java-11-openjdk java-17-openjdk java-21-openjdk java-25-openjdk jvm maven gradle ghc R
    octave.conf sgml xml emacs vim vimrc nanorc gitconfig mercurial subversion wgetrc curlrc gdb
    lsb-base groff manpath.config man_db.conf papersize fonts X11 xdg gtk-2.0 gtk-3.0 dconf
    glvnd OpenCL vulkan ImageMagick-6 ImageMagick-7 texmf ghostscript libpaper.d mailcap
    mailcap.order lynx w3m rmt opt calendar
    ca-certificates ca-certificates.conf ssl pki crypto-policies gss libaudit.conf iproute2
    netconfig bindresvport.blacklist debuginfod lighttpd apache2 nginx httpd
";

/// Returns the names in /etc that are copied, with what is below them.
pub(super) fn listed() -> impl Iterator<Item = &'static str> {
    LISTED.split_whitespace()
}

/// Says whether a path is that of a secret, whatever its mode. The allow-list keeps most out; this is the second line.
pub(super) fn is_secret(path: &Path) -> bool {
    const NAMES: &[&str] = &[
        "private",
        "auth.conf",
        "auth.conf.d",
        "opasswd",
        "credentials",
        "keytab",
    ];
    const ENDINGS: &[&str] = &[
        ".key",
        "_key",
        ".keytab",
        ".p12",
        ".pfx",
        ".jks",
        ".htpasswd",
        ".netrc",
    ];
    const PARTS: &[&str] = &["shadow", "secret", "ssh_host", "sudoers"];
    let name = path.file_name().map_or(&b""[..], OsStr::as_bytes);
    let name = String::from_utf8_lossy(name).to_lowercase();
    NAMES.contains(&name.as_str())
        || ENDINGS.iter().any(|ending| name.ends_with(ending))
        || PARTS.iter().any(|part| name.contains(part))
}

/// Says whether a file holds a private key in the usual armour.
pub(super) fn holds_private_key(bytes: &[u8]) -> bool {
    const ARMOUR: &[u8] = b"PRIVATE KEY-----";
    bytes.windows(ARMOUR.len()).any(|window| window == ARMOUR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_names_each_once_and_no_secret() {
        let mut names: Vec<&str> = listed().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for name in [
            "shadow",
            "gshadow",
            "ssh",
            "sudoers",
            "hosts",
            "fstab",
            "machine-id",
        ] {
            assert!(!names.contains(&name), "{name}");
        }
        assert!(!names.iter().any(|name| is_secret(Path::new(name))));
    }

    #[test]
    fn secrets_are_known_by_name() {
        for (path, secret) in [
            ("etc/ssl/private", true),
            ("etc/shadow-", true),
            ("etc/gshadow", true),
            ("etc/apt/auth.conf.d", true),
            ("etc/ssh/ssh_host_ed25519_key.pub", true),
            ("etc/security/opasswd", true),
            ("etc/passwd", false),
            ("etc/ssl/certs/ca.pem", false),
            ("etc/apt/sources.list", false),
            ("etc/X11/xkb/keymap", false),
        ] {
            assert_eq!(is_secret(Path::new(path)), secret, "{path}");
        }
    }
}
