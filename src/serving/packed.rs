//! The codec of messages that are encoded before the call: an answer is written once, out of where its values stand,
//! and the load generator writes its requests before it measures.

use std::marker::PhantomData;

use bytes::{BufMut, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Sends bytes as they are, and reads messages of type `D`.
#[derive(Debug, Clone)]
pub struct PackedCodec<D>(PhantomData<D>);

impl<D> Default for PackedCodec<D> {
    fn default() -> Self {
        PackedCodec(PhantomData)
    }
}

impl<D: Message + Default + 'static> Codec for PackedCodec<D> {
    type Encode = Bytes;
    type Decode = D;
    type Encoder = PackedEncoder;
    type Decoder = MessageDecoder<D>;

    fn encoder(&mut self) -> PackedEncoder {
        PackedEncoder
    }

    fn decoder(&mut self) -> MessageDecoder<D> {
        MessageDecoder(PhantomData)
    }
}

#[derive(Debug)]
pub struct PackedEncoder;

impl Encoder for PackedEncoder {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(message.len());
        buffer.put_slice(&message);
        Ok(())
    }
}

#[derive(Debug)]
pub struct MessageDecoder<D>(PhantomData<D>);

impl<D: Message + Default> Decoder for MessageDecoder<D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        let message = D::decode(buffer);
        message.map(Some).map_err(|error| Status::invalid_argument(format!("the message cannot be read: {error}")))
    }
}
