// SPDX-License-Identifier: Apache-2.0
//! Containers without processes: names, ids, what a kill leaves.

use super::*;
use crate::{
    options::Options,
    record::{Image, RECORD_VERSION},
};

fn containers() -> (tempfile::TempDir, Containers) {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(Some(&folder.path().join("root"))).unwrap();
    (folder, Containers::of(&home))
}

fn describe(remove: bool) -> impl FnOnce(ContainerId, ContainerName) -> Record {
    move |id, name| Record {
        version: RECORD_VERSION,
        id,
        name,
        created: Timestamp::now(),
        image: Image::Host,
        options: Options {
            remove,
            ..Options::default()
        },
        program: crate::record::Program::default(),
        mapping: String::new(),
        current_directory: "/".into(),
    }
}

fn made(containers: &Containers, name: Option<&str>, remove: bool) -> Held {
    let name = name.map(|name| name.parse().unwrap());
    containers.create(name.as_ref(), describe(remove)).unwrap()
}

#[test]
fn found_by_name_by_id_and_by_its_beginning() {
    let (_folder, containers) = containers();
    let held = made(&containers, Some("web"), false);
    let id = held.container.record.id.clone();
    held.lock.release();
    for word in ["web", "/web", id.as_str(), id.short()] {
        assert_eq!(containers.find(word).unwrap().record.id, id, "{word}");
    }
    assert!(matches!(
        containers.find("nobody"),
        Err(ContainerError::NotFound(_))
    ));
    let taken = containers.create(Some(&"web".parse().unwrap()), describe(false));
    assert!(matches!(taken, Err(ContainerError::NameTaken { .. })));
    assert_eq!(
        containers.list().unwrap().len(),
        1,
        "a failed making leaves nothing"
    );
    let held = containers.hold(&containers.find("web").unwrap()).unwrap();
    containers.remove(held).unwrap();
    assert!(containers.list().unwrap().is_empty());
    assert!(
        fs::read_dir(containers.home().names())
            .unwrap()
            .next()
            .is_none()
    );
    assert!(
        fs::read_dir(containers.home().running())
            .unwrap()
            .next()
            .is_none()
    );
}

#[test]
fn what_a_kill_left_is_swept() {
    let (_folder, containers) = containers();
    // The lock is dropped without being released, as a kill drops it.
    let mut plain = made(&containers, Some("plain"), false);
    plain.container.state.status = Status::Running;
    plain.container.save_state().unwrap();
    let mut once = made(&containers, Some("once"), true);
    once.container.state.status = Status::Running;
    once.container.save_state().unwrap();
    let half = made(&containers, Some("half"), false);
    fs::remove_file(half.container.folder.join(RECORD)).unwrap();
    assert!(
        containers.sweep().unwrap().is_empty(),
        "their holders are alive"
    );
    assert_eq!(
        containers.find("plain").unwrap().state.status,
        Status::Running
    );
    drop((plain.lock, once.lock, half.lock));
    assert_eq!(
        containers.find("plain").unwrap().state.exit_code,
        KILLED,
        "true before a sweep"
    );
    assert_eq!(containers.sweep().unwrap().len(), 3);
    let left = containers.list().unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(
        (left[0].state.status, left[0].state.exit_code),
        (Status::Exited, KILLED)
    );
    assert!(containers.sweep().unwrap().is_empty());
}
