//! Tar archives, read as what they are: hostile input. Nothing is unpacked here; entries say where their content lies.
use super::{
    blob::{Blob, Spool},
    tree::{Meta, show},
};
use anyhow::{Context, Result, anyhow, bail, ensure};
use shimos_vfs::{NAME_MAX, PATH_MAX};

/// Bytes of a record of an archive.
const RECORD: u64 = 512;
/// Longest long name.
const LONG_NAME: u64 = 64 << 10;
/// Most bytes of further attributes of one entry.
const ATTRIBUTES: u64 = 1 << 20;

/// One entry.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its path, without anything to normalise; empty for the root.
    pub path: Vec<u8>,
    /// Owner, mode, time.
    pub meta: Meta,
    /// What it is.
    pub kind: Kind,
}

/// What an entry is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File(Blob),
    /// A symbolic link with its text.
    Symlink(Vec<u8>),
    /// Another name of a file.
    HardLink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A device.
    Device,
}

/// What further attributes and long names say about the entry that follows.
#[derive(Default)]
struct Ahead {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
}

/// All entries of an archive, in its order.
pub fn entries(archive: &Blob, spool: &mut Spool) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    let mut ahead = Ahead::default();
    let mut at = 0;
    loop {
        let mut record = [0; RECORD as usize];
        if archive.read_exact_at(&mut record, at).is_err() {
            bail!("the archive is cut short: its end is missing at byte {at}");
        }
        if record.iter().all(|byte| *byte == 0) {
            return Ok(found);
        }
        let header = tar::Header::from_byte_slice(&record);
        check_sum(&record, header).with_context(|| format!("the header at byte {at}"))?;
        let kind = header.entry_type().as_byte();
        let mut path = header.path_bytes().into_owned();
        if let Some(long) = ahead.path.take() {
            path = long;
        }
        spool.count_entry(path.len())?;
        let named = |error: anyhow::Error| anyhow!("{}: {error:#}", show(&path));
        let has_content = !matches!(kind, b'1'..=b'6');
        let size = match ahead.size.take() {
            Some(size) if has_content => size,
            _ => header.entry_size().map_err(|_| named(anyhow!("its size is no number")))?,
        };
        let content = archive.part(at + RECORD, size).ok_or_else(|| {
            named(anyhow!("the archive is cut short: {size} bytes should follow, {} do", archive.len() - at - RECORD))
        })?;
        // What `part` has let through does not overflow.
        at = at + RECORD + size.next_multiple_of(RECORD);
        match kind {
            b'L' => ahead.path = Some(long_name(&content)?),
            b'K' => ahead.link = Some(long_name(&content)?),
            b'x' => attributes(&content, &mut ahead)?,
            // For all that follow: comments in practice.
            b'g' => ensure!(size <= ATTRIBUTES, "the archive's global attributes are too long"),
            _ => {
                let ahead = std::mem::take(&mut ahead);
                ensure!(has_content || size == 0, named(anyhow!("it should have no content and has {size} bytes")));
                let link = ahead.link.clone().or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
                let entry = entry(header, kind, &path, link.unwrap_or_default(), content, &ahead);
                found.push(entry.map_err(named)?);
            }
        }
    }
}

fn check_sum(record: &[u8], header: &tar::Header) -> Result<()> {
    let sum: u32 =
        record.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
    ensure!(header.cksum().is_ok_and(|said| said == sum), "is damaged, or this is no tar archive");
    Ok(())
}

fn long_name(content: &Blob) -> Result<Vec<u8>> {
    let mut name = content.bytes(LONG_NAME).context("a long name")?;
    if let Some(end) = name.iter().position(|byte| *byte == 0) {
        name.truncate(end);
    }
    Ok(name)
}

fn attributes(content: &Blob, ahead: &mut Ahead) -> Result<()> {
    let bytes = content.bytes(ATTRIBUTES).context("an entry's further attributes")?;
    for attribute in tar::PaxExtensions::new(&bytes) {
        let attribute = attribute.map_err(|_| anyhow!("an entry's further attributes are damaged"))?;
        let value = attribute.value_bytes();
        let number = || attribute.value().ok().and_then(|text| text.parse().ok());
        match attribute.key_bytes() {
            b"path" => ahead.path = Some(value.to_vec()),
            b"linkpath" => ahead.link = Some(value.to_vec()),
            b"size" => ahead.size = Some(number().context("an entry's size is no number")?),
            b"uid" => ahead.uid = Some(number().context("an entry's owner is no number")?),
            b"gid" => ahead.gid = Some(number().context("an entry's group is no number")?),
            b"mtime" => ahead.mtime = attribute.value().ok().and_then(time),
            key if key.starts_with(b"GNU.sparse.") => bail!("sparse files are not supported; archive without --sparse"),
            _ => {}
        }
    }
    Ok(())
}

/// Seconds since 1970 and nanoseconds.
fn time(text: &str) -> Option<(i64, u32)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some((seconds.parse().ok()?, digits.parse().ok()?))
}

fn entry(header: &tar::Header, kind: u8, path: &[u8], link: Vec<u8>, content: Blob, ahead: &Ahead) -> Result<Entry> {
    let place = normal(path)?;
    let mode = header.mode().map_err(|_| anyhow!("its mode is no number"))?;
    let uid = ahead.uid.or(header.uid().ok()).context("its owner is no number")?;
    let gid = ahead.gid.or(header.gid().ok()).context("its group is no number")?;
    let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
    let meta = Meta {
        mode: (mode & 0o7777) as u16,
        uid: id(uid).with_context(|| format!("its owner {uid} is out of range"))?,
        gid: id(gid).with_context(|| format!("its group {gid} is out of range"))?,
        mtime: ahead.mtime.unwrap_or_else(|| (header.mtime().ok().and_then(|t| i64::try_from(t).ok()).unwrap_or(0), 0)),
    };
    let kind = match kind {
        b'0' | 0 | b'7' if path.ends_with(b"/") => Kind::Directory,
        b'0' | 0 | b'7' => Kind::File(content),
        b'1' => Kind::HardLink(
            normal(&link)
                .map_err(|error| anyhow!("it is a hard link to {}, which cannot be: {error:#}", show(&link)))?,
        ),
        b'2' => {
            let usable = !link.is_empty() && link.len() < PATH_MAX && !link.contains(&0);
            ensure!(usable, "it is a symbolic link without a usable text");
            Kind::Symlink(link)
        }
        b'3' | b'4' => Kind::Device,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        b'S' => bail!("sparse files are not supported; archive without --sparse"),
        other => bail!("it is of an unknown kind '{}'", other.escape_ascii()),
    };
    ensure!(!place.is_empty() || matches!(kind, Kind::Directory), "it is not a directory and has the root's name");
    Ok(Entry { path: place, meta, kind })
}

/// A path within the image: its components with one slash between them.
fn normal(path: &[u8]) -> Result<Vec<u8>> {
    ensure!(!path.is_empty(), "the name is empty");
    ensure!(path.len() < PATH_MAX, "the name is longer than {PATH_MAX} bytes");
    ensure!(!path.contains(&0), "the name has a zero byte in it");
    ensure!(!path.starts_with(b"/"), "the name is absolute");
    let mut place = Vec::with_capacity(path.len());
    for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
        ensure!(part != b"..", "the name leads out by '..'");
        ensure!(part.len() <= NAME_MAX, "a part of the name is longer than {NAME_MAX} bytes");
        if !place.is_empty() {
            place.push(b'/');
        }
        place.extend_from_slice(part);
    }
    Ok(place)
}
