//! Runs of bytes in files, and what is unpacked from them. Nothing is held in memory.
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Most memory that a decompressor may take for its window.
const WINDOW: u64 = 128 << 20;
/// Bytes that are copied at a time.
const PIECE: usize = 128 << 10;

/// How much an archive may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes, unpacked, of all layers together.
    pub bytes: u64,
    /// Entries of all layers together.
    pub entries: usize,
    /// Bytes of the entries' names together.
    pub names: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { bytes: 32 << 30, entries: 1_000_000, names: 256 << 20 }
    }
}

/// A run of bytes in a file.
#[derive(Clone, Debug)]
pub struct Blob {
    file: Arc<File>,
    offset: u64,
    len: u64,
}

impl Blob {
    /// A whole file.
    pub fn open(path: &Path) -> Result<Blob> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Blob::of(file).with_context(|| format!("cannot read {}", path.display()))
    }

    /// A whole open file.
    pub fn of(file: File) -> io::Result<Blob> {
        let len = file.metadata()?.len();
        Ok(Blob { file: Arc::new(file), offset: 0, len })
    }

    /// How many bytes.
    pub fn len(&self) -> u64 {
        self.len
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A part; nothing if it is not all there.
    pub fn part(&self, offset: u64, len: u64) -> Option<Blob> {
        let fits = offset.checked_add(len).is_some_and(|end| end <= self.len);
        fits.then(|| Blob { file: Arc::clone(&self.file), offset: self.offset + offset, len })
    }

    /// Fills `into` from a place.
    pub fn read_exact_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        match self.part(offset, into.len() as u64) {
            Some(part) => self.file.read_exact_at(into, part.offset),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// All of it, if it is at most `most` bytes.
    pub fn bytes(&self, most: u64) -> Result<Vec<u8>> {
        if self.len > most {
            bail!("has {} bytes, more than the {most} that are read", self.len);
        }
        let mut bytes = vec![0; self.len as usize];
        self.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// A reader of all of it.
    pub fn reader(&self) -> BlobReader {
        BlobReader { blob: self.clone(), at: 0 }
    }

    /// Its SHA-256, in hexadecimal digits.
    pub fn digest(&self) -> io::Result<String> {
        let mut hash = Sha256::new();
        let mut reader = self.reader();
        let mut piece = vec![0; PIECE];
        loop {
            match reader.read(&mut piece)? {
                0 => return Ok(hex(hash)),
                count => hash.update(&piece[..count]),
            }
        }
    }

    /// Copies all of it.
    pub fn copy_to(&self, to: &mut impl Write) -> io::Result<()> {
        let copied = io::copy(&mut BufReader::with_capacity(PIECE, self.reader()), to)?;
        if copied == self.len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// The hexadecimal digits of a digest.
pub fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a blob from its start to its end.
#[derive(Debug)]
pub struct BlobReader {
    blob: Blob,
    at: u64,
}

impl Read for BlobReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = into.len().min(usize::try_from(self.blob.len - self.at).unwrap_or(usize::MAX));
        let got = self.blob.file.read_at(&mut into[..count], self.blob.offset + self.at)?;
        if got == 0 && count > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += got as u64;
        Ok(got)
    }
}

/// How bytes are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Compression {
    None,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

impl Compression {
    fn of(blob: &Blob) -> io::Result<Compression> {
        let mut start = [0; 6];
        let count = blob.len.min(6) as usize;
        blob.read_exact_at(&mut start[..count], 0)?;
        Ok(match start {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [b'B', b'Z', b'h', ..] => Compression::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Compression::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            _ => Compression::None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Compression::None => "plain",
            Compression::Gzip => "gzip",
            Compression::Bzip2 => "bzip2",
            Compression::Xz => "xz",
            Compression::Zstd => "zstd",
        }
    }
}

/// Where things are unpacked to, and how much may still come.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    limits: Limits,
    bytes: u64,
    entries: usize,
    names: usize,
}

impl Spool {
    /// Unpacks into files without names in this directory.
    pub fn new(directory: &Path, limits: Limits) -> Spool {
        Spool { directory: directory.to_path_buf(), limits, bytes: 0, entries: 0, names: 0 }
    }

    /// Where it unpacks to; what is put there goes when the image is made.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Another spool with the same limits, for looking at an archive before it is unpacked.
    pub fn apart(&self) -> Spool {
        Spool::new(&self.directory, self.limits)
    }

    /// Counts an entry of an archive with a name of this length.
    pub fn count_entry(&mut self, name: usize) -> Result<()> {
        self.entries += 1;
        self.names += name;
        if self.entries > self.limits.entries {
            bail!("there are more than {} entries, the limit for an image", self.limits.entries);
        }
        if self.names > self.limits.names {
            bail!("the names have more than {} bytes, the limit for an image", self.limits.names);
        }
        Ok(())
    }

    /// The bytes unpacked. What is not compressed stays where it is.
    pub fn unpack(&mut self, blob: &Blob) -> Result<Blob> {
        let compression = Compression::of(blob)?;
        let mut reader: Box<dyn Read> = match compression {
            Compression::None => return Ok(blob.clone()),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::new(blob.reader()))),
            Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(BufReader::new(blob.reader()))),
            Compression::Xz => {
                let limit = (WINDOW >> 10) as u32;
                Box::new(lzma_rust2::XzReader::new_mem_limit(BufReader::new(blob.reader()), true, limit))
            }
            Compression::Zstd => Box::new(ZstdFrames { input: BufReader::new(blob.reader()), frame: None }),
        };
        let name = compression.name();
        let unpacked = self.spool(&mut *reader, name)?;
        Blob::of(unpacked).with_context(|| format!("cannot read what was unpacked from {name}"))
    }

    fn spool(&mut self, reader: &mut dyn Read, name: &str) -> Result<File> {
        let path = self.directory.join("spool");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let mut file = file.with_context(|| format!("cannot make {}", path.display()))?;
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        let mut piece = vec![0; PIECE];
        let mut written = 0;
        loop {
            let count = match reader.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => bail!("the {name} data is cut short"),
                Err(error) => bail!("the {name} data is damaged ({error})"),
            };
            self.bytes += count as u64;
            written += count as u64;
            if self.bytes > self.limits.bytes {
                bail!("it unpacks to more than {} bytes, the limit for an image", self.limits.bytes);
            }
            // Zeros stay a hole.
            let part = &piece[..count];
            let stored = if part.iter().all(|byte| *byte == 0) {
                file.seek(SeekFrom::Current(count as i64)).map(|_| ())
            } else {
                file.write_all(part)
            };
            stored.context("cannot write what is unpacked; is the disk full?")?;
        }
        file.set_len(written).context("cannot write what is unpacked; is the disk full?")?;
        Ok(file)
    }
}

type ZstdFrame = ruzstd::decoding::StreamingDecoder<BufReader<BlobReader>, ruzstd::decoding::FrameDecoder>;

/// Decompresses one zstd frame after the other; frames to be skipped are.
struct ZstdFrames {
    input: BufReader<BlobReader>,
    frame: Option<Box<ZstdFrame>>,
}

impl ZstdFrames {
    /// Begins the next frame; false at the end.
    fn begin(&mut self) -> io::Result<bool> {
        loop {
            if self.input.fill_buf()?.is_empty() {
                return Ok(false);
            }
            let nothing = BufReader::new(self.input.get_ref().nothing());
            let mut input = std::mem::replace(&mut self.input, nothing);
            let mut head = [0; 4];
            input.read_exact(&mut head)?;
            if let [0x50..=0x5f, 0x2a, 0x4d, 0x18] = head {
                let mut len = [0; 4];
                input.read_exact(&mut len)?;
                let skipped = io::copy(&mut input.by_ref().take(u32::from_le_bytes(len).into()), &mut io::sink())?;
                if skipped != u64::from(u32::from_le_bytes(len)) {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.input = input;
                continue;
            }
            input.seek_relative(-4)?;
            let frame = ZstdFrame::new_with_max_window_size(input, WINDOW).map_err(io::Error::other)?;
            self.frame = Some(Box::new(frame));
            return Ok(true);
        }
    }
}

impl Read for ZstdFrames {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(frame) = &mut self.frame else {
                if self.begin()? {
                    continue;
                }
                return Ok(0);
            };
            let count = frame.read(into)?;
            if count > 0 || into.is_empty() {
                return Ok(count);
            }
            let Some(frame) = self.frame.take() else { return Ok(0) };
            let (input, decoder) = frame.into_parts();
            let said = decoder.get_checksum_from_data();
            if said.is_some() && said != decoder.get_calculated_checksum() {
                return Err(io::Error::other("a wrong checksum"));
            }
            self.input = input;
        }
    }
}

impl BlobReader {
    /// A reader at its end.
    fn nothing(&self) -> BlobReader {
        BlobReader { blob: self.blob.clone(), at: self.blob.len }
    }
}

impl Seek for BlobReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.blob.len.checked_add_signed(by),
        };
        self.at = at.filter(|at| *at <= self.blob.len).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
