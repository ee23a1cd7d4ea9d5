//! Metadata values.

use std::collections::HashMap;

/// One metadata value.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // each variant is named after the type it holds
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of values of one type.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // each variant is named after the type it holds
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    Array(Vec<Array>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

impl Value {
    /// A non-negative integer of any width.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(v) => Some(v.into()),
            Self::U16(v) => Some(v.into()),
            Self::U32(v) => Some(v.into()),
            Self::U64(v) => Some(v),
            Self::I8(v) => v.try_into().ok(),
            Self::I16(v) => v.try_into().ok(),
            Self::I32(v) => v.try_into().ok(),
            Self::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }

    /// A float of either width.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(v) => Some(v.into()),
            Self::F64(v) => Some(v),
            _ => None,
        }
    }

    /// A string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(v) => Some(v),
            _ => None,
        }
    }

    /// A truth value.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(v) => Some(*v),
            _ => None,
        }
    }

    /// An array.
    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Self::Array(v) => Some(v),
            _ => None,
        }
    }

    /// The value as JSON; arrays longer than `max_array` become `{"type", "count", "first": [...]}`.
    pub fn to_json(&self, max_array: usize) -> serde_json::Value {
        match self {
            Self::U8(v) => (*v).into(),
            Self::I8(v) => (*v).into(),
            Self::U16(v) => (*v).into(),
            Self::I16(v) => (*v).into(),
            Self::U32(v) => (*v).into(),
            Self::I32(v) => (*v).into(),
            Self::F32(v) => (*v).into(),
            Self::Bool(v) => (*v).into(),
            Self::String(v) => v.as_str().into(),
            Self::Array(v) => v.to_json(max_array),
            Self::U64(v) => (*v).into(),
            Self::I64(v) => (*v).into(),
            Self::F64(v) => (*v).into(),
        }
    }
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::I8(v) => v.len(),
            Self::U16(v) => v.len(),
            Self::I16(v) => v.len(),
            Self::U32(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::Bool(v) => v.len(),
            Self::String(v) => v.len(),
            Self::Array(v) => v.len(),
            Self::U64(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::F64(v) => v.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The strings of a string array.
    pub fn as_strings(&self) -> Option<&[String]> {
        match self {
            Self::String(v) => Some(v),
            _ => None,
        }
    }

    /// All elements as non-negative integers, if they are.
    pub fn to_u64s(&self) -> Option<Vec<u64>> {
        match self {
            Self::U8(v) => Some(v.iter().map(|x| u64::from(*x)).collect()),
            Self::U16(v) => Some(v.iter().map(|x| u64::from(*x)).collect()),
            Self::U32(v) => Some(v.iter().map(|x| u64::from(*x)).collect()),
            Self::U64(v) => Some(v.clone()),
            Self::I8(v) => v.iter().map(|x| u64::try_from(*x).ok()).collect(),
            Self::I16(v) => v.iter().map(|x| u64::try_from(*x).ok()).collect(),
            Self::I32(v) => v.iter().map(|x| u64::try_from(*x).ok()).collect(),
            Self::I64(v) => v.iter().map(|x| u64::try_from(*x).ok()).collect(),
            _ => None,
        }
    }

    /// The type's name as GGUF tools print it.
    fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::F32(_) => "f32",
            Self::Bool(_) => "bool",
            Self::String(_) => "str",
            Self::Array(_) => "arr",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F64(_) => "f64",
        }
    }

    fn to_json(&self, max: usize) -> serde_json::Value {
        fn first<T: Clone + Into<serde_json::Value>>(v: &[T], max: usize) -> serde_json::Value {
            v.iter().take(max).cloned().map(Into::into).collect()
        }
        let elements = match self {
            Self::U8(v) => first(v, max),
            Self::I8(v) => first(v, max),
            Self::U16(v) => first(v, max),
            Self::I16(v) => first(v, max),
            Self::U32(v) => first(v, max),
            Self::I32(v) => first(v, max),
            Self::F32(v) => first(v, max),
            Self::Bool(v) => first(v, max),
            Self::String(v) => first(v, max),
            Self::Array(v) => v.iter().take(max).map(|a| a.to_json(max)).collect(),
            Self::U64(v) => first(v, max),
            Self::I64(v) => first(v, max),
            Self::F64(v) => first(v, max),
        };
        if self.len() <= max {
            return elements;
        }
        serde_json::json!({ "type": self.type_name(), "count": self.len(), "first": elements })
    }
}

macro_rules! conversions {
    ($($t:ty => $variant:ident),*) => { $(
        impl From<$t> for Value {
            fn from(v: $t) -> Self {
                Self::$variant(v)
            }
        }
        impl From<Vec<$t>> for Value {
            fn from(v: Vec<$t>) -> Self {
                Self::Array(Array::$variant(v))
            }
        }
    )* };
}
conversions!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32, bool => Bool,
    String => String, u64 => U64, i64 => I64, f64 => F64);

impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Self::String(v.to_string())
    }
}

impl From<Array> for Value {
    fn from(v: Array) -> Self {
        Self::Array(v)
    }
}

/// The key/value pairs of a file, in file order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

impl Metadata {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        Some(&self.entries[*self.index.get(key)?].1)
    }

    /// All pairs in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// Gives a key another value in its place, or adds it at the end.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        match self.index.get(key) {
            Some(at) => self.entries[*at].1 = value.into(),
            None => {
                self.index.insert(key.to_string(), self.entries.len());
                self.entries.push((key.to_string(), value.into()));
            }
        }
    }

    /// The pairs whose keys `keep` wants.
    pub(crate) fn filtered(&self, keep: impl Fn(&str) -> bool) -> Self {
        let mut kept = Self::default();
        for (key, value) in self.iter().filter(|(key, _)| keep(key)) {
            kept.set(key, value.clone());
        }
        kept
    }

    /// Adds a pair; gives the value back when the key is already there.
    pub(crate) fn insert(&mut self, key: String, value: Value) -> Result<(), Value> {
        if self.index.contains_key(&key) {
            return Err(value);
        }
        self.index.insert(key.clone(), self.entries.len());
        self.entries.push((key, value));
        Ok(())
    }
}
