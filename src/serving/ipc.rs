//! Arrow IPC streams from outside: every length in them is checked before anything is read by it.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::{Message, MessageHeader, root_as_message};
use bytes::Bytes;

/// Why bytes are no Arrow IPC stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IpcError {
    #[error("message {message} is cut off or its lengths are wrong")]
    Lengths { message: usize },
    #[error("message {message} cannot be read: {problem}")]
    Message { message: usize, problem: String },
    #[error("message {message} would take more than {DECOMPRESSED_BYTES_MAX} bytes; send the rows in more messages")]
    TooLarge { message: usize },
    #[error(transparent)]
    Arrow(#[from] ArrowError),
    #[error("its buffers contradict its schema")]
    Contradiction,
}

/// What the buffers of one message may take when they are decompressed.
const DECOMPRESSED_BYTES_MAX: usize = 2 << 30;
const CONTINUATION: [u8; 4] = [0xFF; 4];

/// The batches of a stream, and their schema.
///
/// # Errors
/// Anything that is not a whole and consistent stream.
pub fn read_stream(stream: Bytes) -> Result<(SchemaRef, Vec<RecordBatch>), IpcError> {
    check_lengths(&stream)?;
    // Arrays are built with assertions about their buffers that only their reader can check.
    let read = catch_unwind(AssertUnwindSafe(|| {
        let reader = StreamReader::try_new(Cursor::new(stream), None)?;
        let schema = reader.schema();
        Ok((schema, reader.collect::<Result<Vec<_>, ArrowError>>()?))
    }));
    read.unwrap_or(Err(IpcError::Contradiction))
}

fn check_lengths(stream: &[u8]) -> Result<(), IpcError> {
    let mut rest = stream;
    for message in 0.. {
        let wrong = || IpcError::Lengths { message };
        rest = rest.strip_prefix(&CONTINUATION[..]).unwrap_or(rest);
        if rest.is_empty() {
            return Ok(());
        }
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(wrong)?;
        let length = usize::try_from(i32::from_le_bytes(*length)).map_err(|_| wrong())?;
        if length == 0 {
            return Ok(());
        }
        let (metadata, after) = after.split_at_checked(length).ok_or_else(wrong)?;
        let metadata =
            root_as_message(metadata).map_err(|error| IpcError::Message { message, problem: error.to_string() })?;
        let body = usize::try_from(metadata.bodyLength()).map_err(|_| wrong())?;
        let (body, after) = after.split_at_checked(body).ok_or_else(wrong)?;
        check_buffers(metadata, body, message)?;
        rest = after;
    }
    Ok(())
}

fn check_buffers(metadata: Message<'_>, body: &[u8], message: usize) -> Result<(), IpcError> {
    let wrong = || IpcError::Lengths { message };
    let batch = match metadata.header_type() {
        MessageHeader::RecordBatch => metadata.header_as_record_batch(),
        MessageHeader::DictionaryBatch => metadata.header_as_dictionary_batch().and_then(|batch| batch.data()),
        _ => return Ok(()),
    };
    let Some(batch) = batch else { return Err(wrong()) };
    let is_compressed = batch.compression().is_some();
    let mut decompressed = 0_usize;
    for buffer in batch.buffers().into_iter().flatten() {
        let (Ok(offset), Ok(length)) = (usize::try_from(buffer.offset()), usize::try_from(buffer.length())) else {
            return Err(wrong());
        };
        let end = offset.checked_add(length).ok_or_else(wrong)?;
        let bytes = body.get(offset..end).ok_or_else(wrong)?;
        if is_compressed && !bytes.is_empty() {
            let prefix = bytes.first_chunk::<8>().ok_or_else(wrong)?;
            // A negative length says that the buffer is not compressed.
            let length = usize::try_from(i64::from_le_bytes(*prefix)).unwrap_or(bytes.len());
            decompressed = decompressed.saturating_add(length);
        }
    }
    if decompressed > DECOMPRESSED_BYTES_MAX { Err(IpcError::TooLarge { message }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BooleanArray, Int64Array, StringArray};
    use arrow::ipc::CompressionType;
    use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
    use proptest::prelude::*;

    use super::*;

    fn stream(compression: Option<CompressionType>) -> Vec<u8> {
        let columns: [(&str, ArrayRef); 3] = [
            ("n", Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]))),
            ("t", Arc::new(StringArray::from(vec!["a", "bc", ""]))),
            ("b", Arc::new(BooleanArray::from(vec![true, false, true]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
        let mut writer = StreamWriter::try_new_with_options(Vec::new(), &batch.schema(), options).unwrap();
        writer.write(&batch).unwrap();
        writer.into_inner().unwrap()
    }

    #[test]
    fn a_whole_stream_is_read() {
        for compression in [None, Some(CompressionType::LZ4_FRAME)] {
            let (schema, batches) = read_stream(stream(compression).into()).unwrap();
            assert_eq!((schema.fields().len(), batches[0].num_rows()), (3, 3));
        }
    }

    #[test]
    fn what_is_cut_off_is_refused_or_shorter() {
        let whole = stream(None);
        for end in 0..whole.len() {
            let _ = read_stream(Bytes::copy_from_slice(&whole[..end]));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_allocate(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5), compressed in any::<bool>()) {
            let mut bytes = stream(compressed.then_some(CompressionType::LZ4_FRAME));
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = read_stream(bytes.into());
        }
    }
}
