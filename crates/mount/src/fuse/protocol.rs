// SPDX-License-Identifier: Apache-2.0
//! The FUSE wire format: requests as the kernel writes them, replies as it reads them.
//!
//! Only what a read-only tree needs. Numbers are in the machine's byte order. A request is a 40-byte header and a body; a
//! reply is a 16-byte header (length, negative errno, the request's number) and a body. Nothing here does I/O.
//!
//! Source: include/uapi/linux/fuse.h, protocol 7.45 (kernel 6.18); replies are of version 7.31 and later.

/// Bytes of a request's header.
pub(crate) const IN_HEADER_BYTES: usize = 40;
/// Bytes of a reply's header.
pub(crate) const OUT_HEADER_BYTES: usize = 16;
/// Bytes of the kernel's `fuse_entry_out`.
const ENTRY_BYTES: usize = 128;
/// Bytes of the fixed part of the kernel's `fuse_dirent`.
const DIRENT_BYTES: usize = 24;

/// The version spoken.
pub(crate) const VERSION: (u32, u32) = (7, 31);

/// The node id of the root.
pub(crate) const ROOT_NODE: u64 = 1;

/// Features asked for in the answer to INIT; each is granted only where the kernel offers it.
pub(crate) mod feature {
    /// Reads of one file may be in flight together.
    pub(crate) const ASYNC_READ: u32 = 1 << 0;
    /// READDIRPLUS: names come with their attributes.
    pub(crate) const READDIRPLUS: u32 = 1 << 13;
    /// The kernel chooses between READDIR and READDIRPLUS by use.
    pub(crate) const READDIRPLUS_AUTO: u32 = 1 << 14;
    /// ENOSYS to OPEN means: never ask again, keep pages.
    pub(crate) const NO_OPEN: u32 = 1 << 17;
    /// Look-ups in one directory may be in flight together.
    pub(crate) const PARALLEL_DIROPS: u32 = 1 << 18;
    /// Requests of more than 32 pages.
    pub(crate) const MAX_PAGES: u32 = 1 << 22;
    /// Targets of symbolic links stay in the page cache.
    pub(crate) const CACHE_SYMLINKS: u32 = 1 << 23;
    /// ENOSYS to OPENDIR means: never ask again, keep the listing.
    pub(crate) const NO_OPENDIR: u32 = 1 << 24;
    /// `flags2` is meant.
    pub(crate) const INIT_EXT: u32 = 1 << 30;
    /// In `flags2`: the kernel can send unanswered requests again (since 6.9).
    pub(crate) const HAS_RESEND: u32 = 1 << (39 - 32);
}

/// What a kernel asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    /// The first request of a connection.
    Init {
        /// The kernel's minor version.
        minor: u32,
        /// The read-ahead it would like, in bytes.
        readahead_bytes: u32,
        /// What it can do.
        flags: u32,
        /// What it can do, bits 32 to 63.
        flags2: u32,
    },
    /// A name in a directory.
    Lookup(&'a [u8]),
    /// What a node is.
    GetAttributes,
    /// Where a symbolic link leads.
    ReadLink,
    /// Bytes of a file.
    Read {
        /// From where.
        offset: u64,
        /// How many at most.
        size: u32,
    },
    /// Names of a directory.
    ReadDirectory {
        /// The cookie of the last name that was taken, 0 at first.
        offset: u64,
        /// Bytes of reply at most.
        size: u32,
        /// Whether attributes are wanted too.
        plus: bool,
    },
    /// Sizes of the file system.
    FileSystemStatistics,
    /// No answer is expected.
    Silent,
    /// The connection ends.
    Destroy,
    /// Everything else: this server has not got it, and the kernel shall not ask again.
    Unserved,
}

/// A request with its number and node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    /// What the reply must repeat.
    pub(crate) unique: u64,
    /// The node it is about.
    pub(crate) node: u64,
    /// What is asked.
    pub(crate) request: Request<'a>,
}

impl<'a> Message<'a> {
    /// Reads what the kernel wrote; `None` where it is shorter than it says.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() < IN_HEADER_BYTES {
            return None;
        }
        let opcode = u32_at(bytes, 4)?;
        let unique = u64_at(bytes, 8)?;
        let node = u64_at(bytes, 16)?;
        let body = &bytes[IN_HEADER_BYTES..];
        let request = match opcode {
            1 => Request::Lookup(name(body)?),
            2 | 36 | 42 => Request::Silent, // FORGET, INTERRUPT, BATCH_FORGET
            3 => Request::GetAttributes,
            5 => Request::ReadLink,
            15 => Request::Read {
                offset: u64_at(body, 8)?,
                size: u32_at(body, 16)?,
            },
            17 => Request::FileSystemStatistics,
            26 => Request::Init {
                minor: u32_at(body, 4)?,
                readahead_bytes: u32_at(body, 8)?,
                flags: u32_at(body, 12)?,
                flags2: u32_at(body, 16).unwrap_or(0),
            },
            28 | 44 => Request::ReadDirectory {
                offset: u64_at(body, 8)?,
                size: u32_at(body, 16)?,
                plus: opcode == 44,
            },
            38 => Request::Destroy,
            _ => Request::Unserved,
        };
        Some(Self {
            unique,
            node,
            request,
        })
    }
}

/// What a node is, as `stat` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Attributes {
    pub(crate) inode: u64,
    pub(crate) size_bytes: u64,
    pub(crate) blocks: u64,
    /// Access, modification and change time: seconds.
    pub(crate) times_s: [u64; 3],
    /// Their nanoseconds.
    pub(crate) times_ns: [u32; 3],
    pub(crate) mode: u32,
    pub(crate) links: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) block_bytes: u32,
}

/// A reply under construction: the header's place is kept free until it is known.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    bytes: Vec<u8>,
}

impl Reply {
    /// Empties it for the next request.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.resize(OUT_HEADER_BYTES, 0);
    }

    /// Returns how long the body is.
    pub(crate) fn body_len(&self) -> usize {
        self.bytes.len() - OUT_HEADER_BYTES
    }

    /// Returns the whole reply, its header written.
    pub(crate) fn finish(&mut self, unique: u64, errno: i32) -> &[u8] {
        if errno != 0 {
            self.bytes.truncate(OUT_HEADER_BYTES);
        }
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[4..8].copy_from_slice(&(-errno).to_ne_bytes());
        self.bytes[8..16].copy_from_slice(&unique.to_ne_bytes());
        &self.bytes
    }

    /// Appends bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Opens a gap of at most `len` bytes at the end for `fill`, and keeps as many as it says it wrote.
    pub(crate) fn fill<E>(
        &mut self,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), E> {
        let start = self.bytes.len();
        self.bytes.resize(start + len, 0);
        let filled = fill(&mut self.bytes[start..]).inspect_err(|_| self.bytes.truncate(start))?;
        self.bytes.truncate(start + filled.min(len));
        Ok(())
    }

    /// Answers INIT.
    pub(crate) fn init(&mut self, minor: u32, readahead_bytes: u32, flags: u32, flags2: u32) {
        /// Pages of one READ: 1 MiB, the kernel's usual bound (`fs.fuse.max_pages_limit`).
        const PAGES_MAX: u16 = 256;
        /// Requests in flight that nobody waits for.
        const BACKGROUND_MAX: u16 = 64;
        self.u32(VERSION.0);
        self.u32(minor.min(VERSION.1));
        self.u32(readahead_bytes);
        self.u32(flags);
        self.u16(BACKGROUND_MAX);
        self.u16(BACKGROUND_MAX / 4 * 3);
        self.u32(4096); // max_write: nothing is ever written
        self.u32(1); // time granularity: nanoseconds
        self.u16(PAGES_MAX);
        self.u16(0);
        self.u32(flags2);
        self.bytes(&[0; 28]);
    }

    /// Answers LOOKUP: a node, good for `valid_s` seconds. Node 0 means: there is none, and it may be remembered.
    pub(crate) fn entry(&mut self, node: u64, attributes: &Attributes, valid_s: u64) {
        self.u64(node);
        self.u64(0); // generation: node ids are never used twice
        self.u64(valid_s);
        self.u64(valid_s);
        self.u32(0);
        self.u32(0);
        self.attributes(attributes);
    }

    /// Answers GETATTR.
    pub(crate) fn attributes_valid(&mut self, attributes: &Attributes, valid_s: u64) {
        self.u64(valid_s);
        self.u32(0);
        self.u32(0);
        self.attributes(attributes);
    }

    /// Answers STATFS with what the file system below says.
    pub(crate) fn statistics(&mut self, numbers: [u64; 5], block_bytes: u32, name_bytes: u32) {
        for number in numbers {
            self.u64(number);
        }
        self.u32(block_bytes);
        self.u32(name_bytes);
        self.u32(block_bytes);
        self.bytes(&[0; 28]);
    }

    /// Returns the bytes that a name will take in a directory's listing.
    pub(crate) fn directory_entry_bytes(name: &[u8], plus: bool) -> usize {
        (if plus { ENTRY_BYTES } else { 0 }) + (DIRENT_BYTES + name.len()).next_multiple_of(8)
    }

    /// Appends a name to a directory's listing; with `plus`, [`Reply::entry`] must come right before.
    pub(crate) fn directory_entry(&mut self, inode: u64, cookie: u64, kind: u32, name: &[u8]) {
        self.u64(inode);
        self.u64(cookie);
        self.u32(u32::try_from(name.len()).unwrap_or(0));
        self.u32(kind);
        self.bytes(name);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    fn attributes(&mut self, attributes: &Attributes) {
        self.u64(attributes.inode);
        self.u64(attributes.size_bytes);
        self.u64(attributes.blocks);
        for seconds in attributes.times_s {
            self.u64(seconds);
        }
        for nanoseconds in attributes.times_ns {
            self.u32(nanoseconds);
        }
        self.u32(attributes.mode);
        self.u32(attributes.links);
        self.u32(attributes.uid);
        self.u32(attributes.gid);
        self.u32(0); // rdev: device nodes are not shown
        self.u32(attributes.block_bytes);
        self.u32(0);
    }

    fn u16(&mut self, number: u16) {
        self.bytes(&number.to_ne_bytes());
    }

    fn u32(&mut self, number: u32) {
        self.bytes(&number.to_ne_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.bytes(&number.to_ne_bytes());
    }
}

/// Bytes of a notification that carries content, before the content.
pub(crate) const STORE_HEADER_BYTES: usize = OUT_HEADER_BYTES + 24;

/// The head of a notification that puts `content` into the cache of a node: `struct fuse_notify_store_out`.
pub(crate) fn store_notification(
    node: u64,
    offset: u64,
    content: &[u8],
) -> [u8; STORE_HEADER_BYTES] {
    const NOTIFY_STORE: i32 = 4;
    let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
    let length = u32::try_from(STORE_HEADER_BYTES + content.len()).unwrap_or(u32::MAX);
    let mut bytes = [0; STORE_HEADER_BYTES];
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes[4..8].copy_from_slice(&NOTIFY_STORE.to_ne_bytes());
    bytes[16..24].copy_from_slice(&node.to_ne_bytes());
    bytes[24..32].copy_from_slice(&offset.to_ne_bytes());
    bytes[32..36].copy_from_slice(&size.to_ne_bytes());
    bytes
}

/// Returns the notification that asks the kernel for every request that was taken and not answered (since 6.9).
pub(crate) fn resend_notification() -> [u8; OUT_HEADER_BYTES] {
    const NOTIFY_RESEND: i32 = 7;
    let mut bytes = [0; OUT_HEADER_BYTES];
    bytes[0] = 0;
    bytes[..4].copy_from_slice(&16_u32.to_ne_bytes());
    bytes[4..8].copy_from_slice(&NOTIFY_RESEND.to_ne_bytes());
    bytes
}

fn name(body: &[u8]) -> Option<&[u8]> {
    let end = body.iter().position(|byte| *byte == 0)?;
    Some(&body[..end])
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; IN_HEADER_BYTES];
        bytes[4..8].copy_from_slice(&opcode.to_ne_bytes());
        bytes[8..16].copy_from_slice(&77_u64.to_ne_bytes());
        bytes[16..24].copy_from_slice(&node.to_ne_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn lookup_carries_its_name() {
        let bytes = request(1, 5, b"bin\0");
        let message = Message::parse(&bytes).expect("a whole request");
        assert_eq!((message.unique, message.node), (77, 5));
        assert_eq!(message.request, Request::Lookup(b"bin"));
    }

    #[test]
    fn short_requests_are_no_requests() {
        let read = request(15, 5, &[0; 40]);
        for len in 0..IN_HEADER_BYTES + 20 {
            assert!(
                Message::parse(&read[..len]).is_none(),
                "{len} bytes of a READ"
            );
        }
        assert!(Message::parse(&request(1, 5, b"unterminated")).is_none());
    }

    /// The kernel refuses a reply whose size is off by one byte, so the sizes of its structures are pinned here.
    #[test]
    fn replies_have_the_kernels_sizes() {
        let size = |fill: &dyn Fn(&mut Reply)| {
            let mut reply = Reply::default();
            reply.clear();
            fill(&mut reply);
            reply.body_len()
        };
        assert_eq!(size(&|reply| reply.init(45, 1, 2, 3)), 64);
        assert_eq!(
            size(&|reply| reply.entry(1, &Attributes::default(), 1)),
            ENTRY_BYTES
        );
        assert_eq!(
            size(&|reply| reply.attributes_valid(&Attributes::default(), 1)),
            104
        );
        assert_eq!(size(&|reply| reply.statistics([0; 5], 1, 1)), 80);
        assert_eq!(size(&|reply| reply.directory_entry(1, 2, 3, b"four")), 32);
        assert_eq!(Reply::directory_entry_bytes(b"four", false), 32);
        assert_eq!(
            Reply::directory_entry_bytes(b"123456789", true),
            ENTRY_BYTES + 40
        );
    }

    #[test]
    fn a_notification_says_whose_content_it_carries() {
        let head = store_notification(7, 4096, b"abc");
        let number = |at| u32_at(&head, at);
        assert_eq!(number(0), Some(43), "the length with the content");
        assert_eq!((number(4), u64_at(&head, 8)), (Some(4), Some(0)));
        assert_eq!(
            (u64_at(&head, 16), u64_at(&head, 24)),
            (Some(7), Some(4096))
        );
        assert_eq!(number(32), Some(3));
    }

    #[test]
    fn an_error_has_no_body() {
        let mut reply = Reply::default();
        reply.clear();
        reply.bytes(b"half an answer");
        let bytes = reply.finish(9, 2);
        assert_eq!(bytes.len(), OUT_HEADER_BYTES);
        assert_eq!(
            i32::from_ne_bytes(bytes[4..8].try_into().expect("four")),
            -2
        );
    }
}
