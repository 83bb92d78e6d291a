// SPDX-License-Identifier: Apache-2.0
//! Extended attributes of open files, read whole.
//!
//! An `O_PATH` descriptor cannot be asked, so callers that hold one open the file for reading or go by
//! /proc/self/fd.

use std::os::fd::AsFd;

use rustix::{
    fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr, lgetxattr, llistxattr, lsetxattr},
    io::Errno,
};

/// The kernel's own bound on one value (`XATTR_SIZE_MAX`).
const VALUE_BYTES_MAX: usize = 65536;

/// The kernel's own bound on the list of names (`XATTR_LIST_MAX`).
const LIST_BYTES_MAX: usize = 65536;

/// Returns the value of an attribute of an open file, `None` where there is none.
pub fn get(file: impl AsFd, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    let file = file.as_fd();
    found(whole(VALUE_BYTES_MAX, |buffer| {
        fgetxattr(file, name, buffer)
    }))
}

/// Returns the value of an attribute by path, of a link itself.
pub fn get_at(path: &std::path::Path, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    found(whole(VALUE_BYTES_MAX, |buffer| {
        lgetxattr(path, name, buffer)
    }))
}

/// Returns the names of all attributes of an open file.
pub fn names(file: impl AsFd) -> Result<Vec<Vec<u8>>, Errno> {
    let file = file.as_fd();
    whole(LIST_BYTES_MAX, |buffer| flistxattr(file, buffer)).map(|list| split(&list))
}

/// Returns the names of all attributes by path, of a link itself.
pub fn names_at(path: &std::path::Path) -> Result<Vec<Vec<u8>>, Errno> {
    whole(LIST_BYTES_MAX, |buffer| llistxattr(path, buffer)).map(|list| split(&list))
}

/// Sets an attribute of an open file.
pub fn set(file: impl AsFd, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    fsetxattr(file, name, value, XattrFlags::empty())
}

/// Sets an attribute by path, of a link itself.
pub fn set_at(path: &std::path::Path, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    lsetxattr(path, name, value, XattrFlags::empty())
}

fn found(answer: Result<Vec<u8>, Errno>) -> Result<Option<Vec<u8>>, Errno> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads with a small buffer first: almost every value and list fits it.
fn whole(
    bytes_max: usize,
    mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>,
) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    loop {
        match read(&mut buffer[..]) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < bytes_max => buffer.resize(bytes_max, 0),
            Err(error) => return Err(error),
        }
    }
}

fn split(list: &[u8]) -> Vec<Vec<u8>> {
    list.split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_larger_than_the_first_buffer_is_whole() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let value = vec![7; 1000];
        match set(file.as_file(), b"user.large", &value) {
            Err(Errno::OPNOTSUPP) => return, // this file system has none
            answer => answer.expect("setting it"),
        }
        assert_eq!(get(file.as_file(), b"user.large"), Ok(Some(value)));
        assert_eq!(get(file.as_file(), b"user.none"), Ok(None));
        assert!(names(file.as_file()).is_ok_and(|names| names.contains(&b"user.large".to_vec())));
    }
}
