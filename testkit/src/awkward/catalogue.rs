// SPDX-License-Identifier: Apache-2.0
//! The forms that every awkward image has, whatever its seed.

use std::collections::BTreeMap;

use wolffia_image::Digest;

use super::{Danger, Maker};
use crate::archive::{Form, Item, ItemKind, Sparse, Spelling, Writer};

/// A version 2 `security.capability`: `cap_net_bind_service`, effective and permitted.
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

impl Maker {
    /// The forms that are always there.
    pub(super) fn base(&mut self) -> Vec<u8> {
        let mut writer = Writer::new();
        self.put(&mut writer, Item::directory("./"));
        for (path, mode) in [
            ("plain", 0o755),
            ("sticky", 0o1777),
            ("group", 0o2755),
            ("closed", 0o700),
            ("nothing", 0),
        ] {
            self.put(
                &mut writer,
                Item {
                    mode,
                    mtime: (1_234_567_890, 0),
                    ..Item::directory(path)
                },
            );
        }
        for path in [
            "covered/old",
            "covered/inner/old",
            "sticky/old",
            "sticky/inner/old",
        ] {
            self.put(
                &mut writer,
                Item::file(path, "gone under an opaque directory"),
            );
        }
        for size in [0, 1, 511, 512, 513, 4096, 100_000] {
            let content = self.random.bytes(size);
            self.put(
                &mut writer,
                Item::file(format!("plain/file{size}"), content),
            );
        }
        for (path, mode) in [
            ("setuid", 0o4755),
            ("setgid", 0o2711),
            ("unreadable", 0),
            ("all", 0o7777),
        ] {
            self.put(
                &mut writer,
                Item {
                    mode,
                    ..Item::file(format!("plain/{path}"), path)
                },
            );
        }
        self.owners_and_times(&mut writer);
        self.names(&mut writer);
        self.links(&mut writer);
        self.attributes(&mut writer);
        self.sparse_files(&mut writer);
        self.special(&mut writer);
        if self.danger == Danger::Hostile {
            self.hostile(&mut writer);
        }
        self.finish(writer)
    }

    fn owners_and_times(&mut self, writer: &mut Writer) {
        for (place, uid) in [
            1,
            999,
            65_533,
            65_534,
            65_535,
            65_536,
            70_000,
            4_294_967_293,
        ]
        .into_iter()
        .enumerate()
        {
            let gid = 4_294_967_293 - uid;
            self.put(
                writer,
                Item {
                    uid,
                    gid,
                    ..Item::file(format!("owners/{place}"), "owned")
                },
            );
            self.put(
                writer,
                Item {
                    uid,
                    gid,
                    ..Item::directory(format!("owners/of{place}"))
                },
            );
        }
        let times = [
            (0, 0),
            (0, 1),
            (-1, 0),
            (-2, 500_000_000),
            (-86_400 * 365 * 60, 0),
            (1 << 33, 999_999_999),
            (1_700_000_000, 123_456_789),
        ];
        for (place, mtime) in times.into_iter().enumerate() {
            self.put(
                writer,
                Item {
                    mtime,
                    ..Item::file(format!("times/{place}"), "timed")
                },
            );
            self.put(
                writer,
                Item {
                    mtime,
                    ..Item::new(format!("times/link{place}"), ItemKind::Symlink("x".into()))
                },
            );
        }
        // Named after what is in it, so that its times are set last.
        self.put(
            writer,
            Item {
                mode: 0o750,
                mtime: (7, 7),
                ..Item::directory("times")
            },
        );
    }

    fn names(&mut self, writer: &mut Writer) {
        let names: [&[u8]; 8] = [
            b"latin \xe4\xf6\xfc",
            b"\xff\xfe",
            b"new\nline",
            b"tab\tand \\",
            b" space ",
            "\u{1f331}".as_bytes(),
            b"-dash",
            b"wh.x",
        ];
        for name in names {
            self.put(writer, Item::file([b"names/", name].concat(), name));
        }
        let long = format!("names/{}", "l".repeat(255));
        self.put(writer, Item::file(long.as_str(), "long name"));
        let deep = format!("names/{}", "deep-directory/".repeat(40));
        self.put(writer, Item::file(format!("{deep}file"), "deep"));
        for path in [
            "./names/dot",
            "/names/absolute",
            "names//double///slashes",
            "names/./inner/./dots",
        ] {
            self.put(writer, Item::file(path, path));
        }
        for (place, content) in ["first", "second", "the last one holds"]
            .into_iter()
            .enumerate()
        {
            let mode = 0o600 + u32::try_from(place).expect("three");
            self.put(
                writer,
                Item {
                    mode,
                    ..Item::file("names/twice", content)
                },
            );
        }
        self.put(writer, Item::directory("names/typed"));
        self.put(
            writer,
            Item::file("names/typed/below", "gone with its directory"),
        );
        self.put(
            writer,
            Item::new("names/typed", ItemKind::Symlink("twice".into())),
        );
    }

    fn links(&mut self, writer: &mut Writer) {
        let targets = [
            "../plain/file1",
            "/plain/file1",
            "missing",
            "loop",
            "../../../../../etc/passwd",
            "/",
            ".",
        ];
        for (place, target) in targets.into_iter().enumerate() {
            self.put(
                writer,
                Item::new(format!("links/to{place}"), ItemKind::Symlink(target.into())),
            );
        }
        self.put(
            writer,
            Item::new("links/loop", ItemKind::Symlink("loop".into())),
        );
        self.put(
            writer,
            Item::new("links/long", ItemKind::Symlink(vec![b't'; 300])),
        );
        self.put(
            writer,
            Item::new("links/odd", ItemKind::Symlink(b"\xff\n".to_vec())),
        );
        for (path, target) in [
            ("links/hard", "plain/file513"),
            ("plain/hard", "/links/hard"),
            ("a-first/hard", "./plain/hard"),
            ("links/hard-symlink", "links/to0"),
            ("links/hard-setuid", "plain/setuid"),
        ] {
            self.put(writer, Item::new(path, ItemKind::HardLink(target.into())));
        }
        // Through links of this layer: they stay inside.
        self.put(
            writer,
            Item::new("links/dir", ItemKind::Symlink("/plain".into())),
        );
        self.put(writer, Item::file("links/dir/through", "a link"));
        self.put(
            writer,
            Item::new("links/up", ItemKind::Symlink("../../../../links".into())),
        );
        self.put(writer, Item::file("links/up/through-up", "the root"));
        self.put(
            writer,
            Item::new(
                "links/nowhere",
                ItemKind::Symlink("/made/on/the/way".into()),
            ),
        );
        self.put(writer, Item::file("links/nowhere/file", "made"));
        self.put(
            writer,
            Item::new(
                "links/dir-hard",
                ItemKind::HardLink("links/dir/file1".into()),
            ),
        );
    }

    fn attributes(&mut self, writer: &mut Writer) {
        let values: [(&str, &[u8]); 5] = [
            ("user.text", b"text"),
            ("user.binary", b"\0=\n\xff\0"),
            ("user.long", &[b'v'; 3000]),
            ("trusted.secret", b"root's"),
            ("security.capability", CAPABILITY),
        ];
        for (name, value) in values {
            let mut item = Item::file(format!("attributes/{name}"), name);
            item.xattrs.insert(name.into(), value.to_vec());
            self.put(writer, item);
        }
        let mut directory = Item::directory("attributes/directory");
        directory
            .xattrs
            .insert(b"user.on.directory".to_vec(), b"1".to_vec());
        self.put(writer, directory);
        self.planted(writer);
    }

    /// What steers overlayfs and tools for ordinary users, written by the image.
    fn planted(&mut self, writer: &mut Writer) {
        for (name, value) in [
            ("user.overlay.metacopy", &b""[..]),
            ("user.overlay.redirect", b"/ab/cdefghijklmnopqrstuvw"),
            ("user.overlay.whiteout", b"y"),
            ("trusted.overlay.metacopy", b"x"),
            ("user.rootlesscontainers", b"\x08\x01\x10\x02"),
        ] {
            let mut item = Item::file(format!("planted/{name}"), name);
            item.xattrs.insert(name.into(), value.to_vec());
            self.put(writer, item);
        }
        let mut plant = |mut item: Item, attributes: &[(&str, &[u8])]| {
            for (name, value) in attributes {
                item.xattrs.insert((*name).into(), value.to_vec());
            }
            self.put(writer, item);
        };
        // Empty files are no stubs, so nothing of ours would stand in the way: these would show another file's content.
        let other = Digest::of(b"owned").object_name().redirect();
        let redirect = ("user.overlay.redirect", other.as_bytes());
        plant(
            Item::file("planted/empty", ""),
            &[("user.overlay.metacopy", b""), redirect],
        );
        plant(
            Item::file("planted/empty-long", ""),
            &[("user.overlay.metacopy", b"\0\x04\0\0"), redirect],
        );
        plant(
            Item::directory("planted/moved"),
            &[("user.overlay.redirect", b"/plain")],
        );
        // A directory that would have whiteouts in it, and one that would hide what is below.
        plant(
            Item::directory("planted/whiteouts"),
            &[("user.overlay.opaque", b"x")],
        );
        plant(
            Item::file("planted/whiteouts/hidden", ""),
            &[("user.overlay.whiteout", b"")],
        );
        plant(
            Item::file("planted/whiteouts/hidden-too", ""),
            &[("user.overlay.whiteout", b"y")],
        );
        let opaque: [(&str, &[u8]); 2] = [
            ("user.overlay.opaque", b"y"),
            ("trusted.overlay.opaque", b"y"),
        ];
        plant(Item::directory("planted/opaque"), &opaque);
        plant(Item::file("planted/opaque/below", "still seen"), &[]);
    }

    fn sparse_files(&mut self, writer: &mut Writer) {
        let forms: &[Sparse] = match self.danger {
            // Go's reader passes the old form's type on, which umoci does not know.
            Danger::Readable => &[Sparse::Dense, Sparse::Pax00, Sparse::Pax01, Sparse::Pax10],
            _ => &[
                Sparse::Dense,
                Sparse::Pax00,
                Sparse::Pax01,
                Sparse::Pax10,
                Sparse::Gnu,
            ],
        };
        for (place, sparse) in forms.iter().enumerate() {
            for (name, extents, tail) in [
                ("empty", 0, 4096),
                ("full", 1, 0),
                ("some", 3, 70_000),
                ("many", 60, 1),
            ] {
                let mut end = if name == "full" { 0 } else { 4096 };
                let mut data = Vec::new();
                for _ in 0..extents {
                    let length = 1 + self.random.below(5000);
                    data.push((end, self.random.bytes(length)));
                    end += length as u64 + 1 + self.random.number() % 9000;
                }
                let data_end = data.last().map_or(0, |(offset, bytes): &(u64, Vec<u8>)| {
                    offset + bytes.len() as u64
                });
                let item = Item::new(
                    format!("sparse/{place}-{name}"),
                    ItemKind::File {
                        size: data_end + tail,
                        data,
                    },
                );
                let form = if *sparse == Sparse::Gnu {
                    Form::Gnu
                } else {
                    Form::Pax
                };
                writer.add(
                    &item,
                    Spelling {
                        form,
                        sparse: *sparse,
                        ..Spelling::default()
                    },
                );
            }
        }
    }

    fn special(&mut self, writer: &mut Writer) {
        self.put(
            writer,
            Item {
                mode: 0o622,
                ..Item::new("special/fifo", ItemKind::Fifo)
            },
        );
        self.put(
            writer,
            Item::new("special/null", ItemKind::CharDevice(1, 3)),
        );
        self.put(
            writer,
            Item {
                uid: 5,
                ..Item::new("special/disk", ItemKind::BlockDevice(8, 1))
            },
        );
        self.put(
            writer,
            Item::new(
                "special/hard-fifo",
                ItemKind::HardLink("special/fifo".into()),
            ),
        );
        if self.danger == Danger::Readable {
            return;
        }
        writer.special(
            b'7',
            b"special/contiguous",
            b"as a file",
            Spelling::default(),
        );
        writer.special(b'V', b"a volume's label", b"", Spelling::default());
        let link = Item::new(
            "special/link-data",
            ItemKind::HardLink("plain/file1".into()),
        );
        writer.add(
            &link,
            Spelling {
                form: Form::Pax,
                link_data: true,
                ..Spelling::default()
            },
        );
        let mut libarchive = Item::file("special/libarchive", "attributes in base64");
        libarchive.xattrs = BTreeMap::from([(b"user.base64".to_vec(), b"\0\xff".to_vec())]);
        writer.add(
            &libarchive,
            Spelling {
                form: Form::Pax,
                libarchive_xattrs: true,
                ..Spelling::default()
            },
        );
    }

    fn hostile(&mut self, writer: &mut Writer) {
        for path in [
            "../hostile-up",
            "plain/../../hostile-inner",
            "/../hostile-absolute",
            "hostile/..",
        ] {
            self.put(writer, Item::file(path, "outside"));
        }
        for (place, target) in [
            "../../../etc/passwd",
            "/../etc/shadow",
            "missing/target",
            "plain",
            "",
        ]
        .into_iter()
        .enumerate()
        {
            self.put(
                writer,
                Item::new(
                    format!("hostile-hard{place}"),
                    ItemKind::HardLink(target.into()),
                ),
            );
        }
        self.put(
            writer,
            Item::new("hostile-loop", ItemKind::Symlink("hostile-loop/x".into())),
        );
        self.put(writer, Item::file("hostile-loop/y", "round"));
        self.put(writer, Item::file("plain/file1/hostile", "below a file"));
        self.put(writer, Item::new(".", ItemKind::Symlink("/etc".into())));
        for name in [
            ".wh.",
            ".wh..",
            ".wh...",
            "plain/.wh...",
            ".wh..wh.plnk",
            ".wh.hostile/x",
        ] {
            self.put(writer, Item::file(name, ""));
        }
        writer.special(b'?', b"hostile-type", b"data", Spelling::default());
    }

    /// What layers do to one another.
    pub(super) fn upper(&mut self) -> Vec<u8> {
        let mut writer = Writer::new();
        for name in [
            "plain/.wh.file0",
            "closed/.wh.missing",
            "names/.wh.new\nline",
            ".wh.nothing",
        ] {
            self.put(&mut writer, Item::file(name, ""));
        }
        // An opaque directory, its marker behind what stays; and another, its marker first.
        self.put(&mut writer, Item::directory("covered"));
        self.put(&mut writer, Item::file("covered/new", "stays"));
        self.put(&mut writer, Item::file("covered/.wh..wh..opq", ""));
        self.put(&mut writer, Item::file("sticky/.wh..wh..opq", ""));
        self.put(&mut writer, Item::file("sticky/new", "stays"));
        // Links to lower layers, and the ends of links.
        self.put(
            &mut writer,
            Item::new("upper/hard", ItemKind::HardLink("plain/file512".into())),
        );
        self.put(
            &mut writer,
            Item::new("upper/hard-fifo", ItemKind::HardLink("special/fifo".into())),
        );
        self.put(
            &mut writer,
            Item::file("links/hard", "no longer the others"),
        );
        self.put(&mut writer, Item::file("links/.wh.hard-symlink", ""));
        // Types replaced, both ways.
        self.put(&mut writer, Item::file("group", "was a directory"));
        self.put(&mut writer, Item::directory("plain/file4096"));
        self.put(
            &mut writer,
            Item::file("plain/file4096/below", "what was a file"),
        );
        self.put(&mut writer, Item::new("plain/all", ItemKind::Fifo));
        self.put(&mut writer, Item::directory("links/to0"));
        // Through a link of the lower layer; and a directory in a link's place.
        self.put(
            &mut writer,
            Item::file("links/dir/through-lower", "a link below"),
        );
        self.put(
            &mut writer,
            Item {
                mode: 0o711,
                uid: 3,
                mtime: (99, 0),
                ..Item::directory("links/up")
            },
        );
        self.put(&mut writer, Item::file("links/up/below", "a directory now"));
        // Only its own facts.
        self.put(
            &mut writer,
            Item {
                mode: 0o710,
                uid: 1,
                gid: 2,
                mtime: (5, 5),
                ..Item::directory("closed")
            },
        );
        self.put(
            &mut writer,
            Item {
                mtime: (4, 4),
                ..Item::directory("attributes/directory")
            },
        );
        self.put(
            &mut writer,
            Item {
                mode: 0o755,
                mtime: (3, 3),
                ..Item::directory("./")
            },
        );
        self.finish(writer)
    }
}
