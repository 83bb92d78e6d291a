// SPDX-License-Identifier: Apache-2.0
//! A real image: Debian with python3 and numpy, in three layers, made by mmdebstrap and kept between runs.
//!
//! # Theory of operation
//! One run of mmdebstrap installs in three steps; after each, a hook writes what is new since the step before (by change
//! time) as a tar, which becomes a gzip layer. The result is an OCI layout with two images:
//!
//! | tag | is |
//! |---|---|
//! | `debian` | the image: about 280 MB, 12,000 entries, 100 MB packed |
//! | `rebuilt` | what a later build gives: the same files in layers of other digests, and one package more |
//!
//! The layers of `rebuilt` are written in tar's other dialect, so that not one byte range of them need be equal, while the
//! files are. Package lists and downloaded packages are left out, as every image of Debian does.
//!
//! Making it needs the network (a Debian mirror), about two minutes on two cores and 1 GB below the folder for temporary files.
//! The layout lies in the folder that [`CACHE_VARIABLE`] names, else in `$XDG_CACHE_HOME/wolffia-test`, and is renamed
//! there when it is whole; a lock lets other test binaries wait for the one that makes it.
//!
//! Say `need!(Mmdebstrap)`; an ordinary user needs `UserNamespace` and `SubIds` as well.

use std::fs::{DirBuilder, File};
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use wolffia_image::{Digest, Hasher};

use crate::layout::Layout;

/// Names the variable that holds the folder where tests keep what is expensive to make.
pub const CACHE_VARIABLE: &str = "WOLFFIA_TEST_CACHE";

/// Names the variable that holds another Debian mirror than the one that apt uses on this machine.
pub const MIRROR_VARIABLE: &str = "WOLFFIA_TEST_DEBIAN_MIRROR";

/// The tag of the image.
pub const TAG: &str = "debian";

/// The tag of the image as built again, with one package more.
pub const REBUILT_TAG: &str = "rebuilt";

/// Changes when what is made here does.
const FOLDER: &str = "debian-image-1";

const SUITE: &str = "bookworm";
/// The date of the image's own files, where mmdebstrap sets one.
const SOURCE_DATE_EPOCH: &str = "1700000000";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// What `docker build` and friends use.
const GZIP_LEVEL: u32 = 6;
const COPY_BYTES: usize = 1 << 20;

/// Returns the OCI layout with the images [`TAG`] and [`REBUILT_TAG`]; makes it where it is missing.
///
/// # Panics
/// Where it cannot be made: mmdebstrap's last words are in the message.
pub fn layout() -> PathBuf {
    let cache = cache();
    std::fs::create_dir_all(&cache).expect("making the folder for what is kept");
    let lock = File::create(cache.join("debian-image.lock")).expect("a lock");
    lock.lock().expect("waiting for another test binary");
    let place = cache.join(FOLDER);
    // Root, whose pass comes second, takes what the ordinary user's has made.
    if rustix::process::geteuid().is_root()
        && let Some(made) = made_by_others(&cache)
    {
        return made;
    }
    if !place.exists() {
        let draft = cache.join(format!("{FOLDER}.{}", std::process::id()));
        make(&draft);
        std::fs::rename(&draft, &place).expect("moving the image to its place");
    }
    place
}

/// Finds the layout in another user's folder beside this one.
fn made_by_others(cache: &Path) -> Option<PathBuf> {
    let beside = std::fs::read_dir(cache.parent()?).ok()?;
    beside
        .flatten()
        .map(|folder| folder.path().join(FOLDER))
        .find(|place| place.exists())
}

fn cache() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = || PathBuf::from(set("HOME").unwrap_or_else(|| "/tmp".into())).join(".cache");
    set(CACHE_VARIABLE).map_or_else(
        || {
            set("XDG_CACHE_HOME")
                .map_or_else(home, PathBuf::from)
                .join("wolffia-test")
        },
        PathBuf::from,
    )
}

fn make(draft: &Path) {
    let tars = tempfile::Builder::new()
        .prefix("wolffia-debian")
        .tempdir()
        .expect("a folder for layers");
    bootstrap(tars.path());
    let mut layout = Layout::new(draft);
    let config = json!({
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "Cmd": ["bash"],
    });
    for (tag, files) in [
        (TAG, ["1.tar", "2.tar", "3.tar"]),
        (REBUILT_TAG, ["1r.tar", "2r.tar", "3r.tar"]),
    ] {
        let layers = files.map(|file| layer(draft, &tars.path().join(file)));
        let (blobs, diff_ids): (Vec<Value>, Vec<String>) = layers.into_iter().unzip();
        layout.image_of(tag, &blobs, &diff_ids, &config);
    }
}

/// Packs a tar into the layout; returns its descriptor and the tar's digest.
fn layer(layout: &Path, tar: &Path) -> (Value, String) {
    let blobs = layout.join("blobs/sha256");
    let packed = blobs.join("draft");
    let mut diff_id = Hasher::new();
    let mut reader = BufReader::new(File::open(tar).expect("a layer's tar"));
    let writer = File::create(&packed).expect("a layer's blob");
    let mut encoder = GzEncoder::new(writer, Compression::new(GZIP_LEVEL));
    each_piece(&mut reader, |piece| {
        diff_id.update(piece);
        encoder.write_all(piece).expect("writing a layer");
    });
    encoder.finish().expect("writing a layer");
    let mut digest = Hasher::new();
    each_piece(&mut File::open(&packed).expect("a layer's blob"), |piece| {
        digest.update(piece);
    });
    let size = digest.fed_bytes();
    let digest: Digest = digest.finish();
    std::fs::rename(&packed, blobs.join(digest.hex())).expect("naming a layer");
    let blob = json!({ "mediaType": LAYER, "digest": digest.to_string(), "size": size });
    (blob, diff_id.finish().to_string())
}

fn each_piece(reader: &mut dyn Read, mut take: impl FnMut(&[u8])) {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let read = reader.read(&mut buffer).expect("reading a layer");
        if read == 0 {
            return;
        }
        take(&buffer[..read]);
    }
}

/// Returns the first mirror that apt has here: sources.list(5), the form of paragraphs.
fn mirror_of_apt() -> Option<String> {
    let folder = std::fs::read_dir("/etc/apt/sources.list.d").ok()?;
    let mut files: Vec<_> = folder.flatten().map(|file| file.path()).collect();
    files.sort();
    files
        .into_iter()
        .filter(|file| file.extension().is_some_and(|ending| ending == "sources"))
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .find_map(|text| {
            let addresses = text.lines().find_map(|line| line.strip_prefix("URIs:"))?;
            addresses.split_whitespace().next().map(str::to_owned)
        })
}

/// Runs mmdebstrap, which leaves six tars in `out`.
fn bootstrap(out: &Path) {
    // In a user namespace mmdebstrap's root is another user, who must get at the folder where it works.
    let work = out.join("work");
    std::fs::set_permissions(out, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("opening the folder");
    DirBuilder::new()
        .mode(0o777)
        .create(&work)
        .expect("a folder to work in");
    std::fs::set_permissions(&work, std::os::unix::fs::PermissionsExt::from_mode(0o1777))
        .expect("opening the folder");
    // Without one mmdebstrap knows where to ask.
    let mirror = std::env::var(MIRROR_VARIABLE).ok().or_else(mirror_of_apt);
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--quiet", "--variant=minbase", "--format=null"])
        // The build machine's clock, and a mirror's age, are no reason to fail.
        .arg("--aptopt=Acquire::Check-Valid-Until \"false\"")
        .arg("--aptopt=Acquire::Check-Date \"false\"")
        .arg("--aptopt=Apt::Install-Recommends \"false\"");
    let hooks = [
        stage(1, "", &["1", "1r"]),
        stage(2, "python3", &["2", "2r"]),
        stage(3, "python3-numpy", &["3"]),
        stage(4, "bc", &[]),
        // The rebuilt image's last layer: all that came after the second stage.
        write_tar(3, "3r"),
    ];
    for hook in hooks {
        command.arg(format!("--customize-hook={hook}"));
    }
    for name in ["1", "1r", "2", "2r", "3", "3r"] {
        let file = out.join(format!("{name}.tar"));
        command.arg(format!(
            "--customize-hook=download /var/tmp/{name}.tar {}",
            file.display()
        ));
    }
    let output = command
        .args([SUITE, "/dev/null"])
        .args(mirror)
        .env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH)
        .env("TMPDIR", &work)
        .output()
        .expect("starting mmdebstrap");
    assert!(
        output.status.success(),
        "mmdebstrap: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Returns a hook that installs a package and writes the given tars of what is new since the stage's beginning.
fn stage(number: u32, package: &str, tars: &[&str]) -> String {
    // Change times are coarse: what the last stage wrote must be older than this stage's mark.
    let mut steps = vec![
        "set -eu".to_owned(),
        "touch \"$1\"/var/tmp/wait".to_owned(),
        format!(
            "until touch \"$1\"/var/tmp/stage{number}; \
             [ \"$1\"/var/tmp/stage{number} -nt \"$1\"/var/tmp/wait ]; do :; done"
        ),
    ];
    if !package.is_empty() {
        steps.push(format!(
            "chroot \"$1\" apt-get install -y -q {package} >/dev/null"
        ));
    }
    steps.extend(tars.iter().map(|tar| write_tar(number, tar)));
    steps.join("; ")
}

/// Returns a command that writes what has changed since a stage's beginning; since ever for the first.
///
/// `r` at the end of a name: the rebuilt image's dialect.
fn write_tar(since: u32, name: &str) -> String {
    let format = if name.ends_with('r') { "posix" } else { "gnu" };
    let newer = match since {
        1 => String::new(),
        _ => format!("-cnewer var/tmp/stage{since}"),
    };
    let left_out = [
        "dev",
        "proc",
        "sys",
        "run",
        "tmp",
        "var/tmp",
        "var/cache/apt",
        "var/lib/apt/lists",
    ];
    let left_out = left_out
        .map(|path| format!("! -path './{path}/*'"))
        .join(" ");
    format!(
        "(cd \"$1\" && find . -xdev {newer} {left_out} -print0 | LC_ALL=C sort -z | \
         tar --format={format} --numeric-owner --xattrs '--xattrs-include=*' --no-recursion --null -T - \
         -cf var/tmp/{name}.tar)"
    )
}
