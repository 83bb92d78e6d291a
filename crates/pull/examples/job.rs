// SPDX-License-Identifier: Apache-2.0
//! The helper alone, for measuring it by hand: `job STORE NAME` pulls, `job` reads a job from standard input.

use std::io::Write as _;
use wolffia_image::Platform;
use wolffia_pull::helper;
use wolffia_pull::job::{Job, Policy, PullRequest, Task};
use wolffia_store::{IdSpan, Owners};

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [store, name] = &arguments[..] else {
        helper::serve(std::io::stdin(), std::io::stdout());
        return Ok(());
    };
    let count = if std::fs::read_to_string("/proc/self/uid_map")?
        .lines()
        .count()
        > 1
        || rustix::process::geteuid().is_root()
    {
        65_536
    } else {
        1
    };
    let ids = vec![IdSpan { first: 0, count }];
    let job = Job {
        store: store.into(),
        owners: Owners {
            key: "sub".into(),
            users: ids.clone(),
            groups: ids,
        },
        task: match name.as_str() {
            "check" => Task::Check {
                repair: wolffia_store::Repair::No,
            },
            "collect" => Task::Collect,
            "reset" => Task::Reset,
            name => Task::Pull(PullRequest {
                name: name.into(),
                platform: Platform::host(),
                lazy: wolffia_pull::Lazy::Never,
                strict: false,
                policy: Policy::Always,
                unpacked: Vec::new(),
                credential: None,
            }),
        },
    };
    let mut line = serde_json::to_vec(&job)?;
    line.push(b'\n');
    let mut out = std::io::stdout();
    let done = helper::serve(&line[..], &mut out);
    writeln!(std::io::stderr(), "{done}")?;
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        for line in status
            .lines()
            .filter(|line| line.starts_with("VmHWM") || line.starts_with("VmPeak"))
        {
            writeln!(std::io::stderr(), "{line}")?;
        }
    }
    Ok(())
}
