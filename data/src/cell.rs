//! From one cell of an Arrow array, whatever layout its writer chose, to plain values.
//! It never panics on a type it does not know: such a cell is null here and a fault of the row above.

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use serde_json::Value;

/// Text, numbers, lists and structs of them.
pub(crate) fn value(array: &dyn Array, i: usize) -> Value {
    if array.is_null(i) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            fields.iter().zip(columns).map(|(field, column)| (field.name().clone(), value(column, i))).collect()
        }
        DataType::Int32 => array.as_primitive::<Int32Type>().value(i).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(i).into(),
        _ => match (list(array, i), text(array, i)) {
            (Some(items), _) => (0..items.len()).map(|k| value(&items, k)).collect(),
            (None, text) => text.map_or(Value::Null, Value::from),
        },
    }
}

/// The items of a list cell.
pub(crate) fn list(array: &dyn Array, i: usize) -> Option<ArrayRef> {
    match array.data_type() {
        _ if array.is_null(i) => None,
        DataType::List(_) => Some(array.as_list::<i32>().value(i)),
        DataType::LargeList(_) => Some(array.as_list::<i64>().value(i)),
        _ => None,
    }
}

/// A text cell.
pub(crate) fn text(array: &dyn Array, i: usize) -> Option<&str> {
    match array.data_type() {
        _ if array.is_null(i) => None,
        DataType::Utf8 => Some(array.as_string::<i32>().value(i)),
        DataType::LargeUtf8 => Some(array.as_string::<i64>().value(i)),
        DataType::Utf8View => Some(array.as_string_view().value(i)),
        _ => None,
    }
}

/// A cell of bytes.
pub(crate) fn bytes(array: &dyn Array, i: usize) -> Option<&[u8]> {
    match array.data_type() {
        _ if array.is_null(i) => None,
        DataType::Binary => Some(array.as_binary::<i32>().value(i)),
        DataType::LargeBinary => Some(array.as_binary::<i64>().value(i)),
        DataType::BinaryView => Some(array.as_binary_view().value(i)),
        _ => None,
    }
}
