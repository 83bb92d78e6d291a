// SPDX-License-Identifier: Apache-2.0
//! The world in which tests run: who they are, and what they may write.
//!
//! Rootless code that is tested as root proves little, and a developer's own store must not be tested upon.
//!
//! # Theory of operation
//! *An ordinary user* stays what they are, with a fresh HOME and runtime folder below the folder for temporary files.
//!
//! *Root* starts this program again under `unshare --mount`; in that private mount namespace a tmpfs holds
//! - copies of passwd, group, subuid and subgid with one user more, bound over the machine's, which stay untouched
//!   (where one of the files does not exist, an overlay over /etc makes room for it);
//! - the user's HOME and runtime folder;
//! - openers of /dev/fuse and /dev/net/tun, where the machine keeps them for root: udev makes them with mode 0666, so
//!   nodes of the same device with that mode are bound over them.
//!
//! Where the clone lies in a folder that is closed to others (such as /root), a tmpfs over that folder carries the clone
//! alone, as long as the user's pass lasts. All of it ends with the namespace.
//!
//! The user's ids lie where neither adduser, systemd nor container engines give out any. Each run has a user of its own
//! ([`slot`]), because what a run leaves is known by its user and ended.

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, unmount};

use crate::workspace::Workspace;

mod leftovers;
mod slot;

use slot::Slot;

/// Names the variable that tells a restarted `xtask` that it is in a private mount namespace, and its folder there.
const PRIVATE_VARIABLE: &str = "WOLFFIA_XTASK_PRIVATE";

/// Names the variable with the folder in which tests may keep what is dear to make, such as Debian images.
pub(super) const CACHE_VARIABLE: &str = "WOLFFIA_TEST_CACHE";

const USER_NAME: &str = "wolffia-test";

/// A machine with less memory than this gets no tmpfs for HOME: Debian images, unpacked, would not fit.
const TMPFS_MEMORY_MIN_KIB: u64 = 7 * 1024 * 1024;

/// How long processes of a test may take to end after it.
const END_GRACE: Duration = Duration::from_secs(2);

/// Who runs tests, and where.
#[derive(Debug)]
pub(super) struct World {
    directory: PathBuf,
    /// The private namespace's user; `None` where tests run as whoever started this program.
    user: Option<u32>,
    /// The ids of that user, held as long as the run lasts.
    slot: Option<Slot>,
    private: bool,
    home: PathBuf,
    temporary: PathBuf,
    runtime: PathBuf,
    cache: PathBuf,
    /// The mounts that make the clone reachable for the user.
    covers: Vec<PathBuf>,
    /// Removes the folder of an ordinary user's world.
    _own: Option<tempfile::TempDir>,
}

/// Tells whether this program runs as root, outside a private namespace.
pub(super) fn needs_a_private_one() -> bool {
    rustix::process::geteuid().is_root() && std::env::var_os(PRIVATE_VARIABLE).is_none()
}

/// Runs this program again, with the same words, in a private mount namespace.
pub(super) fn start_again_in_private(words: &[std::ffi::OsString]) -> anyhow::Result<ExitCode> {
    let directory = tempfile::Builder::new().prefix("wolffia-test.").tempdir()?;
    std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe()?)
        .arg("test")
        .args(words)
        .env(PRIVATE_VARIABLE, directory.path())
        .status()
        .context("starting unshare(1) of util-linux")?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from))
}

impl World {
    /// Makes the world that fits who we are.
    pub(super) fn make(workspace: &Workspace) -> anyhow::Result<World> {
        match std::env::var_os(PRIVATE_VARIABLE) {
            Some(directory) => World::private(workspace, PathBuf::from(directory)),
            None => World::own(workspace),
        }
    }

    fn own(workspace: &Workspace) -> anyhow::Result<World> {
        let own = tempfile::Builder::new().prefix("wolffia-test.").tempdir()?;
        std::fs::set_permissions(own.path(), Permissions::from_mode(0o755))?;
        let directory = own.path().to_owned();
        let uid = rustix::process::getuid().as_raw();
        let world = World {
            home: directory.join("home"),
            temporary: directory.join("tmp"),
            runtime: directory.join("run"),
            cache: cache_of(workspace, uid),
            directory,
            user: None,
            slot: None,
            private: false,
            covers: Vec::new(),
            _own: Some(own),
        };
        world.make_folders()?;
        Ok(world)
    }

    fn private(workspace: &Workspace, directory: PathBuf) -> anyhow::Result<World> {
        if memory_kib() >= TMPFS_MEMORY_MIN_KIB {
            mount(
                "tmpfs",
                &directory,
                "tmpfs",
                MountFlags::empty(),
                c"mode=755",
            )
            .context("mounting a tmpfs for the test user")?;
        }
        // What is dear to make is kept for each user: one that has some already is the better one.
        let slot = Slot::take(|slot| cache_of(workspace, slot.user()).exists())?;
        let mut world = World {
            home: directory.join("home"),
            temporary: directory.join("tmp"),
            runtime: directory.join("run"),
            cache: cache_of(workspace, slot.user()),
            directory,
            user: Some(slot.user()),
            slot: None,
            private: true,
            covers: Vec::new(),
            _own: None,
        };
        world.make_folders()?;
        world.bind_accounts(&slot)?;
        world.slot = Some(slot);
        world.open_devices()?;
        world.uncover(&[&workspace.root, &workspace.target_directory])?;
        Ok(world)
    }

    /// Returns the world of the second pass: the same namespace, as root, with folders of its own.
    pub(super) fn as_root(&self) -> anyhow::Result<World> {
        for cover in self.covers.iter().rev() {
            unmount(cover, UnmountFlags::DETACH)
                .with_context(|| format!("uncovering {}", cover.display()))?;
        }
        let directory = self.directory.join("root");
        DirBuilder::new().mode(0o755).create(&directory)?;
        let world = World {
            home: directory.join("home"),
            temporary: directory.join("tmp"),
            runtime: directory.join("run"),
            cache: self.cache.with_file_name("0"),
            directory,
            user: None,
            slot: None,
            private: false,
            covers: Vec::new(),
            _own: None,
        };
        world.make_folders()?;
        Ok(world)
    }

    /// Tells whether a pass as root follows.
    pub(super) fn is_private(&self) -> bool {
        self.private
    }

    /// Says who runs the tests.
    pub(super) fn who(&self) -> String {
        match self.user {
            Some(uid) => {
                format!("{USER_NAME} (uid {uid}) in a private mount namespace, then as root")
            }
            None => format!("uid {}", rustix::process::getuid().as_raw()),
        }
    }

    /// Returns the path of a fresh ledger that the tests can write.
    pub(super) fn ledger(&self, binary: &str) -> anyhow::Result<PathBuf> {
        let path = self
            .directory
            .join(format!("ledger.{}", binary.replace("::", ".")));
        std::fs::write(&path, b"").context("making a ledger")?;
        chown(&path, self.user, self.user).context("giving the ledger to the test user")?;
        Ok(path)
    }

    /// Gives a command the user and the environment of this world.
    pub(super) fn dress(&self, command: &mut Command) {
        // What the developer has set for their own containers is no business of tests.
        let foreign = [
            "XDG_",
            "DOCKER_",
            "CONTAINERS_",
            "CARGO_",
            "SUDO_",
            "WOLFFIA_",
            "DBUS_",
        ];
        for (name, _) in std::env::vars_os() {
            let shown = name.to_string_lossy();
            if foreign.iter().any(|prefix| shown.starts_with(prefix))
                || shown == "REGISTRY_AUTH_FILE"
            {
                command.env_remove(&name);
            }
        }
        command
            .env("HOME", &self.home)
            .env("TMPDIR", &self.temporary)
            .env("XDG_RUNTIME_DIR", &self.runtime)
            .env("LC_ALL", "C.UTF-8")
            .env(CACHE_VARIABLE, &self.cache);
        if let Some(uid) = self.user {
            command.env("USER", USER_NAME).env("LOGNAME", USER_NAME);
            // The standard library drops root's supplementary groups with the uid.
            command.uid(uid).gid(uid);
        }
    }

    /// Ends the processes that tests have left behind, and returns what they were.
    pub(super) fn processes_left_behind(&self) -> anyhow::Result<Vec<String>> {
        let ids = self.slot.as_ref().map(|slot| leftovers::Ids {
            user: slot.user(),
            subordinate: slot.subordinate(),
        });
        leftovers::end(ids.as_ref(), &self.directory, Instant::now() + END_GRACE)
    }

    fn make_folders(&self) -> anyhow::Result<()> {
        // The temporary folder is no home: subordinate ids, and those of root's containers, must get through to what tests
        // open for them below it.
        for (folder, mode) in [
            (&self.home, 0o700),
            (&self.temporary, 0o755),
            (&self.runtime, 0o700),
            (&self.cache, 0o700),
        ] {
            DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(folder)
                .with_context(|| format!("making {}", folder.display()))?;
            if self.user.is_some() {
                chown(folder, self.user, self.user)
                    .with_context(|| format!("giving away {}", folder.display()))?;
            }
        }
        if let Some(parent) = self.cache.parent() {
            std::fs::set_permissions(parent, Permissions::from_mode(0o755)).ok();
        }
        Ok(())
    }

    /// Binds passwd, group, subuid and subgid with the test user over the machine's.
    fn bind_accounts(&self, slot: &Slot) -> anyhow::Result<()> {
        let home = self.home.display();
        let (id, range) = (slot.user(), slot.subordinate());
        let subordinate = format!("{USER_NAME}:{}:{}\n", range.start, range.len());
        let rows = [
            (
                "passwd",
                format!("{USER_NAME}:x:{id}:{id}::{home}:/bin/sh\n"),
            ),
            ("group", format!("{USER_NAME}:x:{id}:\n")),
            ("subuid", subordinate.clone()),
            ("subgid", subordinate),
        ];
        if rows
            .iter()
            .any(|(name, _)| !Path::new("/etc").join(name).exists())
        {
            self.overlay_etc()?;
        }
        for (name, row) in rows {
            let machine = Path::new("/etc").join(name);
            let mut text = std::fs::read_to_string(&machine).unwrap_or_default();
            ensure!(
                name != "passwd"
                    || !text
                        .lines()
                        .any(|line| line.split(':').nth(2) == Some(&id.to_string())),
                "uid {id} is somebody's on this machine"
            );
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&row);
            let ours = self.directory.join(name);
            std::fs::write(&ours, text)?;
            if !machine.exists() {
                std::fs::write(&machine, b"")
                    .with_context(|| format!("making {} in the overlay", machine.display()))?;
            }
            mount_bind(&ours, &machine)
                .with_context(|| format!("binding over {}", machine.display()))?;
        }
        Ok(())
    }

    /// Makes room in /etc for files that the machine does not have; seen in this namespace alone.
    fn overlay_etc(&self) -> anyhow::Result<()> {
        let (upper, work) = (self.directory.join("etc"), self.directory.join("etc-work"));
        for folder in [&upper, &work] {
            DirBuilder::new().mode(0o755).create(folder)?;
        }
        let options = format!(
            "lowerdir=/etc,upperdir={},workdir={}",
            upper.display(),
            work.display()
        );
        let options = std::ffi::CString::new(options)?;
        mount(
            "overlay",
            "/etc",
            "overlay",
            MountFlags::empty(),
            options.as_c_str(),
        )
        .context("mounting an overlay over /etc")
    }

    fn open_devices(&self) -> anyhow::Result<()> {
        for device in ["/dev/fuse", "/dev/net/tun"] {
            let Ok(machine) = std::fs::metadata(device) else {
                continue;
            };
            if machine.mode() & 0o006 == 0o006 {
                continue;
            }
            println!("{device} is root's alone here; opened for the tests, as udev would");
            let ours = self.directory.join(device.replace('/', "-"));
            mknodat(
                CWD,
                &ours,
                FileType::CharacterDevice,
                Mode::from(0o600),
                machine.rdev(),
            )
            .with_context(|| format!("making a node like {device}"))?;
            std::fs::set_permissions(&ours, Permissions::from_mode(0o666))?;
            mount_bind(&ours, device).with_context(|| format!("binding over {device}"))?;
        }
        Ok(())
    }

    /// Makes these folders reachable for the user, each under its own path.
    fn uncover(&mut self, folders: &[&Path]) -> anyhow::Result<()> {
        for (number, folder) in folders.iter().enumerate() {
            let Some(closed) = first_closed(folder)? else {
                continue;
            };
            let stage = self.directory.join(format!("stage{number}"));
            DirBuilder::new().mode(0o755).create(&stage)?;
            mount_bind_recursive(*folder, &stage).context("setting the clone aside")?;
            mount(
                "tmpfs",
                &closed,
                "tmpfs",
                MountFlags::empty(),
                c"mode=755,size=1m",
            )
            .with_context(|| format!("covering {}", closed.display()))?;
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(folder)?;
            mount_bind_recursive(&stage, *folder).context("putting the clone back")?;
            self.covers.push(closed);
        }
        Ok(())
    }
}

fn cache_of(workspace: &Workspace, uid: u32) -> PathBuf {
    workspace
        .target_directory
        .join("test-cache")
        .join(uid.to_string())
}

/// Returns the outermost folder on the way to this one that others may not pass.
fn first_closed(folder: &Path) -> anyhow::Result<Option<PathBuf>> {
    let mut way: Vec<_> = folder.ancestors().collect();
    way.reverse();
    for step in way {
        let mode =
            std::fs::metadata(step).with_context(|| format!("looking at {}", step.display()))?;
        if mode.mode() & 0o001 == 0 {
            return Ok(Some(step.to_owned()));
        }
    }
    Ok(None)
}

fn memory_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_closed_folder_is_found() {
        let top = tempfile::tempdir().unwrap();
        std::fs::set_permissions(top.path(), Permissions::from_mode(0o755)).unwrap();
        let closed = top.path().join("closed");
        let inner = closed.join("inner");
        std::fs::create_dir_all(&inner).unwrap();
        for folder in [&closed, &inner] {
            std::fs::set_permissions(folder, Permissions::from_mode(0o700)).unwrap();
        }
        // The folder for temporary files may itself be closed.
        if first_closed(top.path()).unwrap().is_none() {
            assert_eq!(first_closed(&inner).unwrap(), Some(closed));
        }
    }
}
