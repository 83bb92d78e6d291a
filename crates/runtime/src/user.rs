// SPDX-License-Identifier: Apache-2.0
//! Whom a process runs as: words like `www-data:adm`, looked up in the image's own /etc/passwd and /etc/group.
//!
//! The files are the image's, so they are opened in-root, must be regular and at most [`FILE_BYTES_MAX`] long; a line that
//! makes no sense is passed over. The rules are docker's: a word that is no name but a number is that id, whether the file
//! has it or not; a user without a group in the word gets the group and the supplementary groups of the files; a group in
//! the word replaces them.

use std::path::Path;

use wolffia_sys::{Errno, fd::Root};

use crate::report::{Doing, Failure};

/// The largest passwd or group file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The kernel's own bound on supplementary groups (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65536;

/// Whom a process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ids {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The home directory, where /etc/passwd names one.
    pub home: Option<String>,
}

/// A line of /etc/passwd.
struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// Looks up `word` (`user`, `uid`, `user:group`, ...) in the files of `root`.
pub(crate) fn look_up(root: &Root, word: &str) -> Result<Ids, Failure> {
    let (user_word, group_word) = match word.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (word, None),
    };
    let user_word = if user_word.is_empty() { "0" } else { user_word };
    let passwd = read(root, "/etc/passwd")?;
    let by_name = users(&passwd).find(|user| user.name == user_word);
    let number = user_word.parse::<u32>().ok();
    let user = by_name.or_else(|| users(&passwd).find(|user| Some(user.uid) == number));
    let (uid, gid) = match (&user, number) {
        (Some(user), _) => (user.uid, user.gid),
        (None, Some(number)) => (number, 0),
        (None, None) => {
            return Err(Failure::setup(
                format!("looking up user {user_word} in the image's /etc/passwd"),
                Errno::NOENT,
            ));
        }
    };
    let home = user
        .as_ref()
        .map(|user| user.home.to_owned())
        .filter(|home| !home.is_empty());
    let mut ids = Ids {
        uid,
        gid,
        groups: Vec::new(),
        home,
    };
    // Root, in most images, is in no group but its own; the file is still asked.
    let group = read(root, "/etc/group")?;
    match group_word {
        Some(word) => ids.gid = group_of(&group, word)?,
        None => {
            if let Some(user) = &user {
                ids.groups = groups_with(&group, user.name);
            }
        }
    }
    Ok(ids)
}

/// Returns the home directory that the image's /etc/passwd gives this user; none where the file is of no use, because
/// the ids are known without it.
pub(crate) fn home_of(root: &Root, uid: u32) -> Option<String> {
    let passwd = read(root, "/etc/passwd").ok()?;
    let home = users(&passwd)
        .find(|user| user.uid == uid)
        .map(|user| user.home.to_owned());
    home.filter(|home| !home.is_empty())
}

/// Reads a file; a missing one is empty.
fn read(root: &Root, path: &str) -> Result<String, Failure> {
    match root.read_regular(Path::new(path), FILE_BYTES_MAX) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(String::new()),
        Err(error) => Err(error).doing(|| format!("reading the image's {path}")),
    }
}

fn users(passwd: &str) -> impl Iterator<Item = User<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or_default();
        Some(User {
            name,
            uid,
            gid,
            home,
        })
    })
}

/// Each row: name, id, members.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn group_of(group: &str, word: &str) -> Result<u32, Failure> {
    groups(group)
        .find(|(name, ..)| *name == word)
        .map(|(_, gid, _)| gid)
        .or_else(|| word.parse().ok())
        .ok_or_else(|| {
            let doing = format!("looking up group {word} in the image's /etc/group");
            Failure::setup(doing, Errno::NOENT)
        })
}

fn groups_with(group: &str, user: &str) -> Vec<u32> {
    groups(group)
        .filter(|(_, _, members)| members.split(',').any(|member| member.trim() == user))
        .map(|(_, gid, _)| gid)
        .take(GROUPS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\nbroken:line\nwww:x:33:33::/var/www:/bin/sh\n1000:x:7:7::/odd:\n";
    const GROUP: &str = "root:x:0:\nadm:x:4:www,root\nlog:x:9:www\nbad:x:y:www\n";

    fn image() -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory.path().join("etc")).expect("making etc");
        fs::write(directory.path().join("etc/passwd"), PASSWD).expect("writing passwd");
        fs::write(directory.path().join("etc/group"), GROUP).expect("writing group");
        directory
    }

    fn root(image: &tempfile::TempDir) -> Root {
        Root::open(image.path()).expect("opening the image")
    }

    /// A word, and the ids, groups and home that it stands for.
    type Row = (&'static str, u32, u32, &'static [u32], Option<&'static str>);

    #[test]
    fn words_become_ids_as_docker_reads_them() {
        let image = image();
        let root = root(&image);
        let rows: [Row; 8] = [
            ("", 0, 0, &[4], Some("/root")),
            ("www", 33, 33, &[4, 9], Some("/var/www")),
            ("33", 33, 33, &[4, 9], Some("/var/www")),
            ("www:adm", 33, 4, &[], Some("/var/www")),
            ("www:77", 33, 77, &[], Some("/var/www")),
            ("5000", 5000, 0, &[], None),
            ("5000:adm", 5000, 4, &[], None),
            ("1000", 7, 7, &[], Some("/odd")), // a name, though it looks like a number
        ];
        for (word, uid, gid, groups, home) in rows {
            let ids = look_up(&root, word).expect(word);
            let wanted = Ids {
                uid,
                gid,
                groups: groups.to_vec(),
                home: home.map(str::to_owned),
            };
            assert_eq!(ids, wanted, "{word}");
        }
        for word in ["nobody", "www:nogroup"] {
            let failure = look_up(&root, word).expect_err(word);
            assert_eq!(failure.errno, Errno::NOENT, "{word}");
        }
    }

    #[test]
    fn hostile_files_are_refused() {
        let image = image();
        let passwd = image.path().join("etc/passwd");
        fs::remove_file(&passwd).expect("removing");
        symlink("/dev/zero", &passwd).expect("linking");
        // A link leads nowhere but inside, where there is no /dev/zero: as if there were no file.
        assert!(
            look_up(&root(&image), "33").is_ok_and(|ids| ids.uid == 33 && ids.groups.is_empty())
        );
        fs::remove_file(&passwd).expect("removing");
        fs::create_dir(&passwd).expect("making a directory");
        assert!(look_up(&root(&image), "33").is_err_and(|failure| failure.errno == Errno::INVAL));
        fs::remove_dir(&passwd).expect("removing");
        fs::write(&passwd, vec![b'x'; (1 << 20) + 1]).expect("writing");
        assert!(look_up(&root(&image), "33").is_err_and(|failure| failure.errno == Errno::FBIG));
    }
}
