//! As much of protobuf's wire format as requests and answers need, without a message in between.

/// Appends fields to a message.
pub(crate) struct Writer<'a>(pub(crate) &'a mut Vec<u8>);

impl Writer<'_> {
    /// A number; 0 is left out, as proto3 has it.
    pub(crate) fn number(&mut self, field: u32, value: u64) {
        if value != 0 {
            varint(self.0, u64::from(field << 3));
            varint(self.0, value);
        }
    }

    /// Eight bytes; written even if 0, for optional fields.
    pub(crate) fn fixed64(&mut self, field: u32, value: u64) {
        varint(self.0, u64::from(field << 3 | 1));
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Bytes, or a message that is encoded already.
    pub(crate) fn bytes(&mut self, field: u32, value: &[u8]) {
        varint(self.0, u64::from(field << 3 | 2));
        varint(self.0, value.len() as u64);
        self.0.extend_from_slice(value);
    }

    /// A message, written by `content`.
    pub(crate) fn message(&mut self, field: u32, content: impl FnOnce(&mut Writer<'_>)) {
        varint(self.0, u64::from(field << 3 | 2));
        // Most are shorter than 128 bytes; a longer one is moved once.
        let at = self.0.len();
        self.0.push(0);
        content(&mut Writer(self.0));
        let bytes = self.0.len() - at - 1;
        if bytes < 0x80 {
            self.0[at] = bytes as u8;
        } else {
            let mut length = Vec::with_capacity(5);
            varint(&mut length, bytes as u64);
            self.0.splice(at..=at, length);
        }
    }
}

fn varint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

/// One field of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Value<'a> {
    /// A varint or a fixed number.
    Number(u64),
    /// Bytes, a string or a message.
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// As a number; 0 for bytes.
    pub(crate) fn number(self) -> u64 {
        match self {
            Value::Number(number) => number,
            Value::Bytes(_) => 0,
        }
    }

    /// As bytes; none for a number.
    pub(crate) fn bytes(self) -> &'a [u8] {
        match self {
            Value::Number(_) => &[],
            Value::Bytes(bytes) => bytes,
        }
    }
}

/// The fields of a message in their order. Ends early where it is broken: see [`Fields::is_whole`].
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
    broken: bool,
}

impl<'a> Fields<'a> {
    /// Of a message.
    pub(crate) fn of(message: &'a [u8]) -> Fields<'a> {
        Fields { rest: message, broken: false }
    }

    /// Was all that came so far as the format demands?
    pub(crate) fn is_whole(&self) -> bool {
        !self.broken
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u32, Value<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Number(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let bytes = self.varint()?;
                Value::Bytes(self.take(usize::try_from(bytes).ok()?)?)
            }
            5 => Value::Number(u64::from(u32::from_le_bytes(self.take(4)?.try_into().ok()?))),
            _ => return None,
        };
        Some((u32::try_from(key >> 3).ok()?, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u32, Value<'a>);

    fn next(&mut self) -> Option<(u32, Value<'a>)> {
        if self.rest.is_empty() || self.broken {
            return None;
        }
        let field = self.field();
        self.broken = field.is_none();
        field
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut message = Vec::new();
        let mut writer = Writer(&mut message);
        writer.number(1, 300);
        writer.number(2, 0);
        writer.fixed64(7, u64::MAX);
        writer.message(20, |inner| inner.bytes(1, &[5; 200]));
        writer.message(3, |inner| inner.number(1, 1));
        let mut fields = Fields::of(&message);
        assert_eq!(fields.next(), Some((1, Value::Number(300))));
        assert_eq!(fields.next(), Some((7, Value::Number(u64::MAX))));
        let (field, inner) = fields.next().unwrap();
        assert_eq!((field, Fields::of(inner.bytes()).next()), (20, Some((1, Value::Bytes(&[5; 200][..])))));
        assert_eq!(fields.next().unwrap().1.bytes(), [8, 1]);
        assert!(fields.next().is_none() && fields.is_whole());
    }

    #[test]
    fn broken_messages_end_and_say_so() {
        for broken in [&[0x0A, 5, 1][..], &[0x08, 0xFF], &[0x0B], &[0x09, 1]] {
            let mut fields = Fields::of(broken);
            assert_eq!((fields.next(), fields.is_whole()), (None, false), "{broken:?}");
        }
    }

    #[test]
    fn agrees_with_prost() {
        use prost::Message as _;
        use ringcore::rpc::proto::v1;
        let mut message = Vec::new();
        let mut writer = Writer(&mut message);
        writer.bytes(1, b"key");
        writer.bytes(2, &[7; 300]);
        writer.number(3, u64::MAX);
        writer.number(14, 2);
        let put = v1::PutRequest::decode(&message[..]).unwrap();
        assert_eq!(
            (&put.key[..], put.value.len(), put.client_id, put.attempt),
            (&b"key"[..], 300, u64::MAX, 2)
        );
        let encoded = put.encode_to_vec();
        let fields: Vec<u32> = Fields::of(&encoded).map(|(field, _)| field).collect();
        assert_eq!(fields, [1, 2, 3, 14]);
    }
}
