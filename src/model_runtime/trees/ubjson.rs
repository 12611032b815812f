//! Universal binary JSON, as XGBoost writes it, to the same values as JSON text.
//!
//! Source: the UBJSON specification, draft 12; numbers are big-endian.

use serde_json::{Map, Number, Value};

/// Containers in containers.
const DEPTH_MAX: usize = 128;

/// # Errors
/// Where the bytes stop being UBJSON.
pub fn parse(bytes: &[u8]) -> Result<Value, String> {
    let mut reader = Reader { bytes, at: 0 };
    let marker = reader.marker()?;
    reader.value(marker, 0)
}

struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Reader<'b> {
    fn wrong(&self, problem: &str) -> String {
        format!("byte {}: {problem}", self.at)
    }

    fn take(&mut self, count: usize) -> Result<&'b [u8], String> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| self.wrong("the file ends too early"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut fixed = [0; N];
        fixed.copy_from_slice(self.take(N)?);
        Ok(fixed)
    }

    /// The next marker that is no filler.
    fn marker(&mut self) -> Result<u8, String> {
        loop {
            match self.take(1)?[0] {
                b'N' => {}
                marker => return Ok(marker),
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn value(&mut self, marker: u8, depth: usize) -> Result<Value, String> {
        if depth > DEPTH_MAX {
            return Err(self.wrong("values lie too deep in each other"));
        }
        Ok(match marker {
            b'Z' => Value::Null,
            b'T' => Value::Bool(true),
            b'F' => Value::Bool(false),
            b'i' | b'U' | b'I' | b'l' | b'L' => Value::from(self.integer(marker)?),
            b'd' => real(f64::from(f32::from_be_bytes(self.fixed()?))),
            b'D' => real(f64::from_be_bytes(self.fixed()?)),
            b'C' => Value::String(char::from(self.take(1)?[0]).to_string()),
            b'S' | b'H' => Value::String(self.text()?),
            b'[' => self.array(depth)?,
            b'{' => self.object(depth)?,
            _ => return Err(self.wrong("there is no such type of value")),
        })
    }

    fn integer(&mut self, marker: u8) -> Result<i64, String> {
        Ok(match marker {
            b'i' => i64::from(i8::from_be_bytes(self.fixed()?)),
            b'U' => i64::from(u8::from_be_bytes(self.fixed()?)),
            b'I' => i64::from(i16::from_be_bytes(self.fixed()?)),
            b'l' => i64::from(i32::from_be_bytes(self.fixed()?)),
            b'L' => i64::from_be_bytes(self.fixed()?),
            _ => return Err(self.wrong("a length has to be an integer")),
        })
    }

    fn length(&mut self) -> Result<usize, String> {
        let marker = self.marker()?;
        usize::try_from(self.integer(marker)?).map_err(|_| self.wrong("a length is negative"))
    }

    fn text(&mut self) -> Result<String, String> {
        let length = self.length()?;
        let bytes = self.take(length)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| self.wrong("a text is not UTF-8"))
    }

    /// The type and the number of a container's items, where it says them first.
    fn header(&mut self) -> Result<(Option<u8>, Option<usize>), String> {
        let mut kind = None;
        if self.peek() == Some(b'$') {
            self.at += 1;
            kind = Some(self.take(1)?[0]);
        }
        if self.peek() == Some(b'#') {
            self.at += 1;
            return Ok((kind, Some(self.length()?)));
        }
        match kind {
            None => Ok((None, None)),
            Some(_) => Err(self.wrong("a container names its type and not its length")),
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, String> {
        let (kind, count) = self.header()?;
        let mut items = Vec::new();
        match count {
            Some(count) => {
                // Every item takes a byte, but for those whose type says all.
                if count > self.bytes.len() - self.at || matches!(kind, Some(b'Z' | b'T' | b'F' | b'N')) {
                    return Err(self.wrong("a list is longer than the file"));
                }
                for _ in 0..count {
                    let marker = kind.map_or_else(|| self.marker(), Ok)?;
                    items.push(self.value(marker, depth + 1)?);
                }
            }
            None => loop {
                match self.marker()? {
                    b']' => break,
                    marker => items.push(self.value(marker, depth + 1)?),
                }
            },
        }
        Ok(Value::Array(items))
    }

    fn object(&mut self, depth: usize) -> Result<Value, String> {
        let (kind, count) = self.header()?;
        let mut entries = Map::new();
        let mut left = count;
        loop {
            match left {
                Some(0) => break,
                Some(count) => left = Some(count - 1),
                None if self.peek() == Some(b'}') => {
                    self.at += 1;
                    break;
                }
                None => {}
            }
            let key = self.text()?;
            let marker = kind.map_or_else(|| self.marker(), Ok)?;
            let value = self.value(marker, depth + 1)?;
            entries.insert(key, value);
        }
        Ok(Value::Object(entries))
    }
}

/// Infinities and NaN, which JSON does not have, as texts.
fn real(number: f64) -> Value {
    Number::from_f64(number).map_or_else(|| Value::String(number.to_string()), Value::Number)
}
