//! Files in blocks of whole records, so that several can be decoded at once and none is held in full.

use std::sync::Arc;

use datafusion::error::DataFusionError;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::{ObjectStore, ObjectStoreExt};

use super::csv::{Cell, RecordEnds, Records, header_names};
use super::{TextFile, TextFileError, TextFormat, TextProblem};

/// Bytes that are read at once; what becomes of them is one batch of rows.
const READ_BYTES: u64 = 1 << 20;
/// A longer record is taken for a quote that is not closed.
const RECORD_BYTES_MAX: usize = 64 << 20;

/// Some whole records of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub text: String,
    /// The line that the text begins on.
    pub line: usize,
}

pub(super) type Blocks = BoxStream<'static, Result<Block, DataFusionError>>;

/// The blocks of a file, in order.
pub(super) fn blocks(store: &Arc<dyn ObjectStore>, file: &TextFile, format: TextFormat) -> Blocks {
    let ends = (format == TextFormat::Csv).then(RecordEnds::default);
    let reader =
        BlockReader { store: Arc::clone(store), file: file.clone(), ends, position: 0, pending: Vec::new(), line: 1 };
    stream::try_unfold(reader, |mut reader| async move { Ok(reader.next().await?.map(|block| (block, reader))) })
        .boxed()
}

/// The names of a CSV file's columns, and the blocks after its header.
pub(super) async fn csv_blocks(
    store: &Arc<dyn ObjectStore>,
    file: &TextFile,
) -> Result<(Vec<String>, Blocks), DataFusionError> {
    let mut blocks = blocks(store, file, TextFormat::Csv);
    let failed = |line, problem| TextFileError::new(&file.shown, line, problem);
    while let Some(block) = blocks.next().await {
        let Block { text, line } = block?;
        let mut records = Records::new(&text, line);
        let mut cells: Vec<Cell<'_>> = Vec::new();
        let read = records.read(&mut cells).map_err(|quote| failed(quote.line, TextProblem::OpenQuote))?;
        if let Some(line) = read {
            let names = header_names(&cells).map_err(|problem| failed(line, problem))?;
            let (rest, line) = records.rest();
            let after = Block { text: rest.to_owned(), line };
            return Ok((names, stream::iter([Ok(after)]).chain(blocks).boxed()));
        }
    }
    Err(failed(1, TextProblem::NoHeader).into())
}

struct BlockReader {
    store: Arc<dyn ObjectStore>,
    file: TextFile,
    /// Of CSV; a line of JSON ends where it ends.
    ends: Option<RecordEnds>,
    position: u64,
    /// The beginning of a record that has not ended yet.
    pending: Vec<u8>,
    line: usize,
}

impl BlockReader {
    async fn next(&mut self) -> Result<Option<Block>, DataFusionError> {
        while self.position < self.file.bytes {
            let end = (self.position + READ_BYTES).min(self.file.bytes);
            let piece = self.store.get_range(&self.file.location, self.position..end).await?;
            let piece = match self.position {
                0 => piece.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&piece),
                _ => piece.as_ref(),
            };
            self.position = end;
            let last = match &mut self.ends {
                Some(ends) => ends.last(piece),
                None => piece.iter().rposition(|byte| *byte == b'\n').map(|newline| newline + 1),
            };
            let (ended, rest) = piece.split_at(last.unwrap_or(0));
            self.pending.extend_from_slice(ended);
            if last.is_some() {
                let records = std::mem::replace(&mut self.pending, rest.to_vec());
                return self.block(records).map(Some);
            }
            self.pending.extend_from_slice(rest);
            if self.pending.len() > RECORD_BYTES_MAX {
                return Err(self.failed(self.line, TextProblem::LongRecord { bytes_max: RECORD_BYTES_MAX }));
            }
        }
        let last = std::mem::take(&mut self.pending);
        if last.is_empty() { Ok(None) } else { self.block(last).map(Some) }
    }

    fn block(&mut self, bytes: Vec<u8>) -> Result<Block, DataFusionError> {
        let line = self.line;
        let lines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
        self.line += lines(&bytes);
        String::from_utf8(bytes).map(|text| Block { text, line }).map_err(|error| {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            self.failed(line + lines(valid), TextProblem::NotUtf8)
        })
    }

    fn failed(&self, line: usize, problem: TextProblem) -> DataFusionError {
        TextFileError::new(&self.file.shown, line, problem).into()
    }
}
