//! `name:key=value,key=value`, the way every schedule is spelled.

use serde::{Deserialize, Deserializer, de};

use super::ScheduleError;

/// A spelled schedule, taken apart. Options are taken out one by one; what is left over is a mistake.
pub struct Spelling<'a> {
    text: &'a str,
    pub name: &'a str,
    options: Vec<(&'a str, &'a str)>,
}

impl<'a> Spelling<'a> {
    pub fn of(text: &'a str) -> Result<Self, ScheduleError> {
        let (name, options) = text.split_once(':').unwrap_or((text, ""));
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for option in options.split(',').map(str::trim).filter(|option| !option.is_empty()) {
            let Some((key, value)) = option.split_once('=') else {
                return Err(ScheduleError::new(text, format!("`{option}` is not of the form key=value")));
            };
            let (key, value) = (key.trim(), value.trim());
            if pairs.iter().any(|(other, _)| *other == key) {
                return Err(ScheduleError::new(text, format!("`{key}` is given twice")));
            }
            pairs.push((key, value));
        }
        Ok(Self { text, name: name.trim(), options: pairs })
    }

    pub fn option(&mut self, key: &str) -> Option<&'a str> {
        let at = self.options.iter().position(|(other, _)| *other == key)?;
        Some(self.options.remove(at).1)
    }

    /// A number from 0 to 1, or `default` where `key` is not given.
    pub fn share(&mut self, key: &str, default: f64) -> Result<f64, ScheduleError> {
        let Some(value) = self.option(key) else { return Ok(default) };
        match value.parse::<f64>() {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
            _ => Err(self.refuse(format!("`{key}` has to be a number from 0 to 1, not `{value}`"))),
        }
    }

    pub fn refuse(&self, reason: impl Into<String>) -> ScheduleError {
        ScheduleError::new(self.text, reason)
    }

    pub fn unknown(&self, known: &str) -> ScheduleError {
        self.refuse(format!("there is no such schedule; known are {known}"))
    }

    /// Refuses what nobody asked for.
    pub fn finish<T>(self, schedule: T) -> Result<T, ScheduleError> {
        match self.options.first() {
            None => Ok(schedule),
            Some((key, _)) => Err(self.refuse(format!("`{}` has no option `{key}`", self.name))),
        }
    }
}

/// Serde through `Display` and `FromStr`.
macro_rules! serde_as_spelled {
    ($schedule:ty) => {
        impl From<$schedule> for String {
            fn from(schedule: $schedule) -> Self {
                schedule.to_string()
            }
        }

        impl TryFrom<String> for $schedule {
            type Error = $crate::schedule::ScheduleError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }
    };
}
pub(super) use serde_as_spelled;

/// Serde of a rate or a decay: finite and not below 0.
pub fn magnitude<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if value.is_finite() && value >= 0.0 {
        return Ok(value);
    }
    Err(de::Error::custom(format!("a finite number that is not negative is needed, not {value}")))
}
