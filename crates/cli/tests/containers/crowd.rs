// SPDX-License-Identifier: Apache-2.0
//! Many at once on one store.

use std::process::Child;

use crate::machine::{IMAGE, Machine};

#[test]
fn twenty_containers_at_once() {
    const COUNT: usize = 20;
    wolffia_testkit::need!(UserNamespace, Busybox);
    let machine = Machine::new();
    let names: Vec<String> = (0..COUNT).map(|number| format!("one{number}")).collect();
    let started: Vec<Child> = names
        .iter()
        .map(|name| machine.piped(&["run", "-d", "--name", name, IMAGE, "sleep", "1000"]))
        .collect();
    for mut child in started {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(machine.good(&["ps", "-q"]).lines().count(), COUNT);
    let words: Vec<&str> = ["rm", "-f"]
        .into_iter()
        .chain(names.iter().map(String::as_str))
        .collect();
    assert_eq!(machine.good(&words).lines().count(), COUNT);
    machine.assert_clean();
}

/// Each of fifty commands gets its own answer, and none leaves anything behind.
#[test]
fn fifty_commands_at_once() {
    wolffia_testkit::need!(UserNamespace, Busybox);
    let machine = Machine::new();
    let started: Vec<(i32, Child)> = (0..50)
        .map(|number| {
            let line = format!("exit {number}");
            let words: &[&str] = match number % 5 {
                0 => &["ps", "-a"],
                1 => &["images"],
                _ => &["run", "--rm", IMAGE, "sh", "-c", &line],
            };
            (
                if number % 5 < 2 { 0 } else { number },
                machine.piped(words),
            )
        })
        .collect();
    for (code, child) in started {
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    machine.assert_clean();
    assert!(machine.good(&["system", "check"]).contains("no problems"));
}
