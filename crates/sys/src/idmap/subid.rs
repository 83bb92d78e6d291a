// SPDX-License-Identifier: Apache-2.0
//! Sub-ids of a user: from /etc/subuid and /etc/subgid, by name and by number, or from `getsubids`.
//!
//! `getsubids` asks what nsswitch.conf names (a directory service); it is a process more, so it is started only there.

use std::{fs, io::ErrorKind, path::Path, process::Command};

use super::IdMapError;

/// A line with more than this is not ours to understand; the files are read whole.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// More ranges than a map can hold are of no use.
const RANGES_MAX: usize = 300;

/// Sub-ids of one user: runs of (first id, count).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubIds {
    /// Of users.
    pub uid: Vec<(u32, u32)>,
    /// Of groups.
    pub gid: Vec<(u32, u32)>,
    /// The name the ranges were looked for by, else the number.
    pub user: String,
}

impl SubIds {
    /// Returns the sub-ids of the user with this id; both lists are empty where there are none.
    pub fn for_user(uid: u32) -> Result<SubIds, IdMapError> {
        let name = name_of(uid)?;
        let number = uid.to_string();
        let user = name.unwrap_or_else(|| number.clone());
        if let Some(found) = from_directory_service(&user)? {
            return Ok(found);
        }
        let of = |path| Ok(ranges_of(&read(path)?, &user, &number));
        Ok(SubIds {
            uid: of("/etc/subuid")?,
            gid: of("/etc/subgid")?,
            user,
        })
    }
}

/// Reads a small file of the machine; a missing one is empty.
fn read(path: &str) -> Result<String, IdMapError> {
    let fail = |source| IdMapError::Read {
        path: path.into(),
        source,
    };
    match fs::metadata(path) {
        Ok(found) if found.len() > FILE_BYTES_MAX => {
            return Err(fail(ErrorKind::FileTooLarge.into()));
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(fail(error)),
    }
    let bytes = fs::read(Path::new(path)).map_err(fail)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns the user's name from /etc/passwd; a user of a directory service has none there.
fn name_of(uid: u32) -> Result<Option<String>, IdMapError> {
    let passwd = read("/etc/passwd")?;
    let number = uid.to_string();
    let row = passwd
        .lines()
        .find(|line| line.split(':').nth(2) == Some(&number));
    Ok(row
        .and_then(|line| line.split(':').next())
        .map(str::to_owned))
}

fn ranges_of(file: &str, user: &str, number: &str) -> Vec<(u32, u32)> {
    let row = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let range = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (owner == user || owner == number).then_some(range)
    };
    let mut ranges = Vec::new();
    for range in file.lines().filter_map(row) {
        let (first, count): (u32, u32) = range;
        let good = count > 0 && first.checked_add(count).is_some();
        if good && ranges.len() < RANGES_MAX && !ranges.contains(&range) {
            ranges.push(range);
        }
    }
    ranges
}

/// Asks `getsubids`, where nsswitch.conf names a source of sub-ids other than the files.
fn from_directory_service(user: &str) -> Result<Option<SubIds>, IdMapError> {
    let switch = read("/etc/nsswitch.conf")?;
    let named = switch
        .lines()
        .find_map(|line| line.trim().strip_prefix("subid:"));
    if named.is_none_or(|sources| sources.trim() == "files") {
        return Ok(None);
    }
    let uid = ask(user, &[])?;
    let gid = ask(user, &["-g"])?;
    Ok(Some(SubIds {
        uid,
        gid,
        user: user.to_owned(),
    }))
}

/// Each answer is a line like `0: alice 200000 65536`.
fn ask(user: &str, kind: &[&str]) -> Result<Vec<(u32, u32)>, IdMapError> {
    let start = |source| IdMapError::Start {
        program: "getsubids",
        source,
    };
    let output = Command::new("getsubids")
        .args(kind)
        .arg(user)
        .output()
        .map_err(start)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let row = |line: &str| {
        let mut words = line.split_whitespace().skip(2);
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    };
    Ok(text.lines().filter_map(row).take(RANGES_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let file = "bob:100:10\nalice:200000:65536\n4001:500000:10\nalice:x:1\n\nalice:4294967295:2\nalice:7:0\n";
        let found = ranges_of(file, "alice", "4001");
        assert_eq!(found, [(200_000, 65536), (500_000, 10)]);
        assert_eq!(ranges_of(file, "carol", "4003"), []);
    }
}
