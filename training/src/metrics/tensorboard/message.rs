//! The part of the protocol-buffer encoding that events need.

/// A message that is being written, field by field.
#[derive(Debug, Default)]
pub struct Message {
    bytes: Vec<u8>,
}

/// How the value of a field is stored.
#[derive(Clone, Copy)]
enum Wire {
    Varint = 0,
    Eight = 1,
    Delimited = 2,
    Four = 5,
}

impl Message {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn integer(mut self, field: u32, value: u64) -> Self {
        self.key(field, Wire::Varint);
        self.varint(value);
        self
    }

    pub fn double(mut self, field: u32, value: f64) -> Self {
        self.key(field, Wire::Eight);
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub fn float(mut self, field: u32, value: f32) -> Self {
        self.key(field, Wire::Four);
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub fn text(self, field: u32, value: &str) -> Self {
        self.delimited(field, value.as_bytes())
    }

    pub fn message(self, field: u32, value: &Message) -> Self {
        self.delimited(field, &value.bytes)
    }

    fn delimited(mut self, field: u32, value: &[u8]) -> Self {
        self.key(field, Wire::Delimited);
        self.varint(value.len() as u64);
        self.bytes.extend_from_slice(value);
        self
    }

    fn key(&mut self, field: u32, wire: Wire) {
        self.varint(u64::from(field << 3 | wire as u32));
    }

    /// Seven bits a byte, the low ones first; the top bit says that more follow.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }
}
