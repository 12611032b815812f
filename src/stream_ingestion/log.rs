//! The durable log: what is acknowledged stands here, before it is in any store.
//!
//! ```text
//! FOLDER/id                      sixteen hexadecimal digits, made once: positions are those of this log
//! FOLDER/00000000000000000042.log    records from sequence number 42 on
//!   file   = "ASOFLOG1" | record*
//!   record = length of the body (u32) | checksum of all that follows (u64) | sequence number (u64) | body
//! ```
//!
//! Numbers are little-endian; the checksum is XXH3. Sequence numbers ascend, and may leave some out. A crash leaves at
//! most a torn record at the end of the last file, which is cut off when the log is opened. A file goes once every
//! record in it is in both stores. One process at a time has the log: that which has the online store.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::fail_point::fail_point;
use super::record::Record;

const MAGIC: &[u8; 8] = b"ASOFLOG1";
const HEADER_LEN: usize = 20;
/// A file is closed once it is this long.
pub const SEGMENT_BYTES: u64 = 64 << 20;
const ID_FILE: &str = "id";

/// A record and its place in the log.
#[derive(Debug, Clone)]
pub struct Logged {
    pub sequence: u64,
    pub record: Record,
    /// As the log stores it.
    pub bytes: usize,
}

#[derive(Debug)]
pub struct Log {
    folder: PathBuf,
    id: String,
    /// First sequence numbers of the files, ascending; the last one is written to.
    segments: Vec<u64>,
    file: File,
    /// Bytes of the last file that are whole records.
    length: u64,
    next: u64,
    segment_bytes: u64,
    /// The end of the file is not known any more.
    is_broken: bool,
}

impl Log {
    /// Opens the log in `folder`, or makes an empty one.
    ///
    /// # Errors
    /// A folder that cannot be read or written, or a damaged record that is not the last one.
    pub fn open(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let id = read_or_make_id(folder)?;
        let mut segments = segments(folder)?;
        if segments.is_empty() {
            new_segment(folder, 1)?;
            segments.push(1);
        }
        let last = *segments.last().unwrap_or(&1);
        let path = segment_path(folder, last);
        let scanned = scan(&path, |_, _| Ok(()))?;
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        if scanned.length < MAGIC.len() as u64 {
            // It was being made.
            file.set_len(0)?;
            (&file).write_all(MAGIC)?;
        } else {
            file.set_len(scanned.length)?;
        }
        file.sync_all()?;
        let length = scanned.length.max(MAGIC.len() as u64);
        let next = scanned.last.map_or(last, |sequence| sequence + 1);
        Ok(Log {
            folder: folder.to_owned(),
            id,
            segments,
            file: positioned(file, length)?,
            length,
            next,
            segment_bytes: SEGMENT_BYTES,
            is_broken: false,
        })
    }

    /// What tells this log from any other one.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The last sequence number that was given; zero: none.
    pub fn last(&self) -> u64 {
        self.next - 1
    }

    /// Calls `each` for every record after `after`, in order.
    ///
    /// # Errors
    /// A file that cannot be read, or holds what is no record.
    pub fn read_after(&self, after: u64, each: impl FnMut(Logged) -> io::Result<()>) -> io::Result<()> {
        read_records(&self.folder, after, each)
    }

    /// Writes records and returns once they survive a crash of the machine; gives the first one's sequence number,
    /// the others follow it.
    ///
    /// # Errors
    /// Nothing is written then. The log may be used on, unless the file cannot even be cut back: then nothing that is
    /// written after it would be read, so that every later call fails, too.
    pub fn append(&mut self, bodies: &[Vec<u8>]) -> io::Result<u64> {
        self.append_as(bodies, true)
    }

    /// As [`Self::append`], for records that survive a crash of the process, and after [`Self::sync`] one of the
    /// machine.
    ///
    /// # Errors
    /// As of [`Self::append`].
    pub fn write(&mut self, bodies: &[Vec<u8>]) -> io::Result<u64> {
        self.append_as(bodies, false)
    }

    /// Returns once all that was written survives a crash of the machine.
    ///
    /// # Errors
    /// A disk that fails; what was written is not known to be there.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn append_as(&mut self, bodies: &[Vec<u8>], is_synced: bool) -> io::Result<u64> {
        if self.is_broken {
            return Err(io::Error::other("an earlier failure could not be repaired; restart the process"));
        }
        if self.length >= self.segment_bytes {
            self.begin_segment()?;
        }
        let first = self.next;
        let mut bytes = Vec::with_capacity(bodies.iter().map(|body| body.len() + HEADER_LEN).sum());
        for (sequence, body) in (first..).zip(bodies) {
            let length = u32::try_from(body.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(&checksum(sequence, body).to_le_bytes());
            bytes.extend_from_slice(&sequence.to_le_bytes());
            bytes.extend_from_slice(body);
        }
        let written = self.file.write_all(&bytes).and_then(|()| {
            fail_point("log.written");
            if is_synced { self.file.sync_data() } else { Ok(()) }
        });
        if let Err(error) = written {
            // What was written of them must not be taken for records, nor anything that follows it be lost.
            self.is_broken = self.cut_back().is_err();
            // The numbers are not given again: their records may be on the disk.
            self.next += bodies.len() as u64;
            return Err(error);
        }
        fail_point("log.synced");
        self.length += bytes.len() as u64;
        self.next += bodies.len() as u64;
        Ok(first)
    }

    /// Removes the files all of whose records have sequence numbers up to `through`.
    ///
    /// # Errors
    /// A file that cannot be removed.
    pub fn remove_through(&mut self, through: u64) -> io::Result<()> {
        if through >= self.last() && self.length > MAGIC.len() as u64 {
            self.begin_segment()?;
        }
        while self.segments.get(1).is_some_and(|second| *second <= through + 1) {
            std::fs::remove_file(segment_path(&self.folder, self.segments[0]))?;
            self.segments.remove(0);
        }
        Ok(())
    }

    fn cut_back(&mut self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.sync_all()?;
        self.file = positioned(self.file.try_clone()?, self.length)?;
        Ok(())
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        let file = new_segment(&self.folder, self.next)?;
        if self.segments.last() != Some(&self.next) {
            self.segments.push(self.next);
        }
        self.length = MAGIC.len() as u64;
        self.file = file;
        Ok(())
    }
}

/// Calls `each` for every record after `after` of the log in a folder, in order; one that is being written may be
/// left out.
///
/// # Errors
/// A file that cannot be read, or holds what is no record.
pub fn read_records(folder: &Path, after: u64, mut each: impl FnMut(Logged) -> io::Result<()>) -> io::Result<()> {
    read_bodies(folder, after, |sequence, body| {
        let record = Record::decode(body).ok_or_else(|| damaged(sequence))?;
        each(Logged { sequence, record, bytes: body.len() + HEADER_LEN })?;
        Ok(ControlFlow::Continue(()))
    })
}

/// As [`read_records`], with the bytes of each, until `each` has had enough.
///
/// # Errors
/// Those of a file, and of `each`.
pub fn read_bodies(
    folder: &Path,
    after: u64,
    mut each: impl FnMut(u64, &[u8]) -> io::Result<ControlFlow<()>>,
) -> io::Result<()> {
    let segments = segments(folder)?;
    let mut flow = ControlFlow::Continue(());
    for (position, first) in segments.iter().enumerate() {
        if segments.get(position + 1).is_some_and(|next| *next <= after + 1) {
            continue;
        }
        let path = segment_path(folder, *first);
        let scanned = scan(&path, |sequence, body| {
            if sequence > after && flow.is_continue() {
                flow = each(sequence, body)?;
            }
            Ok(())
        })?;
        let is_last = position + 1 == segments.len();
        if !is_last && scanned.length != std::fs::metadata(&path)?.len() {
            return Err(damaged(scanned.last.map_or(*first, |last| last + 1)));
        }
        if flow.is_break() {
            break;
        }
    }
    Ok(())
}

/// Whether a log in this folder may hold records.
pub fn has_records(folder: &Path) -> bool {
    let segments = segments(folder).unwrap_or_default();
    let is_longer =
        |first: &u64| std::fs::metadata(segment_path(folder, *first)).is_ok_and(|file| file.len() > MAGIC.len() as u64);
    segments.iter().any(is_longer)
}

fn read_or_make_id(folder: &Path) -> io::Result<String> {
    use std::hash::{BuildHasher, Hasher};
    let path = folder.join(ID_FILE);
    match std::fs::read_to_string(&path) {
        Ok(id) if id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) => return Ok(id),
        Ok(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("`{}` is damaged", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // The standard library's hashers begin with random numbers of the system.
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    let id = format!("{random:016x}");
    let fresh = folder.join("id.new");
    let mut file = File::create(&fresh)?;
    file.write_all(id.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&fresh, &path)?;
    sync_folder(folder)?;
    Ok(id)
}

fn segments(folder: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(".log")).filter(|digits| digits.len() == 20);
        found.extend(digits.and_then(|digits| digits.parse::<u64>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

fn segment_path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}.log"))
}

fn new_segment(folder: &Path, first: u64) -> io::Result<File> {
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(segment_path(folder, first))?;
    file.write_all(MAGIC)?;
    file.sync_all()?;
    sync_folder(folder)?;
    Ok(file)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn positioned(mut file: File, at: u64) -> io::Result<File> {
    io::Seek::seek(&mut file, io::SeekFrom::Start(at))?;
    Ok(file)
}

fn checksum(sequence: u64, body: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&sequence.to_le_bytes());
    hasher.update(body);
    hasher.digest()
}

struct Scanned {
    /// Bytes up to the end of the last whole record; zero for a file that was being made.
    length: u64,
    last: Option<u64>,
}

/// Calls `each` with the sequence number and the body of every whole record of a file.
fn scan(path: &Path, mut each: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<Scanned> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    let Some(mut rest) = bytes.strip_prefix(MAGIC) else {
        return match bytes.len() < MAGIC.len() {
            true => Ok(Scanned { length: 0, last: None }),
            false => {
                Err(io::Error::new(io::ErrorKind::InvalidData, format!("`{}` is no file of a log", path.display())))
            }
        };
    };
    let mut scanned = Scanned { length: MAGIC.len() as u64, last: None };
    while let Some((sequence, body, tail)) = next_record(rest) {
        each(sequence, body)?;
        scanned.length += (rest.len() - tail.len()) as u64;
        scanned.last = Some(sequence);
        rest = tail;
    }
    Ok(scanned)
}

/// Sequence number and body of the record that bytes begin with, and what follows; None: no whole record.
fn next_record(bytes: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<8>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let (body, tail) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    let sequence = u64::from_le_bytes(*sequence);
    (checksum(sequence, body) == u64::from_le_bytes(*sum)).then_some((sequence, body, tail))
}

fn damaged(sequence: u64) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("record {sequence} of the log cannot be read"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
    use arrow::datatypes::Int64Type;

    use super::*;
    use crate::definition::SourceName;
    use crate::offline_store::EventKind;
    use crate::time::EventTimestamp;

    fn body(number: i64) -> Vec<u8> {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![number]));
        let record = Record {
            source: SourceName::new("s"),
            kind: EventKind::Accepted,
            received_at: EventTimestamp::from_micros(number),
            positions: Vec::new(),
            places: Vec::new(),
            passed_over: Default::default(),
            watermark: None,
            rows: RecordBatch::try_from_iter([("n", column)]).unwrap(),
        };
        record.encode().unwrap()
    }

    fn numbers(log: &Log, after: u64) -> Vec<(u64, i64)> {
        let mut found = Vec::new();
        log.read_after(after, |logged| {
            found.push((logged.sequence, logged.record.rows.column(0).as_primitive::<Int64Type>().value(0)));
            Ok(())
        })
        .unwrap();
        found
    }

    #[test]
    fn what_was_appended_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path()).unwrap();
        assert_eq!(log.append(&[body(10), body(11)]).unwrap(), 1);
        assert_eq!(log.append(&[body(12)]).unwrap(), 3);
        let id = log.id().to_owned();
        drop(log);
        let log = Log::open(folder.path()).unwrap();
        assert_eq!((log.id(), log.last()), (id.as_str(), 3));
        assert_eq!(numbers(&log, 0), [(1, 10), (2, 11), (3, 12)]);
        assert_eq!(numbers(&log, 2), [(3, 12)]);
    }

    #[test]
    fn a_torn_record_is_cut_off_wherever_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path()).unwrap();
        log.append(&[body(1)]).unwrap();
        let whole = log.length;
        log.append(&[body(2)]).unwrap();
        drop(log);
        let path = segment_path(folder.path(), 1);
        let bytes = std::fs::read(&path).unwrap();
        for end in (whole as usize..bytes.len()).chain([4, 8]) {
            std::fs::write(&path, &bytes[..end]).unwrap();
            let mut log = Log::open(folder.path()).unwrap();
            let kept: &[(u64, i64)] = if end >= whole as usize { &[(1, 1)] } else { &[] };
            assert_eq!(numbers(&log, 0), kept, "cut at {end}");
            let next = log.append(&[body(7)]).unwrap();
            drop(log);
            let log = Log::open(folder.path()).unwrap();
            assert_eq!(numbers(&log, 0).last(), Some(&(next, 7)));
        }
    }

    #[test]
    fn damage_in_the_middle_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path()).unwrap();
        log.segment_bytes = 1;
        for number in 0..3 {
            log.append(&[body(number)]).unwrap();
        }
        let path = segment_path(folder.path(), 1);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[40] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(log.read_after(0, |_| Ok(())).is_err());
    }

    #[test]
    fn a_log_that_cannot_be_written_says_so_and_keeps_what_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path()).unwrap();
        log.append(&[body(1)]).unwrap();
        // As on a disk that is full: nothing more can be written, nor the file be cut.
        log.file = File::open(segment_path(folder.path(), 1)).unwrap();
        assert!(log.append(&[body(2)]).is_err());
        assert!(log.append(&[body(3)]).is_err());
        assert_eq!(numbers(&log, 0), [(1, 1)]);
        drop(log);
        let mut log = Log::open(folder.path()).unwrap();
        assert_eq!(log.append(&[body(4)]).unwrap(), 2);
    }

    #[test]
    fn files_go_when_all_of_their_records_may() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path()).unwrap();
        log.segment_bytes = 1;
        for number in 0..4 {
            log.append(&[body(number)]).unwrap();
        }
        log.remove_through(2).unwrap();
        assert_eq!(numbers(&log, 0), [(3, 2), (4, 3)]);
        log.remove_through(4).unwrap();
        assert!(numbers(&log, 0).is_empty() && !has_records(folder.path()));
        drop(log);
        let mut log = Log::open(folder.path()).unwrap();
        assert_eq!(log.append(&[body(5)]).unwrap(), 5, "numbers are never given twice");
        assert!(has_records(folder.path()));
    }
}
