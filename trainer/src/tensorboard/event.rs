//! The protocol buffers of an event file, as far as scalars need them: `Event`, `Summary` and its `Value`
//! (tensorboard/compat/proto). What else a file holds is passed over, never refused.

/// Begins every event file.
const FILE_VERSION: &str = "brain.Event:2";

/// Wire types of a protocol buffer.
const VARINT: u64 = 0;
const EIGHT_BYTES: u64 = 1;
const LENGTH: u64 = 2;
const FOUR_BYTES: u64 = 5;

/// Scalars of one step.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Event {
    /// Seconds since 1970.
    pub wall_time: f64,
    /// Optimizer step.
    pub step: u64,
    /// Tag and value; none in the first event of a file.
    pub scalars: Vec<(String, f32)>,
}

impl Event {
    /// The message; of an event without scalars, that which begins a file.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut event = Vec::new();
        key(&mut event, 1, EIGHT_BYTES);
        event.extend(self.wall_time.to_le_bytes());
        key(&mut event, 2, VARINT);
        varint(&mut event, self.step);
        if self.scalars.is_empty() {
            bytes(&mut event, 3, FILE_VERSION.as_bytes());
            return event;
        }
        let mut summary = Vec::new();
        for (tag, scalar) in &self.scalars {
            let mut value = Vec::new();
            bytes(&mut value, 1, tag.as_bytes());
            key(&mut value, 2, FOUR_BYTES);
            value.extend(scalar.to_le_bytes());
            bytes(&mut summary, 1, &value);
        }
        bytes(&mut event, 5, &summary);
        event
    }

    /// Reads a message; `None` if it is none.
    pub(super) fn decode(message: &[u8]) -> Option<Self> {
        let mut event = Self::default();
        for field in fields(message) {
            match field? {
                (1, Value::Eight(bytes)) => event.wall_time = f64::from_le_bytes(bytes),
                (2, Value::Varint(step)) => event.step = step,
                (5, Value::Bytes(summary)) => event.scalars = scalars(summary)?,
                _ => {}
            }
        }
        Some(event)
    }
}

fn scalars(summary: &[u8]) -> Option<Vec<(String, f32)>> {
    let mut scalars = Vec::new();
    for field in fields(summary) {
        let (1, Value::Bytes(value)) = field? else { continue };
        let (mut tag, mut scalar) = (String::new(), None);
        for field in fields(value) {
            match field? {
                (1, Value::Bytes(text)) => tag = String::from_utf8(text.to_vec()).ok()?,
                (2, Value::Four(bytes)) => scalar = Some(f32::from_le_bytes(bytes)),
                _ => {}
            }
        }
        scalars.extend(scalar.map(|scalar| (tag, scalar)));
    }
    Some(scalars)
}

enum Value<'a> {
    Varint(u64),
    Eight([u8; 8]),
    Four([u8; 4]),
    Bytes(&'a [u8]),
}

/// Number and value of each field; `None` where the bytes are no message, and nothing after it.
fn fields(mut message: &[u8]) -> impl Iterator<Item = Option<(u64, Value<'_>)>> {
    std::iter::from_fn(move || {
        let begun = !message.is_empty();
        begun.then(|| {
            let field = next_field(&mut message);
            if field.is_none() {
                message = &[];
            }
            field
        })
    })
}

fn next_field<'a>(message: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let key = next_varint(message)?;
    let value = match key & 7 {
        VARINT => Value::Varint(next_varint(message)?),
        EIGHT_BYTES => Value::Eight(*message.split_off(..8)?.first_chunk()?),
        LENGTH => {
            let length = usize::try_from(next_varint(message)?).ok()?;
            Value::Bytes(message.split_off(..length)?)
        }
        FOUR_BYTES => Value::Four(*message.split_off(..4)?.first_chunk()?),
        _ => return None,
    };
    Some((key >> 3, value))
}

fn next_varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *message.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn key(message: &mut Vec<u8>, field: u64, wire_type: u64) {
    varint(message, field << 3 | wire_type);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn bytes(message: &mut Vec<u8>, field: u64, content: &[u8]) {
    key(message, field, LENGTH);
    varint(message, content.len() as u64);
    message.extend(content);
}
