//! `org/name[@revision][:file]`.

use std::fmt;
use std::str::FromStr;

use crate::FormatError;

/// A model on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// `org/name`.
    pub repository: String,
    /// A branch, tag or commit; `main` when none is given.
    pub revision: String,
    /// The file to take of several.
    pub file: Option<String>,
}

impl Spec {
    pub(super) fn error(&self, reason: impl Into<String>) -> FormatError {
        FormatError::Hub { spec: self.to_string(), reason: reason.into() }
    }
}

impl FromStr for Spec {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let malformed = |reason: &str| FormatError::Hub {
            spec: text.to_string(),
            reason: format!("{reason} (a model of the hub is `org/name`, `org/name@revision` or `org/name:file`)"),
        };
        let (head, file) = match text.split_once(':') {
            Some((head, file)) => (head, Some(file)),
            None => (text, None),
        };
        let (repository, revision) = head.split_once('@').unwrap_or((head, "main"));
        if !(is_safe_path(repository) && repository.split('/').count() == 2) {
            return Err(malformed("not the name of a model"));
        }
        if !is_safe_path(revision) {
            return Err(malformed("not the name of a revision"));
        }
        if file.is_some_and(|file| !is_safe_path(file)) {
            return Err(malformed("not the name of a file in a repository"));
        }
        Ok(Self { repository: repository.to_string(), revision: revision.to_string(), file: file.map(str::to_string) })
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if self.revision != "main" {
            write!(f, "@{}", self.revision)?;
        }
        match &self.file {
            Some(file) => write!(f, ":{file}"),
            None => Ok(()),
        }
    }
}

/// Whether text is a relative path of plain names: it can be put in a URL and under a folder without leaving either.
pub(super) fn is_safe_path(text: &str) -> bool {
    text.split('/').all(|part| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+=".contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts() {
        let spec: Spec = "org/na-me.1@refs/pr/2:sub/m-00001-of-00002.gguf".parse().unwrap();
        assert_eq!(spec.repository, "org/na-me.1");
        assert_eq!((spec.revision.as_str(), spec.file.as_deref()), ("refs/pr/2", Some("sub/m-00001-of-00002.gguf")));
        for text in ["org/name", "org/name@v1", "org/name:a.gguf", "org/name@v1:a.gguf"] {
            assert_eq!(text.parse::<Spec>().unwrap().to_string(), text);
        }
        assert_eq!("org/name@main".parse::<Spec>().unwrap().to_string(), "org/name");
    }

    #[test]
    fn names_that_lead_astray() {
        for text in [
            "",
            "name",
            "a/b/c",
            "/a",
            "a/",
            "../b",
            "a/..",
            "a/b@",
            "a/b@../x",
            "a/b:",
            "a/b:../x",
            "a/b:/etc/passwd",
            "a/b:c/../d",
            "a/b c",
            "a\\b/c",
            "C:\\m/x",
            "./model.gguf",
            "a/b?x",
            "a/b@x#y",
            "a/ü",
            "a/b\n",
        ] {
            let error = text.parse::<Spec>().unwrap_err().to_string();
            assert!(error.contains("org/name"), "{error}");
        }
    }
}
