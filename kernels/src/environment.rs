//! Environment variables that override how a device is used.

use std::ffi::OsString;

/// A variable that takes one of a few values.
pub struct Variable<T> {
    name: &'static str,
    /// What it takes, in words.
    takes: &'static str,
    parse: fn(&str) -> Option<T>,
}

/// A variable is set to what it does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}={value}: it takes {takes}")]
pub struct EnvironmentError {
    name: &'static str,
    value: String,
    takes: &'static str,
}

impl<T> Variable<T> {
    /// The variable of this name; `parse` is `None` for what it does not take.
    pub const fn new(name: &'static str, takes: &'static str, parse: fn(&str) -> Option<T>) -> Self {
        Self { name, takes, parse }
    }

    /// What it is set to; `None` where it is not set.
    ///
    /// # Errors
    /// When it does not take that.
    pub fn get(&self) -> Result<Option<T>, EnvironmentError> {
        self.read(std::env::var_os(self.name))
    }

    /// [`Variable::get`] for code that cannot return an error; whoever opens a device has asked `get` before.
    ///
    /// # Panics
    /// When it does not take what it is set to.
    pub fn value(&self) -> Option<T> {
        match self.get() {
            Ok(value) => value,
            Err(error) => panic!("{error}"),
        }
    }

    fn read(&self, value: Option<OsString>) -> Result<Option<T>, EnvironmentError> {
        let Some(value) = value else { return Ok(None) };
        match value.to_str().and_then(self.parse) {
            Some(value) => Ok(Some(value)),
            None => {
                let value = value.to_string_lossy().into_owned();
                Err(EnvironmentError { name: self.name, value, takes: self.takes })
            }
        }
    }
}

/// `1` or `0`, for a [`Variable`].
pub fn flag(value: &str) -> Option<bool> {
    match value {
        "1" => Some(true),
        "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_variable_does_not_take_is_an_error_that_says_what_it_takes() {
        let variable = Variable::new("BITNET_SOMETHING", "0 or 1", flag);
        assert_eq!(variable.read(None), Ok(None));
        assert_eq!(variable.read(Some("1".into())), Ok(Some(true)));
        for wrong in ["", "yes", "1 "] {
            let error = variable.read(Some(wrong.into())).unwrap_err();
            assert_eq!(error.to_string(), format!("BITNET_SOMETHING={wrong}: it takes 0 or 1"));
        }
    }
}
